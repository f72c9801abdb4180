#!/usr/bin/env bash
# SmolLM2-135M-Instruct end to end: perplexity of a fixed text against llama.cpp's,
# lossless, nearly lossless and 4-bit formats.
# Usage: real_model_test.sh METAL_MARLIN SOURCE
set -euo pipefail
binary=$1 source=$2
model=$("$source/tools/fetch_smollm2.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# llama-perplexity -c 256 of llama.cpp (llama-cpp-python 0.3.36) on this file and text.
reference=66.7612

evaluate() { "$binary" eval "$@" --text "$source/tests/data/prose.txt" --context 256 --json; }
# check NAME: reads an evaluation and tests a Python condition over it.
check() {
  python3 -c '
import json, sys
result = json.load(sys.stdin)
ppl, ref = result["perplexity"], result.get("reference", {})
print(sys.argv[1], round(ppl, 4), ref)
sys.exit(0 if eval(sys.argv[2], {"ppl": ppl, "ref": ref, "abs": abs}) else 1)' "$1" "$2" ||
    { echo "FAILED: $1: $2" >&2; exit 1; }
}

evaluate "$model" --exact | check "source, exact" "abs(ppl / $reference - 1) < 0.005"
evaluate "$model" | check "source" "abs(ppl / $reference - 1) < 0.01"
for format in u4 int8 fp8-e4m3 fp4 nvfp4; do
  "$binary" quantize "$model" -o "$work/$format" --format $format > /dev/null
  case $format in
    u4) condition="ref['mean_kl'] < 1e-6 and ref['top1_agreement'] == 1" ;;  # the source lies on its grid
    int8 | fp8-e4m3) condition="abs(ppl / ref['perplexity'] - 1) < 0.015 and ref['mean_kl'] < 0.02" ;;
    *) condition="ref['mean_kl'] < 0.35" ;;
  esac
  evaluate "$work/$format" --reference "$model" --reference-cache "$work/reference" | check $format "$condition"
  rm -rf "${work:?}/$format"
done
