#!/usr/bin/env bash
# The command line, end to end, on the committed fixtures.
# Usage: TEST_DATA=folder cli_test.sh [EMULATOR] METAL_MARLIN
# shellcheck source=tests/cli/common.sh
source "$(dirname "$0")/common.sh"

expect 0 "Examples:" --help
for name in quantize generate embed tokenize render logits inspect eval compare pull models chat status tune; do expect 0 "Example" $name --help; done
expect 0 '"formats"' status --json
expect 2 "" nonsense
expect 2 "required" quantize "$model"
expect 2 "unknown format 'q4_k'; known formats: fp4, mxfp4" quantize "$model" -o "$work/x" --format q4_k
expect 2 "format mxfp4: group is 64, expected 32" quantize "$model" -o "$work/x" --format mxfp4 --group 64
expect 3 "no such file or folder" inspect "$work/none"
cp -r "$model" "$work/unknown" && sed 's/"qwen3"/"mamba"/' "$model/config.json" > "$work/unknown/config.json"
expect 5 "mamba is not one we implement" generate "$work/unknown" -p x
moe=$TEST_DATA/fixtures/glm4-moe-lite-tiny
expect 0 "model.layers.*.mlp.experts.*.up_proj.weight" quantize "$moe" -o "$work/moe" --format int3
expect 0 '"format": "int2"' quantize "$moe" -o "$work/moe" --overwrite --recipe glm-4.7-flash --json
expect 2 "neither a file nor one of" quantize "$moe" -o "$work/x" --recipe none
expect 2 "excludes" quantize "$moe" -o "$work/x" --recipe qwen3-4b --format fp4

expect 0 "model.layers.*.mlp.up_proj.weight" quantize "$model" -o "$work/fp4" --format fp4
expect 2 "exists already" quantize "$model" -o "$work/fp4" --format fp4
expect 0 '"quant_method": "metal-marlin"' quantize "$model" -o "$work/fp4" --overwrite --json
expect 0 '"format": "fp4"' inspect "$work/fp4" --json
expect 0 "bits/weight" inspect "$work/fp4"
expect 0 "in memory: weights" inspect "$work/fp4"

echo '[5, 17, 200, 3]' > "$work/ids.json"
expect 0 '"stop_reason": "length"' generate "$work/fp4" --prompt-ids "$work/ids.json" -n 5 --ignore-eos --json
expect 3 "has no tokenizer" generate "$work/fp4" -p hello
# What was measured on a device is kept, and taken.
unset METAL_MARLIN_CACHE
export XDG_CACHE_HOME="$work/cache"
expect 0 "products kept in $work/cache/metal-marlin/tuned.json" tune "$work/fp4" --backend msl-host --tokens 1
expect 0 '"stop_reason": "length"' generate "$work/fp4" --backend msl-host --prompt-ids "$work/ids.json" -n 2 --ignore-eos --json
expect 2 "cpu, which has no kernels to choose among" tune "$work/fp4" --backend cpu
echo '{"x": [1]}' > "$work/cache/metal-marlin/tuned.json"
expect 4 "tuned.json: field x" generate "$work/fp4" --backend msl-host --prompt-ids "$work/ids.json" -n 1
unset XDG_CACHE_HOME
expect 2 "token id 99999 is outside the vocabulary" generate "$work/fp4" --prompt-ids <(echo '[99999]')
expect 2 "expected a JSON list of token ids" generate "$work/fp4" --prompt-ids <(echo '{"a": 1}')
expect 2 "top-p is 2" generate "$work/fp4" --prompt-ids "$work/ids.json" --top-p 2
# The seed decides, whatever the number of threads.
a=$(run generate "$work/fp4" --prompt-ids "$work/ids.json" -n 20 --temperature 1 --seed 3 --threads 1 --ignore-eos --json | grep -A30 '"tokens"' | sed '/\]/q')
b=$(run generate "$work/fp4" --prompt-ids "$work/ids.json" -n 20 --temperature 1 --seed 3 --threads 3 --ignore-eos --json | grep -A30 '"tokens"' | sed '/\]/q')
[ "$a" = "$b" ] || fail "threads changed a sample"
# Guesses change no answer, and are told.
c=$(run generate "$work/fp4" --prompt-ids "$work/ids.json" -n 20 --temperature 1 --seed 3 --draft "$work/fp4" --ignore-eos --json | grep -A30 '"tokens"' | sed '/\]/q')
[ "$a" = "$c" ] || fail "a draft changed a sample"
expect 0 '"draft_tokens": ' generate "$work/fp4" --prompt-ids "$work/ids.json" -n 20 --speculate ngram --ignore-eos --json
expect 2 "give --speculate ngram or --draft, not both" generate "$work/fp4" --prompt-ids "$work/ids.json" --speculate ngram --draft "$work/fp4"
expect 2 "give --speculate auto or --draft, not both" generate "$work/fp4" --prompt-ids "$work/ids.json" --speculate auto --draft "$work/fp4"
expect 2 "has no layers that predict the next tokens" generate "$work/fp4" --prompt-ids "$work/ids.json" --speculate mtp
echo "[5, 6, 7, 8, 9, 10]" > "$work/mtp.json"
for kind in off mtp auto; do
  run generate "$TEST_DATA/fixtures/glm4-mtp" --prompt-ids "$work/mtp.json" -n 40 --exact --speculate "$kind" --ignore-eos --json > "$work/mtp-$kind.json"
  grep -A60 '"tokens"' "$work/mtp-$kind.json" | sed '/\]/q' > "$work/mtp-$kind.tokens"
  cmp -s "$work/mtp-off.tokens" "$work/mtp-$kind.tokens" || fail "--speculate $kind changed an answer"
