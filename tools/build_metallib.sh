#!/usr/bin/env bash
# On macOS: every shader by Apple's compiler into one library, build/metal/metal_marlin.metallib.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/metal}
mkdir -p "$out"
for source in shaders/*.metal; do
  xcrun -sdk macosx metal -std=metal3.1 -mmacosx-version-min=14.0 -fno-fast-math -Wall -Wextra -Wno-unused -Ishaders -c "$source" \
    -o "$out/$(basename "$source" .metal).air"
done
xcrun -sdk macosx metallib "$out"/*.air -o "$out/metal_marlin.metallib"
echo "$out/metal_marlin.metallib: $(ls "$out"/*.air | wc -l) shaders"
