#!/usr/bin/env bash
# Nothing here is built from MLX: no source or build file includes, imports, finds or links it.
# Usage: no_mlx_test.sh SOURCE BINARY
set -euo pipefail
cd "$1"
s='[[:space:]]*'
pattern="#${s}include${s}[<\"]mlx|^$s(import|from)[[:space:]]+mlx([^_[:alnum:]]|\$)|find_package$s\\($s"'MLX|-lmlx|libmlx'
found=$(grep -rnEi "$pattern" CMakeLists.txt cmake include src shaders tools tests benchmarks examples Makefile .ci \
  --exclude=no_mlx_test.sh --exclude-dir=__pycache__ || true)
[ -z "$found" ] || { echo "MLX is used:"; echo "$found"; exit 1; }
libraries=(ldd)
[ "$(uname)" != Darwin ] || libraries=(otool -L)
! "${libraries[@]}" "$2" | grep -i mlx || { echo "$2 links MLX"; exit 1; }
