#!/usr/bin/env bash
# Installs what is missing of the Debian packages that a build needs, and says so.
# Usage: install_dependencies.sh [fuzz] [aarch64] [lint]
set -euo pipefail

packages=(g++ clang-19 cmake ninja-build pkg-config make python3
  libcli11-dev libfmt-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev libeigen3-dev libprotobuf-dev protobuf-compiler
  libcurl4-openssl-dev libssl-dev libgtest-dev libbenchmark-dev)
foreign=()
for part in "$@"; do
  case $part in
    fuzz) packages+=(clang libclang-rt-14-dev) ;;
    lint) packages+=(clang-format clang-tidy) ;;
    aarch64)
      packages+=(g++-aarch64-linux-gnu qemu-user-static)
      foreign+=(libfmt-dev:arm64 libpcre2-dev:arm64 libutf8proc-dev:arm64 libprotobuf-dev:arm64
        libcurl4-openssl-dev:arm64 libssl-dev:arm64 libgtest-dev:arm64)
      ;;
    *) echo "unknown part: $part" >&2; exit 2 ;;
  esac
done

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
if [ ${#foreign[@]} -gt 0 ] && ! dpkg --print-foreign-architectures | grep -qx arm64; then
  echo "adding the Debian architecture arm64"
  "${sudo[@]}" dpkg --add-architecture arm64
fi

missing=()
for package in "${packages[@]}" "${foreign[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
