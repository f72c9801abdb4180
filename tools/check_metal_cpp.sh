#!/usr/bin/env bash
# Compiles the Metal device against Apple's own metal-cpp, which a package on PyPI carries; where
# there is no macOS SDK, with stand-ins for it (tests/backends/msl/sdk_stub).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compiler=clang++ sdk=
if [ "$(uname)" != Darwin ]; then
  compiler=${METAL_MARLIN_CLANG:-clang-19} sdk='-isystem tests/backends/msl/sdk_stub'
fi
echo 'mlx-metal==0.32.4 --hash=sha256:8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947' > "$work/pinned.txt"
python3 -m pip download -q --no-deps --require-hashes --only-binary=:all: --platform macosx_14_0_arm64 -d "$work" -r "$work/pinned.txt"
python3 -m zipfile -e "$work"/mlx_metal-*.whl "$work"
for source in src/backends/msl/metal/*.cpp; do
  # shellcheck disable=SC2086
  $compiler -x c++ -std=c++20 -fblocks -fsyntax-only -Wall -Wextra -Wshadow -Wconversion -Werror -Isrc -Iinclude -Itools/msl/include \
    -isystem "$work/mlx/include/metal_cpp" $sdk "$source"
done
echo "the Metal device compiles against metal-cpp"
