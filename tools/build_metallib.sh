#!/usr/bin/env bash
# On macOS: every shader by Apple's compiler into one library, metal_marlin.metallib. Every shader is tried, so that
# one run shows all errors; the library is made only if there are none.
# Usage: build_metallib.sh [FOLDER], default build/metal
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/metal}
mkdir -p "$out"
rm -f "$out"/*.air "$out/metal_marlin.metallib"
failed=
count=0
for source in shaders/*.metal; do
  name=$(basename "$source" .metal)
  count=$((count + 1))
  xcrun -sdk macosx metal -std=metal3.1 -mmacosx-version-min=14.0 -fno-fast-math -Wall -Wextra -Wno-unused -Ishaders \
    -c "$source" -o "$out/$name.air" || failed="$failed $name"
done
[ -z "$failed" ] || { echo "not compiled:$failed" >&2; exit 1; }
xcrun -sdk macosx metallib "$out"/*.air -o "$out/metal_marlin.metallib"
echo "$out/metal_marlin.metallib: $count shaders"
