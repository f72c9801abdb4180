#!/usr/bin/env bash
# Installs what is missing of the packages that a build needs, and says so: Debian's, or on macOS Homebrew's. Without a
# part: what the program needs with its CPU backend, on macOS all.
# Usage: install_dependencies.sh [shaders] [tests] [fuzz] [aarch64] [lint] [libcxx] [page]
set -euo pipefail

if [ "$(uname)" = Darwin ]; then
  for part in "$@"; do
    case $part in
      shaders | tests) ;;  # always
      *) echo "on macOS there is no part $part" >&2; exit 2 ;;
    esac
  done
  missing=()
  for package in cmake ninja llvm@19 cli11 fmt nlohmann-json pcre2 utf8proc eigen protobuf openssl@3 zstd boost prometheus-cpp googletest \
    google-benchmark node; do
    brew list --versions "$package" > /dev/null 2>&1 || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || exit 0
  echo "installing: ${missing[*]}"
  exec brew install --quiet "${missing[@]}"
fi

packages=(g++ cmake ninja-build pkg-config make python3
  libcli11-dev libfmt-dev nlohmann-json3-dev libpcre2-dev libutf8proc-dev libeigen3-dev libprotobuf-dev protobuf-compiler
  libcurl4-openssl-dev libssl-dev libedit-dev libboost-dev prometheus-cpp-dev)
foreign=
for part in "$@"; do
  case $part in
    shaders) packages+=(clang-19 lld-19 llvm-19-dev libzstd-dev zstd) ;;
    tests) packages+=(libgtest-dev libbenchmark-dev nodejs curl openssl) ;;
    page) packages+=(chromium chromium-driver python3-selenium nodejs) ;;
    fuzz) packages+=(clang libclang-rt-14-dev) ;;
    libcxx) packages+=(libc++-19-dev libc++abi-19-dev) ;;
    lint) packages+=(clang-format clang-tidy) ;;
    aarch64)
      foreign=arm64
      packages+=(g++-aarch64-linux-gnu qemu-user-static libfmt-dev:arm64 libpcre2-dev:arm64 libutf8proc-dev:arm64 libprotobuf-dev:arm64
        libcurl4-openssl-dev:arm64 libssl-dev:arm64 libedit-dev:arm64 libzstd-dev:arm64 libgtest-dev:arm64)
      ;;
    *) echo "unknown part: $part" >&2; exit 2 ;;
  esac
done

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
if [ "$foreign" ] && ! dpkg --print-foreign-architectures | grep -qx $foreign; then
  echo "adding the Debian architecture $foreign"
  as_root dpkg --add-architecture $foreign
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
