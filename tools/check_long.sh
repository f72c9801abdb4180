#!/usr/bin/env bash
# Checks too long for CI; run by `make check-long`, which also fuzzes.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/install_dependencies.sh aarch64 lint
cmake --preset release
make lint
for preset in asan tsan aarch64; do
  cmake --preset $preset
  cmake --build --preset $preset
  ctest --preset $preset --parallel 2
done
tools/check_metal_cpp.sh
make build
tools/check_mutants.py
model=$(tools/fetch_smollm2.sh)
data=${METAL_MARLIN_DATA:-../shared/data}
if [ -e "$data/text/wikitext-2-test.txt" ]; then
  benchmarks/formats.py --binary build/release/bin/metal-marlin --model "$model" --text "$data/text/wikitext-2-test.txt"
  # A model larger than the memory it may take, killed on the way: about 5 GB of disk, most of an hour.
  work=$(mktemp -d)
  build/release/bin/metal-marlin quantize "$model" -o "$work/small"
  tools/make_random_model.py recipes/glm-4.7-flash.json "$work/small" "$work/slice" --layers 4
  tools/check_large_quantize.py --binary build/release/bin/metal-marlin --model "$work/slice" --out "$work/quantized" \
    --calibration "$data/text/wikitext-2-test.txt" --memory 3GiB -- --recipe glm-4.7-flash --method gptq
  rm -rf "$work"
else
  echo "skipped the table of formats: no text at $data/text/wikitext-2-test.txt (set METAL_MARLIN_DATA)"
fi
