#!/usr/bin/env bash
# Builds the program alone, and says every 10 seconds how far it is. Usage: build_program.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset user > /dev/null
log=build/user/build.log
NINJA_STATUS='[%f/%t] ' cmake --build --preset user > "$log" 2>&1 &
build=$!
while kill -0 $build 2> /dev/null; do
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 $build 2> /dev/null || break
    sleep 1
  done
  step=$(sed -n 's/^\[\([0-9]*\)\/\([0-9]*\)\].*/\1 of \2/p' "$log" | tail -n 1)
  echo "building: ${step:-0} steps, $SECONDS s"
done
wait $build || { cat "$log" >&2; exit 1; }