done
expect 2 "has another vocabulary than" generate "$work/fp4" --prompt-ids "$work/ids.json" --draft "$TEST_DATA/fixtures/llama-yarn"
run logits "$work/fp4" --ids "$work/ids.json" -o "$work/logits.safetensors"
[ "$(wc -c < "$work/logits.safetensors")" -gt $((4 * 512 * 4)) ] || fail "logits file is too small"
[ ! -e "$work/logits.safetensors.partial" ] || fail "a partial file was left"
expect 3 "has no tokenizer" eval "$work/fp4" --text "$work/ids.json"

# With a tokenizer: text in, text out, evaluation.
cp -r "$model" "$work/text" && cp "$TEST_DATA/tokenizers/smollm.json" "$work/text/tokenizer.json"
ids=$(echo -n 'dogs are sleeping' | run tokenize "$work/text" --json)
[ "$(echo "$ids" | run tokenize "$work/text" --decode)" = "dogs are sleeping" ] || fail "tokenize does not round-trip"

# Chat templates, alone and around a prompt.
echo '[{"role": "user", "content": "dogs are sleeping"}]' > "$work/chat.json"
# shellcheck disable=SC2016
printf '%s' '{{ bos_token }}{% for m in messages %}{{ raise_exception("no critics") if m.role == "critic" }}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ extra }}{{ strftime_now("%d %b %Y") }}{% endif %}' > "$work/chat.jinja"
[ "$(run render "$work/chat.jinja" --messages "$work/chat.json" --bos '<s>' --set extra=5 --now 2026-03-04T05:06:07)" = \
  $'<s><|im_start|>user\ndogs are sleeping<|im_end|>\n<|im_start|>assistant504 Mar 2026' ] || fail "render"
expect 2 "chat.jinja, line 1: no critics" render "$work/chat.jinja" --messages <(echo '[{"role": "critic"}]')
expect 2 "messages: not JSON at byte" render "$work/chat.jinja" --messages <(echo '[')
expect 2 "--set x: expected NAME=VALUE" render "$work/chat.jinja" --messages "$work/chat.json" --set x
for name in messages tools documents add_generation_prompt continue_final_message bos_token eos_token pad_token; do
  expect 2 "--set $name=[]: $name is not a variable to be set" render "$work/chat.jinja" --messages "$work/chat.json" --set "$name=[]"
done
expect 2 "expected a time like" render "$work/chat.jinja" --messages "$work/chat.json" --now today
expect 3 "no chat template; --chat-template takes one" render "$work/text" --messages "$work/chat.json"
expect 2 "need --chat" generate "$work/text" -p dogs --system x
cp "$work/chat.jinja" "$work/text/chat_template.jinja"
expect 0 "dogs are sleeping" render "$work/text" --messages "$work/chat.json"
characters "$work/chat" && cp "$work/chat.jinja" "$work/chat/chat_template.jinja"
rendered=$(run render "$work/chat" --messages "$work/chat.json" --now 2026-03-04T05:06:07 | run tokenize "$work/chat" --json)
expect 0 "\"prompt_tokens\": $(echo "$rendered" | tr , '\n' | wc -l)," \
  generate "$work/chat" --chat -p 'dogs are sleeping' --now 2026-03-04T05:06:07 -n 1 --json
