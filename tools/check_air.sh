#!/usr/bin/env bash
# Takes the metallibs of two packages on PyPI, for macOS 14 and 26: writes them again, which must give the same bytes,
# and lowers every kernel, counted by family. Only kernels that call Metal 4's tensor operations may fail.
# Usage: check_air.sh METAL_MARLIN_AIR METAL_MARLIN_TESTS
set -euo pipefail
air=$(realpath "$1") tests=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# check SYSTEM SHA256
check() {
  echo "mlx-metal==0.32.4 --hash=sha256:$2" > "$work/pinned.txt"
  python3 -m pip download -q --no-deps --require-hashes --only-binary=:all: --platform "macosx_$1_0_arm64" -d "$work/$1" -r "$work/pinned.txt"
  python3 -m zipfile -e "$work/$1"/mlx_metal-*.whl "$work/$1"
  echo "mlx.metallib of mlx-metal 0.32.4 for macOS $1"
  METAL_MARLIN_METALLIBS=$work/$1/mlx/lib/mlx.metallib "$tests" --gtest_brief=1 --gtest_filter='Metallib.*'
  "$air" check "$work/$1/mlx/lib/mlx.metallib" --names 3 > "$work/log" || true
  cat "$work/log"
  grep -E '^[0-9]+x ' "$work/log" | grep -v "Metal 4's tensor operations" && failed=1
  grep -qE '^[0-9]+ kernels, [0-9]+ lowered' "$work/log"
}

check 14 8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947
check 26 514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936
exit $failed
