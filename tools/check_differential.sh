#!/usr/bin/env bash
# MLX's kernels by our toolchain beside the same text by Apple's compiler, over random shapes and data; and that faults
# planted in our toolchain are found. Templates that only MLX's .metal files have need a checkout of MLX, named by
# METAL_MARLIN_MLX. Needs python3-numpy.
# Usage: check_differential.sh [OPTION...] of tools/differential/differential.py
set -euo pipefail
cd "$(dirname "$0")/.."
tools/fetch_mlx_wheel.sh build/mlx-wheel
air=build/release/bin/metal-marlin-air
[ -x "$air" ] || make build
status=0
for part in "" --planted; do
  # shellcheck disable=SC2086
  python3 tools/differential/differential.py --wheel build/mlx-wheel --air "$air" $part "$@" || status=$?
done
exit $status
