#!/usr/bin/env bash
# What goes wrong outside of the program: outputs that cannot be written, inputs that are not files, limits of the
# system, results that would take their sources' place, and results that are none.
# Usage: TEST_DATA=folder [LIMITS=1] failures_test.sh [EMULATOR] METAL_MARLIN
# LIMITS: address spaces are limited here, and the program runs in a small one (no sanitizer, no emulator).
# shellcheck source=tests/cli/common.sh
source "$(dirname "$0")/common.sh"
characters "$work/text"
echo '[5, 17, 200, 3]' > "$work/ids.json"
for i in $(seq 60); do echo -n "line-$((i * 7919)):pack-my-box-with-five-dozen-liquor-jugs;"; done > "$work/text.txt"
# code_of ARGS...: the exit code.
code_of() {
  local code=0
  "$@" || code=$?
  echo "$code"
}

# The standard output: full where there is such a device, or closed.
full() {
  if [ -e /dev/full ]; then run "$@" > /dev/full 2> "$work/err"; else run "$@" >&- 2> "$work/err"; fi
}
generate=(generate "$work/text" -p hi -n 2 --ignore-eos)
for arguments in "--help" "--version" "inspect $model" "inspect $model --json" "tokenize $work/text -f $work/ids.json" \
  "generate $model --prompt-ids $work/ids.json -n 2 --json" "shaders list"; do
  # shellcheck disable=SC2086
  [ "$(code_of full $arguments)" = 6 ] || fail "$arguments: a full standard output is no error"
  grep -q "standard output: cannot write" "$work/err" || { cat "$work/err"; fail "$arguments: no message"; }
done
[ "$(code_of full "${generate[@]}")" = 6 ] || fail "generate: a full standard output is no error"
# A pipe whose reader is gone.
{ sleep 0.3; run inspect "$model" 2> "$work/err" || echo $? > "$work/code"; } | true
[ "$(cat "$work/code")" = 6 ] || fail "a pipe that nobody reads is no error"
# Messages that cannot be written are lost; the exit code is not.
if [ -e /dev/full ]; then
  mute() { run "$@" > /dev/null 2> /dev/full; }
  [ "$(code_of mute inspect "$work/none")" = 3 ] || fail "a full standard error changes the exit code"
  [ "$(code_of mute "${generate[@]}")" = 0 ] || fail "a full standard error ends the work"
fi

# A limit on the size of files: a message, and nothing half-written.
limited() { (ulimit -f 20 && run "$@" > /dev/null 2> "$work/err"); }
[ "$(code_of limited quantize "$model" -o "$work/limited" --format s4)" = 6 ] || fail "no error of a file that is too large"
grep -q "File too large" "$work/err" || { cat "$work/err"; fail "no message of a file that is too large"; }
python3 -c 'print(list(range(100)))' > "$work/many.json"
[ "$(code_of limited logits "$model" --ids "$work/many.json" -o "$work/limited.safetensors")" = 6 ] ||
  fail "no error of logits that are too large"
! compgen -G "$work/limited*" > /dev/null || fail "left: $(echo "$work"/limited*)"
# A standard output that is closed is not taken for an output file.
if [ $# = 1 ]; then
  closed() { run "$@" >&- 2> /dev/null; }
  run quantize "$model" -o "$work/open" --format s4 > /dev/null
  [ "$(code_of closed quantize "$model" -o "$work/closed" --format s4)" = 6 ] || fail "a closed output is no error"
  for file in "$work/open"/*.safetensors; do cmp "$file" "$work/closed/${file##*/}"; done
fi

# Texts: a pipe is one, and is read once; a folder is none, and is no internal error.
echo -n hello > "$work/prompt"
generated=$(run generate "$work/text" --prompt-file "$work/prompt" -n 4 2> /dev/null)
[ "${generated#hello}" != "$generated" ] || fail "the prompt is not printed"
[ "$(run generate "$work/text" --prompt-file - -n 4 < "$work/prompt" 2> /dev/null)" = "$generated" ] ||
  fail "a prompt of the standard input gives something else"
mkfifo "$work/pipe"
cat "$work/prompt" > "$work/pipe" &
[ "$(run generate "$work/text" --prompt-file "$work/pipe" -n 4 2> /dev/null)" = "$generated" ] ||
  fail "a prompt of a pipe gives something else"
