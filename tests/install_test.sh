#!/usr/bin/env bash
# Installs the build, finds it with find_package from another project, builds
# and runs the example. Usage: install_test.sh SOURCE BUILD DATA
set -euo pipefail
source=$1 build=$2 data=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" > /dev/null
cmake -S "$source/examples/generate" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release > /dev/null
cmake --build "$work/build" > /dev/null
"$work/build/example" "$data/fixtures/llama-tiny" "$work/model"
"$work/prefix/bin/metal-marlin" --version
