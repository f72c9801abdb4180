#!/usr/bin/env bash
# Installs the .deb of `make package` into a bare Debian 12, and quantizes and runs a model there. Needs root, and
# debootstrap; DEBIAN_MIRROR names where packages come from. Usage: check_package.sh
set -euo pipefail
cd "$(dirname "$0")/.."
make package
package=$(ls build/user/metal-marlin_*.deb)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
root=$(mktemp -d)
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase bookworm "$root" "$mirror" > "$root.log" || { tail "$root.log"; exit 1; }
rm "$root.log"
cp "$package" tests/data/fixtures/llama-tiny -r "$root/root/"
[ ! -d /etc/apt/apt.conf.d ] || cp /etc/apt/apt.conf.d/* "$root/etc/apt/apt.conf.d/" # a proxy, if there is one
chroot "$root" sh -euc "
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends /root/$(basename "$package") > /dev/null
  cd /root
  metal-marlin --version
  metal-marlin quantize llama-tiny -o small --format fp4
  echo '[1, 2, 3]' > ids.json
  metal-marlin generate small --prompt-ids ids.json -n 8"
