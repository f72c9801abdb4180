#!/usr/bin/env bash
# Quantizes SmolLM2-135M-Instruct to FP4 and lets it write.
# Usage: demo.sh
set -euo pipefail
here=$(dirname "$0")
"$here/install_dependencies.sh"
"$here/fetch_smollm2.sh" > /dev/null &  # while the program is built
fetching=$!
"$here/build_program.sh"
binary=$here/../build/user/bin/metal-marlin
wait $fetching || true  # it is tried again, and says last what is wrong
model=$("$here/fetch_smollm2.sh")
output=$(dirname "$binary")/../demo/SmolLM2-135M-Instruct-fp4
mkdir -p "$(dirname "$output")"
echo "== quantize"
"$binary" quantize "$model" -o "$output" --format fp4 --overwrite
echo
echo "== generate"
"$binary" generate "$output" -n 96 --temperature 0.6 --top-p 0.9 --repeat-penalty 1.1 --seed 3 \
  -p $'<|im_start|>user\nWrite a short story about a marlin who learns to swim very fast.<|im_end|>\n<|im_start|>assistant\n'
