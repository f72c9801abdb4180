#!/usr/bin/env python3
"""Finds includes that go up: a file may include what lies in its own layer and in those before it.

  check_includes.py [ROOT]

Exit codes: 0 nothing found, 1 something was.
"""
import pathlib
import re
import sys

# Folders of src/, from the lowest up; those that stand beside each other include neither the other.
LAYERS = [["base"], ["formats"], ["io"], ["tokenizer"], ["chat_template"], ["grammar"], ["tool_calls"], ["ops"], ["models"], ["backends"], ["runtime"],
          ["quantize", "server"], ["cli"]]
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
# The folder of src/ that each header of include/metal_marlin is the interface of.
PUBLIC = {"error": "base", "format": "formats", "tokenizer": "tokenizer", "chat_template": "chat_template", "grammar": "grammar", "sampler": "ops",
          "model": "runtime", "generate": "runtime", "evaluate": "runtime", "inspect": "runtime", "engine": "runtime", "embed": "runtime", "speculation": "runtime", "sequence_file": "runtime", "quantize": "quantize"}
# What shaders and C++ share, and the shaders' interface; both know nothing of src/.
SHADERS = re.compile(r"common/|msl_abi\.h$")
INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')


def folder_of(path):
    """The folder that a file of src/ or include/, by the name it is included by, belongs to; None: the table lacks it."""
    first, _, rest = path.partition("/")
    folder = PUBLIC.get(pathlib.PurePath(rest).stem) if first == "metal_marlin" else first
    return folder if folder in LEVEL else None


def errors(name, text, shown):
    """`file:line: what is wrong` of each include; name: what the file is included by; shown: what errors call it."""
    here = folder_of(name)
    if here is None:
        return [f"{shown}:1: in no layer of tools/check_includes.py"]
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match or SHADERS.match(match.group(1)):
            continue
        there = folder_of(match.group(1))
        if there is None:
            found.append(f'{shown}:{number}: "{match.group(1)}" is in no layer of tools/check_includes.py')
        elif there != here and LEVEL[there] >= LEVEL[here]:
            where = "above" if LEVEL[there] > LEVEL[here] else "beside"
            found.append(f'{shown}:{number}: {here} includes "{match.group(1)}", of {there}, which is {where} it')
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    found = []
    for top in ["include", "src"]:
        for path in sorted((root / top).rglob("*")):
            if path.suffix in [".h", ".cpp"]:
                found += errors(path.relative_to(root / top).as_posix(), path.read_text(encoding="utf-8"),
                                path.relative_to(root).as_posix())
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