expect 2 "messages is not a variable to be set" generate "$work/chat" --chat -p 'dogs' --set 'messages=[]' -n 1
for i in $(seq 60); do echo "dogs-are-sleeping-$i"; done > "$work/dogs.txt"
expect 0 "perplexity" eval "$work/chat" --chat --text "$work/dogs.txt" --context 32

# Methods that need a text, on a vocabulary of printable characters, and what became of the model.
characters "$work/characters"
for i in $(seq 60); do echo -n "line-$((i * 7919)):pack-my-box-with-five-dozen-liquor-jugs;"; done > "$work/text.txt"
expect 2 "method gptq needs a calibration text" quantize "$work/characters" -o "$work/x" --method gptq
expect 2 "method magic: expected one of rtn, rtn-weighted, gptq, mr-gptq" quantize "$work/characters" -o "$work/x" --method magic
expect 0 '"output_error_rtn"' quantize "$work/characters" -o "$work/gptq" --format int3 --method gptq --calibration "$work/text.txt" --json
expect 0 "perplexity" quantize "$work/characters" -o "$work/measured" --format int8 --evaluate "$work/text.txt"
grep -q '"mean_kl"' "$work/measured/quantization_report.json" || fail "the report does not tell what was measured"
grep -q "mean KL divergence" "$work/measured/quantization_report.html" || fail "the page does not tell what was measured"
expect 0 "rtn-weighted" quantize "$work/characters" -o "$work/weighted" --format int3 --method rtn-weighted --calibration "$work/text.txt"
grep -q '"method": "gptq"' "$work/gptq/quantization_report.json" && grep -q '<svg' "$work/gptq/quantization_report.html" || fail "no report"
expect 0 "reference perplexity" compare "$work/characters" "$work/gptq" "$work/weighted/" --text "$work/text.txt" --context 64 \
  --max-tokens 600 --plot "$work/plot.svg"
grep -q 'weighted</text>' "$work/plot.svg" || fail "no plot"
expect 0 '"kv_cache": "int8"' eval "$work/characters" --text "$work/text.txt" --context 64 --kv-cache int8 --reference "$work/characters" --json
eval_cached=(eval "$work/gptq" --text "$work/text.txt" --context 64 --json --reference-cache "$work/reference")
kl_of() { run "$@" | grep mean_kl; }
kl=$(kl_of "${eval_cached[@]}" --reference "$work/characters")
[ "$(kl_of "${eval_cached[@]}")" = "$kl" ] || fail "kept logits of the reference give another divergence"
expect 2 "holds logits for" "${eval_cached[@]}" --stride 32
expect 2 "cache of int5: expected one of f16, f32, fp8, int8, int4, fp4" eval "$work/characters" --text "$work/text.txt" --kv-cache int5
expect 0 '"mean_kl"' compare "$work/characters" "$work/gptq" --text "$work/text.txt" --context 64 --json
expect 2 "ends in .svg" compare "$work/characters" "$work/gptq" --text "$work/text.txt" --plot x.png

# A prompt's keys and values in a file: what is new is computed, and the answer is the same.
kept=$work/kept.cache
seq -s, 1 40 | sed 's/.*/[&]/' > "$work/forty.json"
seq -s, 1 60 | sed 's/.*/[&]/' > "$work/sixty.json"
(seq 1 30; seq 100 129) | paste -sd, | sed 's/.*/[&]/' > "$work/other.json"
kept_run() { ids=$1; shift; run generate "$work/fp4" --prompt-ids "$work/$ids.json" -n 8 --exact --ignore-eos --json "$@"; }
drawn() { grep -A30 '"tokens"' | sed '/\]/q'; }
cached() { kept_run "$@" > "$work/kept.json"; grep -o '"cached_tokens": [0-9]*' "$work/kept.json"; }
expect 3 "kept.cache" generate "$work/fp4" --prompt-ids "$work/forty.json" --prompt-cache "$kept" --prompt-cache-ro
expect 2 "--prompt-cache-ro requires --prompt-cache" generate "$work/fp4" --prompt-ids "$work/forty.json" --prompt-cache-ro
[ "$(cached forty --prompt-cache "$kept")" = '"cached_tokens": 0' ] || fail "a file that was not there had tokens"
[ "$(find "$kept" -perm 600)" = "$kept" ] || fail "others may read a prompt's file"
for ids in forty sixty sixty other; do
  case $ids in forty) have=39 ;; other) have=30 ;; *) have=$([ -e "$work/grown" ] && echo 59 || echo 40); touch "$work/grown" ;; esac
  [ "$(cached "$ids" --prompt-cache "$kept")" = "\"cached_tokens\": $have" ] || fail "$ids: $(cat "$work/kept.json")"
  [ "$(drawn < "$work/kept.json")" = "$(kept_run "$ids" | drawn)" ] || fail "a prompt's file changed the answer to $ids"
