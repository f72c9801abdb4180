# What the tests of the command line share. Sourced, with the arguments of the test: [EMULATOR] METAL_MARLIN.
set -euo pipefail
command=("$@")
run() { "${command[@]}" "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$TEST_DATA/fixtures/qwen3-tiny
fail() { echo "FAILED: $*" >&2; exit 1; }
# expect CODE TEXT ARGS...: the command must exit with CODE and print TEXT.
expect() {
  local code=$1 text=$2 found=0
  shift 2
  run "$@" > "$work/out" 2>&1 || found=$?
  [ "$found" = "$code" ] || { cat "$work/out"; fail "$* exited with $found, expected $code"; }
  grep -qF -- "$text" "$work/out" || { cat "$work/out"; fail "$* did not print '$text'"; }
}
# characters FOLDER: a copy of the model whose tokenizer's vocabulary is the printable characters.
characters() {
  cp -r "$model" "$1"
  python3 - "$1/tokenizer.json" << 'EOF'
import json, sys
vocabulary = {chr(c): i for i, c in enumerate(range(ord("!"), ord("~") + 1))}
level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
json.dump({"added_tokens": [], "decoder": level, "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
           "pre_tokenizer": level}, open(sys.argv[1], "w"))
EOF
}