cat "$work/text.txt" > "$work/pipe" &
expect 0 "perplexity" eval "$work/text" --text "$work/pipe" --context 64 --max-tokens 128
cat "$work/text.txt" > "$work/pipe" &
expect 0 "wrote" quantize "$work/text" -o "$work/calibrated" --format int3 --method gptq --calibration "$work/pipe"
for text in "$work/pipe" -; do
  expect 2 "which can be read once" quantize "$work/text" -o "$work/x" --format int3 --method gptq \
    --calibration "$text" --evaluate "$text"
done
expect 6 "not a regular file" tokenize "$work/text" -f "$work"
expect 6 "standard input: not a regular file" tokenize "$work/text" -f - < "$work"
expect 6 "not a regular file" generate "$work/text" --prompt-file "$work"
expect 6 "not a regular file" generate "$work/text" --prompt-ids "$work"
expect 6 "not a regular file" eval "$work/text" --text "$work"
expect 6 "not a regular file" quantize "$work/text" -o "$work/x" --method gptq --calibration "$model"
expect 6 "not a regular file" quantize "$work/text" -o "$work/x" --recipe "$model"
expect 6 "not a regular file" inspect "$work/pipe"
expect 2 "longer than" tokenize "$work/text" -f /dev/zero
expect 3 "cannot open" tokenize "$work/text" -f "$work/none"
cp -r "$work/text" "$work/short"
sed 's/"max_position_embeddings": 4096/"max_position_embeddings": 8/' "$model/config.json" > "$work/short/config.json"
expect 0 "more than the model's context of 8" generate "$work/short" --prompt-ids "$work/ids.json" -n 8 --ignore-eos
expect 0 "more than the model's context of 8" eval "$work/short" --text "$work/text.txt" --context 16 --max-tokens 64
expect 2 "has no tokens" generate "$work/text" --prompt-file /dev/null

# A request to end is followed by a command that does not ask for it, too, as while it reads.
cp -r "$model" "$work/slow" && cp "$TEST_DATA/tokenizers/smollm.json" "$work/slow/tokenizer.json"
python3 -c 'print("pack-my-box-" * 4000000)' > "$work/long.txt"
for signal in TERM INT; do
  code=0
  "${command[@]}" tokenize "$work/slow" -f "$work/pipe" > "$work/out" 2> "$work/err" &
  cat "$work/long.txt" > "$work/pipe"  # until all is read: it works on it from now on
  sleep 0.2
  kill -$signal $!
  wait $! || code=$?
  [ $code = 130 ] || fail "SIG$signal: exit code $code, not that of an interrupted command"
  grep -q interrupted "$work/err" || fail "SIG$signal: no message"
  [ ! -s "$work/out" ] || fail "SIG$signal: the command did all of its work"
done
rm -r "$work/long.txt" "$work/slow"

# Names from outside are no commands to a terminal.
expect 3 '\x1b[31mnone' inspect "$work/$(printf '\033')[31mnone"

# What is read is not written over.
refused() { expect 2 "the source" "$@"; }
cp -r "$model" "$work/source"
ln -s source "$work/link"
mkdir -p "$work/hub/snapshots/1" && cp -r "$model" "$work/hub/blobs"  # as a hub's cache is, of links
ln -s ../../blobs/model.safetensors ../../blobs/config.json "$work/hub/snapshots/1"
for output in source source/ ./source source/. link source/../source source/inside link/inside; do
  refused quantize "$work/source" -o "$work/$output" --overwrite
done
refused quantize "$work/link" -o "$work/source" --overwrite
refused quantize "$work/source" -o "$work" --overwrite
refused quantize "$work/hub/snapshots/1" -o "$work/hub/blobs" --overwrite
(cd "$work/source" && refused quantize . -o . --overwrite)
(cd "$work/source" && refused quantize . -o ../source --overwrite)
ln -s source/new "$work/dangling"
refused quantize "$work/source" -o "$work/dangling"
cp -r "$model" "$work/q.partial-abc"
refused quantize "$work/q.partial-abc" -o "$work/q"
mkdir "$work/old"
cp "$work/text.txt" "$work/old"
refused quantize "$work/text" -o "$work/old" --overwrite --method gptq --calibration "$work/old/text.txt"
refused quantize "$work/text" -o "$work/old" --overwrite --evaluate "$work/old/text.txt"
refused logits "$work/source" --ids "$work/ids.json" -o "$work/source/model.safetensors"
refused logits "$work/source" --ids "$work/ids.json" -o "$work/ids.json"
refused logits "$work/source" --ids "$work/ids.json" -o "$work/link/logits.safetensors"
ln "$work/source/model.safetensors" "$work/hard"
refused logits "$work/source" --ids "$work/ids.json" -o "$work/hard"
refused eval "$work/text" --text "$work/text.txt" --context 64 --reference "$work/source" \
  --reference-cache "$work/source/model.safetensors"