done
# The last one was written; now nothing is, and what the file cannot be used for is said.
cp "$kept" "$work/before.cache"
[ "$(cached sixty --prompt-cache "$kept" --prompt-cache-ro)" = '"cached_tokens": 30' ] || fail "$(cat "$work/kept.json")"
cmp "$kept" "$work/before.cache" || fail "--prompt-cache-ro wrote"
grep -q '"cached_tokens": 59' <(kept_run other --prompt-cache "$kept" --speculate ngram) || fail "guesses forgot the file"
other_than=(--prompt-ids "$work/sixty.json" --prompt-cache "$kept")
expect 2 "activations is exact, expected rounded" generate "$work/fp4" "${other_than[@]}"
expect 2 "kv_cache is f32, expected int8" generate "$work/fp4" "${other_than[@]}" --exact --kv-cache int8
expect 2 "a sequence of another model: weights is" generate "$model" "${other_than[@]}" --exact
head -c 3000 "$work/before.cache" > "$kept"
expect 4 "kept.cache: tensor" generate "$work/fp4" "${other_than[@]}" --exact
expect 6 "not a regular file" generate "$work/fp4" --prompt-ids "$work/sixty.json" --prompt-cache /dev/null --prompt-cache-ro
rm "$kept"

# An adapter beside the weights, and in them.
lora=$TEST_DATA/adapters/qwen3-tiny-regex
tokens() { run generate "$@" --prompt-ids "$work/ids.json" -n 20 --exact --ignore-eos --json | grep -A30 '"tokens"' | sed '/\]/q'; }
expect 0 "wrote" quantize "$model" -o "$work/merged" --format int8 --exclude '.*' --embedding-format keep --merge-lora "$lora"
[ "$(tokens "$model" --lora "$lora")" = "$(tokens "$work/merged")" ] || fail "a merged adapter differs"
[ "$(tokens "$model" --lora "$lora")" != "$(tokens "$model" --lora "$lora:0.5")" ] || fail "an adapter's scale changes nothing"
[ "$(tokens "$model" --lora "$lora:0")" = "$(tokens "$model")" ] || fail "a scale of 0 changes something"
cached forty --lora "$lora" --prompt-cache "$kept" > /dev/null
[ "$(cached sixty --lora "$lora:1" --prompt-cache "$kept" --prompt-cache-ro)" = '"cached_tokens": 40' ] || fail "an adapter's file is not found"
expect 2 "which was not loaded" generate "$work/fp4" --prompt-ids "$work/sixty.json" --exact --lora "$lora:0.5" --prompt-cache "$kept"
run generate "$work/fp4" --prompt-ids "$work/forty.json" -n 1 --prompt-cache "$work/plain.cache" > /dev/null
expect 2 "a sequence of another adapter: it is none, expected" generate "$work/fp4" --prompt-ids "$work/forty.json" --lora "$lora" --prompt-cache "$work/plain.cache"
expect 2 "no such folder, and x is no scale" generate "$model" --prompt-ids "$work/ids.json" --lora "$lora:x"
expect 3 "adapter_config.json is missing" quantize "$model" -o "$work/x" --format fp4 --merge-lora "$model"
expect 5 "both the embedding and the head" quantize "$model" -o "$work/x" --format fp4 --merge-lora "$TEST_DATA/adapters/qwen3-tiny-embedding"
# A quantization killed at any moment leaves no folder that is taken for a model.
for delay in 0.002 0.005 0.01 0.02 0.03 0.05 0.08; do
  "${command[@]}" quantize "$model" -o "$work/killed" --format int3 > /dev/null 2>&1 &
  pid=$!
  sleep $delay
  kill -KILL $pid 2> /dev/null || true
  wait $pid 2> /dev/null || true
  if [ -e "$work/killed" ]; then
    run generate "$work/killed" --prompt-ids "$work/ids.json" -n 1 --json > /dev/null || fail "an incomplete folder appeared"
    rm -rf "$work/killed"
  fi
  for partial in "$work"/killed.partial-*; do
    [ -e "$partial" ] && [ ! -e "$partial/config.json" ] || continue
    ! run inspect "$partial" > /dev/null 2>&1 || fail "a partial folder was taken for a model"
  done
