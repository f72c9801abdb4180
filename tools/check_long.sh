#!/usr/bin/env bash
# Checks too long for CI, each with a log in benchmarks/check_long/.
# Usage: check_long.sh [PART...]; parts: fuzz lint package patterns keys templates schemas api asan tsan sessions aarch64 metal_cpp metal_mutants libcxx air metallib differential mutants formats registers page load large; none: all.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${METAL_MARLIN_DATA:-../shared/data}
text=$data/text/wikitext-2-test.txt

# Ten minutes each of what reads the most forms, one of the others.
fuzz() {
  fuzz_some 600 "config tokenizer request chat_template grammar tool_calls"
  fuzz_some 60 "safetensors sequence gguf json npy onnx metallib"
}
fuzz_some() { make fuzz FUZZ_SECONDS="$1" PARSERS="$2" 2>&1 | grep -E '^(parser|Done|SUMMARY)|ERROR|error:|Error '; }

lint() {
  tools/install_dependencies.sh lint
  cmake --preset release
  make lint
}

package() { tools/check_package.sh; }

# Random patterns and tokenizers against the tokenizers library, which METAL_MARLIN_PYTHON can import.
patterns() {
  make build
  "${METAL_MARLIN_PYTHON:-python3}" tools/check_regex_differential.py --binary build/release/bin/metal-marlin
}

# Each key of a GGUF file and of quantized folders' configurations, dropped and changed.
keys() {
  cmake --preset user > /dev/null
  cmake --build --preset user > /dev/null
  "${METAL_MARLIN_PYTHON:-python3}" tools/check_model_keys.py build/user/bin/metal-marlin
}

# Real chat templates over conversations of every kind, against transformers, which METAL_MARLIN_PYTHON can import.
templates() {
  [ -e "$data/templates" ] || { echo "no templates at $data/templates (set METAL_MARLIN_DATA)" >&2; return 1; }
  make build
  "${METAL_MARLIN_PYTHON:-python3}" tools/check_chat_templates.py --binary build/release/bin/metal-marlin \
    --templates "$data/templates" --table benchmarks/chat_templates.md
}

# JSON Schema's test suite, from the sdist of jsonschema on PyPI.
schemas() {
  cmake --preset user > /dev/null
  cmake --build --preset user > /dev/null
  local work
  work=$(mktemp -d)
  "${METAL_MARLIN_PYTHON:-python3}" -m pip download --quiet --no-deps --no-binary :all: --dest "$work" jsonschema==4.23.0
  "${METAL_MARLIN_PYTHON:-python3}" tools/check_schemas.py --binary build/user/bin/metal-marlin --suite "$work"/jsonschema-*.tar.gz
  rm -r "$work"
}

# The server with a model that speaks, against the packages openai and anthropic and schemathesis, which
# METAL_MARLIN_PYTHON can import.
api() {
  make build > /dev/null
  local work program=build/release/bin/metal-marlin python=${METAL_MARLIN_PYTHON:-python3} status=0
  work=$(mktemp -d)
  $program quantize "$(tools/fetch_smollm2.sh)" -o "$work/model" --format fp4 > /dev/null
  "$python" tools/check_openai.py --binary $program --model "$work/model" || status=1
  "$python" tools/check_anthropic.py --binary $program --model "$work/model" || status=1
  "$python" tools/check_openapi.py --binary $program --model "$work/model" || status=1
  rm -r "$work"
  return $status
}

whole_suite() {
  tools/install_dependencies.sh shaders tests
  cmake --preset "$1"
  cmake --build --preset "$1"
  ctest --preset "$1" --parallel "$(getconf _NPROCESSORS_ONLN)"
}
asan() { whole_suite asan; }  # the shaders too, which CI takes from its release build
# The host executor's fibers need nothing of it: the shaders and what switches fibers are not instrumented
# (MM_ON_FIBER), so that its call stacks are those of threads; what a shader itself reads and writes it does not see.
tsan() { whole_suite tsan; }

# 16 threads with a session each on one model, 1000 random steps, on every backend: an hour and more on msl-host.
sessions() {
  cmake --preset release
  cmake --build --preset release --target metal_marlin_session_tests
  METAL_MARLIN_TEST_STEPS=1000 build/release/tests/metal_marlin_session_tests --gtest_filter='*ManyThreads*'
  cmake --preset tsan
  cmake --build --preset tsan --target metal_marlin_session_tests
  METAL_MARLIN_TEST_STEPS=1000 build/tsan/tests/metal_marlin_session_tests --gtest_filter='*ManyThreads*-*msl*'
}
# With the shaders, which CI leaves out there.
aarch64() {
  tools/install_dependencies.sh aarch64
  whole_suite aarch64
}

metal_cpp() { tools/check_metal_cpp.sh; }
libcxx() {
  tools/install_dependencies.sh libcxx
  make build
  tools/check_libcxx.py build/release
}