refused compare "$work/text" "$work/source" --text "$work/text.txt" --plot "$work/source/plot.svg"
expect 2 "not a regular file" logits "$work/source" --ids "$work/ids.json" -o "$work/old"
expect 2 "not a regular file" logits "$work/source" --ids "$work/ids.json" -o /dev/null
[ ! -f /dev/null ] || fail "/dev/null was replaced"
expect 2 "not a folder" quantize "$work/source" -o "$work/text.txt" --overwrite
for file in "$model"/*; do cmp "$file" "$work/source/${file##*/}" || fail "a source changed"; done
cmp "$work/text.txt" "$work/old/text.txt" || fail "a text changed"

# An evaluation of nothing, windows that leave tokens out, numbers that are none.
echo -n x > "$work/one.txt"
expect 2 "nothing can be scored" eval "$work/text" --text "$work/one.txt" --context 8 --stride 4
expect 2 "nothing can be scored" eval "$work/text" --text "$work/one.txt" --context 8
expect 2 "nothing can be scored" eval "$work/text" --text "$work/text.txt" --context 2
expect 2 "nothing can be scored" quantize "$work/text" -o "$work/x" --evaluate "$work/one.txt"
expect 2 "stride is 65" eval "$work/text" --text "$work/text.txt" --context 64 --stride 65
# changed NAME NUMBER: the model with all of a tensor's numbers replaced.
changed() {
  cp -r "$work/text" "$work/changed-$2"
  python3 - "$work/changed-$2/model.safetensors" "$1" "$2" << 'PYTHON'
import json, struct, sys
path, name, number = sys.argv[1:]
data = bytearray(open(path, "rb").read())
size = struct.unpack("<Q", data[:8])[0]
entry = json.loads(data[8:8 + size])[name]
assert entry["dtype"] == "BF16", entry
begin, end = (8 + size + at for at in entry["data_offsets"])
data[begin:end] = struct.pack("<f", float(number))[2:] * ((end - begin) // 2)
open(path, "wb").write(data)
PYTHON
}
norm=model.layers.1.input_layernorm.weight
changed $norm 3e38
for arguments in "generate $work/changed-3e38 -p hi -n 2 --json" "eval $work/changed-3e38 --text $work/text.txt --context 64" \
  "logits $work/changed-3e38 --ids $work/ids.json -o $work/logits.safetensors --exact" \
  "quantize $work/changed-3e38 -o $work/x --format int3 --method gptq --calibration $work/text.txt"; do
  # shellcheck disable=SC2086
  expect 4 "$norm" $arguments
done
[ ! -e "$work/logits.safetensors" ] || fail "logits that are not finite were written"
changed model.layers.0.mlp.up_proj.weight 1e30
expect 5 "tensor model.layers.0.mlp.up_proj.weight: weights are too large" quantize "$work/changed-1e30" -o "$work/x" --format s4
[ ! -e "$work/x" ] || fail "something was written"

# Options that may be repeated take one value each.
expect 0 "wrote" quantize --exclude up_proj --include q_proj "$model" -o "$work/some" --format s4
expect 0 '"stop_reason"' generate --stop a --stop b "$work/text" -p hi -n 1 --json

# Threads or memory that the system does not give.
if [ -n "${LIMITS:-}" ]; then
  small() { (ulimit -v "$1" && shift && run "$@" > /dev/null 2> "$work/err"); }
  [ "$(code_of small 4000000 generate "$work/text" -p hi -n 1 --threads 4000)" = 7 ] || { cat "$work/err"; fail "threads"; }
  grep -q "^error: .*threads" "$work/err" || { cat "$work/err"; fail "no message of threads"; }
  # From where the loader finds room for the program's libraries, in KiB: what is below that it says itself.
  least=1000
  for step in 512000 256000 128000 64000 32000 16000 8000 4000 2000 1000 500 250 125; do
    [ "$(code_of small $((least + step)) --version)" = 0 ] || least=$((least + step))
  done
  for more in $(seq -375 25 400) 1000 4000 16000 64000; do
    code=$(code_of small $((least + more)) generate "$work/text" -p hi -n 1 --threads 16)
    case $code in
      0) ;;
      7) grep -q "^error: ." "$work/err" || fail "$((least + more)) KiB: no message of memory" ;;
      127) [ "$more" -lt 0 ] || fail "$((least + more)) KiB: the loader failed" ;;
      *) cat "$work/err"; fail "$((least + more)) KiB: exit code $code" ;;
    esac
  done
fi
echo "all tests of failures passed"
