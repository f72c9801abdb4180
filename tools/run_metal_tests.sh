#!/usr/bin/env bash
# On a Mac whose GPU runs the shaders: every test on Metal, with the metallib and with the shaders' text, under Metal's
# validation of API and shaders; then with the metallib as users run them. Fails where no such test ran.
# Usage: run_metal_tests.sh BUILD [GTEST_FILTER]
set -euo pipefail
build=$1 filter=${2:-'*Metal*:*msl_metal*'}
tests=$build/tests/metal_marlin_tests
built=$build/bin/metal_marlin.metallib
beside=$build/tests/metal_marlin.metallib  # where the tests look for one
log=$(mktemp)
trap 'rm -f "$beside" "$log"' EXIT

# run TITLE [VARIABLE=VALUE...]
run() {
  echo "== $1"
  shift
  env "$@" "$tests" --gtest_brief=1 --gtest_filter="$filter" 2>&1 | tee "$log"
  grep -Eq '[1-9][0-9]* tests? from .* ran' "$log" ||
    { echo "no test ran on Metal: this Mac has no GPU of the family Apple7 or later" >&2; exit 1; }
  # Shader validation goes on after a fault.
  ! grep -E 'Invalid (device|constant|threadgroup|local|stack) |Shader Validation.*([Ee]rror|[Ff]ault)' "$log" ||
    { echo "shader validation found a fault" >&2; exit 1; }
}
validated=(MTL_DEBUG_LAYER=1 MTL_DEBUG_LAYER_ERROR_MODE=assert MTL_DEBUG_LAYER_WARNING_MODE=nslog
  MTL_SHADER_VALIDATION=1 MTL_SHADER_VALIDATION_REPORT_TO_STDERR=1)

[ -e "$built" ] || { echo "$built is missing: there was no Metal compiler that works when the build was configured" >&2; exit 1; }
cp "$built" "$beside"
run "the metallib, validated" "${validated[@]}"
run "the metallib" MTL_DEBUG_LAYER=0
rm "$beside"
run "the shaders' text, validated" "${validated[@]}"
