#!/usr/bin/env bash
# Takes the metallibs of two packages on PyPI, for macOS 14 and 26: writes them again, which must give the same bytes,
# and lowers every kernel, counted by family. Only kernels that call Metal 4's tensor operations may fail.
# Usage: check_air.sh METAL_MARLIN_AIR METAL_MARLIN_TESTS
set -euo pipefail
air=$(realpath "$1") tests=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# check SYSTEM
check() {
  "$(dirname "$0")/fetch_mlx_wheel.sh" "$work/$1" "$1"
  echo "mlx.metallib of mlx-metal for macOS $1"
  METAL_MARLIN_METALLIBS=$work/$1/mlx/lib/mlx.metallib "$tests" --gtest_brief=1 --gtest_filter='Metallib.*'
  "$air" check "$work/$1/mlx/lib/mlx.metallib" --names 3 > "$work/log" || true
  cat "$work/log"
  grep -E '^[0-9]+x ' "$work/log" | grep -v "Metal 4's tensor operations" && failed=1
  grep -qE '^[0-9]+ kernels, [0-9]+ lowered' "$work/log"
}

check 14
check 26
exit $failed
