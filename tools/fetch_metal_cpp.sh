#!/usr/bin/env bash
# Apple's metal-cpp, headers alone, into FOLDER, from the PyPI package that carries them; prints where they are.
# Usage: fetch_metal_cpp.sh FOLDER
set -euo pipefail
folder=$1
headers=$folder/mlx/include/metal_cpp
if [ ! -e "$headers/Metal/Metal.hpp" ]; then
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  "$(dirname "$0")/fetch_mlx_wheel.sh" "$work"
  rm -rf "$folder/mlx"
  mkdir -p "$folder/mlx/include"
  mv "$work/mlx/include/metal_cpp" "$headers"
fi
echo "$headers"