metal_mutants() {
  cmake --preset release
  cmake --build --preset release --target metal_marlin_tests
  tools/check_metal_mutants.py
}

# What it says of each kernel is not for the log.
differential() {
  tools/check_differential.sh 2> build/differential.progress || { tail -n 20 build/differential.progress; return 1; }
}

# Every kernel of two of Apple's metallibs, half an hour.
air() {
  make build
  tools/check_air.sh build/release/bin/metal-marlin-air build/release/tests/metal_marlin_tests
}

# Every kernel of every shader through a metallib: the whole op suite and the golden models.
metallib() {
  make build
  local work
  work=$(mktemp -d)
  METAL_MARLIN_AIR=build/release/bin/metal-marlin-air tools/msl/mslc.py metallib shaders/*.metal -o "$work/all.metallib"
  XDG_CACHE_HOME=$work tools/run_metallib_tests.sh build/release "$work/all.metallib"
  rm -r "$work"
}

mutants() { tools/check_mutants.py; }

# Every kernel's own arrays lie in registers.
registers() { tools/msl/private_arrays.py check; }

# The chat page in a browser; METAL_MARLIN_SERVER_URL: with a server that runs there too.
page() {
  tools/install_dependencies.sh page
  /usr/bin/python3 tests/server/page_test.py
}

# The server under load, with a real model and then with small ones under sanitizers. Progress is not for the log.
load() {
  cmake --preset user > /dev/null
  cmake --build --preset user > /dev/null
  local program=build/user/bin/metal-marlin fixture=tests/data/fixtures/qwen3-tiny work
  work=$(mktemp -d)
  $program quantize "$(tools/fetch_smollm2.sh)" -o "$work/small" --format fp4 > /dev/null
  for clients in 64 512; do
    load_with --binary $program --model "$work/small" --clients $clients --seconds 120
  done
  rm -r "$work"
  tools/check_slow_clients.py --binary $program --model $fixture
  for sanitizer in asan tsan; do
    cmake --preset $sanitizer -B build/$sanitizer-load -DMETAL_MARLIN_MSL_HOST=OFF > /dev/null
    cmake --build build/$sanitizer-load --target metal-marlin > /dev/null
    echo "with $sanitizer:"
    load_with --binary build/$sanitizer-load/bin/metal-marlin --model $fixture --clients 32 --seconds 40 --no-flat
  done
}
load_with() {
  tools/check_load.py --json "$@" 2> build/load.progress || { tail -n 20 build/load.progress; return 1; }
}

need_text() { [ -e "$text" ] || { echo "no text at $text (set METAL_MARLIN_DATA)" >&2; return 1; }; }

formats() {
  need_text
  make build
  benchmarks/formats.py --binary build/release/bin/metal-marlin --model "$(tools/fetch_smollm2.sh)" --text "$text"
}

# Models of real shape, larger than the memory they may take, killed on the way: 6 GB of disk, most of an hour.
large() {
  need_text
  make build
  local work program=build/release/bin/metal-marlin
  work=$(mktemp -d)
  $program quantize "$(tools/fetch_smollm2.sh)" -o "$work/small"
  for recipe in glm-4.7-flash qwen3-4b; do
    tools/make_random_model.py recipes/$recipe.json "$work/small" "$work/slice" --layers 4
    tools/check_large_quantize.py --binary $program --model "$work/slice" --out "$work/quantized" \
      --calibration "$text" --memory 3GiB -- --recipe $recipe --method gptq
    rm -r "$work/slice" "$work"/quantized*
  done
  rm -r "$work"
}

# The log has what a part said at its end; all of it goes to the terminal.
check() {
  local part=$1 log=benchmarks/check_long/$1.log status=0 lines=25 whole commit
  [[ "$part" != air && "$part" != differential && "$part" != api ]] || lines=500
  whole=$(mktemp)
  commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD -- . ':!benchmarks/check_long' || echo " and changes")
  "$0" --one "$part" 2>&1 | tee "$whole" || status=$?  # a process of its own, which ends at the first failure
  {
    echo "$part: $([ $status = 0 ] && echo passed || echo "FAILED ($status)") in $SECONDS s, commit $commit, $(date +%F)"
    tail -n $lines "$whole" | sed "s#$PWD#.#g" | cut -c1-200  # which names no machine's folder
  } > "$log"
  rm "$whole"
  return $status
}

if [ "${1:-}" = --one ]; then
  "$2"
  exit
fi
mkdir -p benchmarks/check_long
parts=("$@")
[ $# -gt 0 ] || parts=(fuzz lint package patterns keys templates schemas api asan tsan sessions aarch64 metal_cpp metal_mutants libcxx air metallib differential mutants formats registers page load large)
failed=()
for part in "${parts[@]}"; do
  [ "$(type -t "$part")" = function ] || { echo "unknown part: $part" >&2; exit 2; }
  echo "== $part"
  SECONDS=0
  check "$part" || failed+=("$part")
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
