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
else
  echo "skipped the table of formats: no text at $data/text/wikitext-2-test.txt (set METAL_MARLIN_DATA)"
fi
