#!/usr/bin/env bash
# Compiles the Metal device against Apple's own metal-cpp (METAL_MARLIN_METAL_CPP or fetched); where there
# is no macOS SDK, with stand-ins for it (tests/backends/msl/sdk_stub).
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=clang++ sdk="-isystem ${HOMEBREW_PREFIX:-/opt/homebrew}/include"
if [ "$(uname)" != Darwin ]; then
  compiler=${METAL_MARLIN_CLANG:-clang-19} sdk='-isystem tests/backends/msl/sdk_stub'
fi
metal_cpp=${METAL_MARLIN_METAL_CPP:-$(tools/fetch_metal_cpp.sh build/metal-cpp)}
for source in src/backends/msl/metal/*.cpp; do
  # shellcheck disable=SC2086
  $compiler -x c++ -std=c++20 -fblocks -fsyntax-only -Wall -Wextra -Wshadow -Wconversion -Werror -Isrc -Iinclude -Itools/msl/include \
    -isystem "$metal_cpp" $sdk "$source"
done
echo "the Metal device compiles against metal-cpp"