done
expect 0 "wrote" quantize "$model" -o "$work/killed" --format int3
! compgen -G "$work/killed.partial-*" > /dev/null || fail "a partial folder was left"
# One with a text, killed again and again, goes on to what one run writes.
gptq=(quantize "$work/characters" --format int3 --method gptq --calibration "$work/text.txt" --overwrite)
for delay in 0.05 0.1 0.15 0.2 0.25; do
  "${command[@]}" "${gptq[@]}" -o "$work/resumed" > /dev/null 2>&1 &
  pid=$!
  sleep $delay
  kill -KILL $pid 2> /dev/null || true
  wait $pid 2> /dev/null || true
done
expect 0 "wrote" "${gptq[@]}" -o "$work/resumed"
for file in "$work/gptq"/*.safetensors; do cmp "$file" "$work/resumed/${file##*/}" || fail "a resumed run differs"; done
expect 2 "memory: 16 MiB are allowed" "${gptq[@]}" -o "$work/x" --memory 16MiB
expect 2 "rotation in blocks of 128 does not divide" quantize "$work/characters" -o "$work/x" --format int3 --method mr-gptq --rotation 128 --calibration "$work/text.txt"
expect 0 "s4 2:4" quantize "$work/characters" -o "$work/sparse" --format s4 --sparsity 2:4 --method gptq --calibration "$work/text.txt"
expect 0 "s4 2:4" inspect "$work/sparse"
expect 0 '"stop_reason": "length"' generate "$work/sparse" --prompt-ids "$work/ids.json" -n 5 --ignore-eos --json
expect 2 "format int3: sparsity is 2:4, expected none" quantize "$model" -o "$work/x" --format int3 --sparsity 2:4
# Shaders: ours, and a kernel of somebody's own.
expect 0 '"marlin_gemm"' shaders list --json
expect 0 "marlin_gemm" status --self-test
! grep -q " NO " "$work/out" || fail "a shader does not match"
cat > "$work/add.metal" << 'EOF'
#include <metal_stdlib>
using namespace metal;
constant float kFactor [[function_constant(7)]];
[[kernel]] void add(device const float* a [[buffer(0)]], device float* out [[buffer(1)]], constant uint& n [[buffer(2)]],
                    uint i [[thread_position_in_grid]]) {
  if (i < n) out[i] = a[i] * kFactor + 1.0f;
}
EOF
sed 's/i < n/i <= n/' "$work/add.metal" > "$work/wrong.metal"
sed 's/kFactor + 1.0f/missing/' "$work/add.metal" > "$work/broken.metal"
python3 - "$work/a.npy" << 'EOF'
import struct, sys
header = "{'descr': '<f4', 'fortran_order': False, 'shape': (100,), }"
header += " " * (63 - (10 + len(header)) % 64) + "\n"
open(sys.argv[1], "wb").write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() +
                              struct.pack("<100f", *range(100)))
EOF
shader_run=(--kernel add --grid 128 --threads 64 --buffer "0=$work/a.npy" --buffer 1=zeros:400 --bytes 2=u32:100
  --constant 7=f32:3)
mkdir "$work/temporary"
export TMPDIR=$work/temporary
expect 0 "yes" shaders check "$work/add.metal"
# An -I takes one folder, as a compiler's does.
(echo '#include "here.h"'; cat "$work/add.metal") > "$work/includes.metal"
mkdir "$work/include" && echo > "$work/include/here.h"
expect 0 "2 of 2 compiled" shaders check -I "$work/include" "$work/includes.metal" "$work/add.metal"
expect 4 "use of undeclared identifier 'missing'" shaders check "$work/broken.metal"
expect 4 "broken.metal:6:30: error" shaders run "$work/broken.metal" "${shader_run[@]}"
expect 0 "no fault found" shaders run "$work/add.metal" "${shader_run[@]}" --debug --output "1=$work/out.npy"
python3 - "$work/out.npy" << 'EOF'
import struct, sys
found = struct.unpack("<100f", open(sys.argv[1], "rb").read()[-400:])
assert found == tuple(3.0 * i + 1 for i in range(100)), found
EOF
# Values of functions that none of our shaders calls.
cat > "$work/specified.metal" << 'EOF'
#include <metal_stdlib>
using namespace metal;
kernel void f(device float* a [[buffer(0)]], device atomic_ulong* l [[buffer(1)]]) {
  a[0] = median3(3.0f, 1.0f, 2.0f);
  a[1] = median3(float2(4, 0), float2(1, 1), float2(2, 2)).x;
  a[2] = median3(-3, 9, 5);
  a[3] = float(1.5bf + 2.0BF) + 1.0H;
  const float4 v = select(float4(1, 2, 3, 4), 9.0f, float4(1, 2, 3, 4) > 2.0f);
  a[4] = v.y + v.z;
  atomic_max_explicit(l, 1ul << 40, memory_order_relaxed);
  atomic_max_explicit(l, 5ul, memory_order_relaxed);
  atomic_min_explicit(l + 1, 7ul, memory_order_relaxed);
}
EOF
expect 0 "f: " shaders run "$work/specified.metal" --kernel f --buffer 0=zeros:20 --buffer 1=zeros:16 \
  --output "0=$work/out.npy" --output "1=$work/long.npy:u8"
