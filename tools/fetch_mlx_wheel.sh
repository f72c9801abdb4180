#!/usr/bin/env bash
# The PyPI package mlx-metal, unpacked into FOLDER, by its hash: Apple's metal-cpp, MLX's kernel headers, and its library
# of compiled shaders, made for macOS SYSTEM, 14 or 26. pip's own settings hold: without a network, PIP_NO_INDEX=1
# PIP_FIND_LINKS=<a folder with the wheel>.
# Usage: fetch_mlx_wheel.sh FOLDER [SYSTEM]
set -euo pipefail
folder=$1 system=${2:-14}
case $system in
  14) hash=8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947 ;;
  26) hash=514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936 ;;
  *) echo "no wheel for macOS $system" >&2; exit 2 ;;
esac
[ -e "$folder/mlx/lib/mlx.metallib" ] && exit
mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "mlx-metal==0.32.4 --hash=sha256:$hash" > "$work/pinned.txt"
python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
  --platform "macosx_${system}_0_arm64" -d "$work" -r "$work/pinned.txt" >&2
python3 -m zipfile -e "$work"/mlx_metal-*.whl "$work/wheel"
rm -rf "$folder/mlx"
mv "$work/wheel/mlx" "$folder/mlx"
