#!/usr/bin/env bash
# The host executor with the kernels of a metallib in place of this build's: every shader by `status`, then tests.
# Fails where none ran.
# Usage: run_metallib_tests.sh BUILD METALLIB [GTEST_FILTER]; without a filter the op suite and the golden models.
set -euo pipefail
build=$1 filter=${3:-'*/Plain:*/OtherLanes:*msl_host*:-*msl_host_debug*'}
export METAL_MARLIN_METALLIB=$2 METAL_MARLIN_AIR=${METAL_MARLIN_AIR:-$build/bin/metal-marlin-air}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "== status, kernels of $2"
"$build/bin/metal-marlin" status --json --self-test > "$log"
python3 - "$log" <<'END'
import json, os, sys
status = json.load(open(sys.argv[1]))
assert status["metallib"].endswith(os.environ["METAL_MARLIN_METALLIB"]), status["metallib"]
bad = [s for s in status["shaders"] if not (s["executed"] and s["matched"])]
for shader in bad:
    print(shader["name"], shader["fault"], sep=": ")
print(f"{len(status['shaders']) - len(bad)} of {len(status['shaders'])} shaders matched, {status['metallib']}")
sys.exit(bool(bad))
END
echo "== tests"
"$build/tests/metal_marlin_tests" --gtest_brief=1 --gtest_filter="$filter" 2>&1 | tee "$log"
grep -Eq '[1-9][0-9]* tests? from .* ran' "$log" || { echo "no test ran" >&2; exit 1; }