python3 - "$work/out.npy" "$work/long.npy" << 'EOF'
import struct, sys
found = struct.unpack("<5f", open(sys.argv[1], "rb").read()[-20:])
assert found == (2.0, 2.0, 5.0, 4.5, 11.0), found
found = struct.unpack("<2Q", open(sys.argv[2], "rb").read()[-16:])
assert found == (1 << 40, 0), found
EOF
expect 4 "wrong.metal:6: thread 36 of threadgroup 1 reads 4 bytes at offset 400 of a (buffer 0)" \
  shaders run "$work/wrong.metal" "${shader_run[@]}" --debug
expect 4 "add: wrote behind buffer 1 (400 bytes); --debug says where" shaders run "$work/wrong.metal" "${shader_run[@]}"
expect 0 "add     add     0:a 1:out 2:n" shaders list "$work/add.metal"
expect 0 '"type": "constant uint &"' shaders list -I "$work/include" "$work/includes.metal" --json
expect 2 "a type of which 6 bytes are a whole number" shaders run "$work/add.metal" --kernel add --buffer 0=zeros:4 \
  --buffer 1=zeros:6 --bytes 2=u32:1 --constant 7=f32:1 --output "1=$work/odd.npy"
for type in q4 f1 4f f4x; do
  expect 2 "--output 1=$work/odd.npy:$type: expected INDEX=FILE.npy[:TYPE] of f2, f4," shaders run "$work/add.metal" \
    "${shader_run[@]}" --output "1=$work/odd.npy:$type"
done
[ ! -e "$work/odd.npy" ] || fail "an output of no type was written"
# Names that begin like options.
(
  cd "$work"
  cp includes.metal ./-i.metal
  cp -r include ./-include
  expect 0 "-i      add     0:a 1:out 2:n" shaders list -I-include -- -i.metal
  expect 0 "1 of 1 compiled, 1 strict" shaders check -I-include -- -i.metal
  expect 0 "add: " shaders run "${shader_run[@]}" -I-include -- -i.metal
)
# Text that is no UTF-8 is named with its place, and the others are checked still.
mkdir "$work/bytes"
cp "$work/add.metal" "$work/bytes"
(cat "$work/add.metal"; printf '// gr\xfcn\nconstant int gr\xfcn = 3;\n') > "$work/bytes/latin.metal"
expect 4 "latin.metal:9: error: byte 0xfc is not UTF-8" shaders check "$work/bytes"
grep -qF "1 of 2 compiled, 1 strict" "$work/out" || fail "one file's bytes ended the check of others"
! grep -q Traceback "$work/out" || fail "bytes that are no UTF-8 ended a script"
expect 4 "latin.metal:9: error: byte 0xfc is not UTF-8" shaders list "$work/bytes/latin.metal"
expect 3 "no kernel sub; the file has add" shaders run "$work/add.metal" --kernel sub
expect 2 "argument n (constant uint &, buffer 2) is missing" shaders run "$work/add.metal" --kernel add \
  --buffer "0=$work/a.npy" --buffer 1=zeros:400
expect 2 "expected 4 bytes, found 1" shaders run "$work/add.metal" "${shader_run[@]}" --constant 7=u8:1
expect 2 "--grid 0: expected X, X,Y or X,Y,Z" shaders run "$work/add.metal" --kernel add --buffer 0=zeros:4 \
  --buffer 1=zeros:4 --bytes 2=u32:1 --grid 0
[ -z "$(ls -A "$TMPDIR")" ] || fail "temporary files were left: $(ls "$TMPDIR")"
echo "all command line tests passed"
