#!/usr/bin/env python3
"""Which of the shim's names Apple's compiler is known to take.

  shim_names.py collect NAME=FOLDER...   writes names.txt anew from kernels that Apple's compiler takes
  shim_names.py table                    writes docs/msl-names.md from names.txt and the shim

collect compiles every .metal file below the folders behind the shim and reads which functions it calls, with which
types; of types, macros, enumerators and attributes it looks for the word. A folder is where #include "..." begins.
What does not compile is named, and left out."""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

import names
import reflect
from compile import CompileError, Shader, _base, _run, _sycl, TRIPLES
from source import HERE, SourceError

TABLE = os.path.join(HERE, "names.txt")
DOCUMENT = os.path.join(HERE, "../../docs/msl-names.md")
ATTRIBUTES = reflect.BUILTINS + ["buffer", "threadgroup", "function_constant", "host_name", "kernel",
                                 "max_total_threads_per_threadgroup"]
_KINDS = {"FunctionDecl": "function", "FunctionTemplateDecl": "function", "CXXRecordDecl": "type",
          "ClassTemplateDecl": "type", "TypedefDecl": "type", "TypeAliasDecl": "type", "TypeAliasTemplateDecl": "type",
          "EnumDecl": "type", "EnumConstantDecl": "enumerator", "VarTemplateDecl": "variable"}


def _declared(node, prefix, out):
    for child in node.get("inner", []):
        kind, name = child.get("kind"), child.get("name", "")
        if kind == "NamespaceDecl" and name in ("metal", "fast", "precise"):
            _declared(child, "" if name == "metal" else name + "::", out)
        elif kind in _KINDS and not child.get("isImplicit") and not re.match(r"msl|Msl|kMsl|_|operator", name) and name:
            out.setdefault(prefix + name, _KINDS[kind])
            if kind == "EnumDecl":
                _declared(child, name + "::" if child.get("scopedEnumTag") else prefix, out)


def offered():
    """{name: kind} of what the shim lets user code reach."""
    base = _base(310) + ["-std=c++14", "-DMSL_STRICT", f"--target={TRIPLES['x86_64']}", "-DMSL_PLAIN_SPACES"]
    with tempfile.NamedTemporaryFile("w", suffix=".hpp") as f:
        f.write("#include <metal_stdlib>\n")
        f.flush()
        tree = subprocess.run(base + ["-fsyntax-only", "-Xclang", "-ast-dump=json", f.name], capture_output=True, check=True)
        macros = subprocess.run(base + ["-E", "-dM", f.name], capture_output=True, text=True, check=True).stdout
        f.truncate(0)
        without = subprocess.run(base + ["-E", "-dM", f.name], capture_output=True, text=True, check=True).stdout
    out = {f"[[{a}]]": "attribute" for a in ATTRIBUTES}
    _declared(json.loads(tree.stdout), "", out)
    for name in re.findall(r"#define (\w+)", macros):
        if not re.match(r"MSL_|_|__", name) and f"#define {name} " not in without and name not in out:
            out[name] = "macro"
    return out


def _calls_of(path, includes):
    """{signature: place} of a shader's calls, its kernels' instances among them."""
    shader = Shader(path, includes)
    with tempfile.TemporaryDirectory() as folder:
        code = os.path.join(folder, "code.ll")
        command = _base(shader.version) + ["-std=c++17", "-DMSL_STRICT", f"--target={TRIPLES['x86_64']}", "-S",
                                           "-emit-llvm", "-Xclang", "-disable-llvm-passes", "-gline-tables-only",
                                           "-fclang-abi-compat=17", "-o", code] + _sycl(TRIPLES["x86_64"])
        entries = reflect.host_entries(shader.kernels, shader.constants, "shader", False)
        _run(command, shader.body(False) + entries, 600)
        with open(code, encoding="utf-8") as f:
            return names.used(*names.calls(f.read()))


def _texts(folder):
    for place, _, files in sorted(os.walk(folder)):
        for file in sorted(files):
            if file.endswith((".metal", ".h", ".swift")):
                with open(os.path.join(place, file), encoding="utf-8", errors="replace") as f:
                    yield os.path.join(place, file), re.sub(r"//[^\n]*", "", f.read())


def collect(sources):
    """{name: evidence} of what is seen in the folders {name: folder}."""
    seen = {}
    words = {n: k for n, k in offered().items() if k != "function"}
    for source, folder in sources.items():
        for path, text in _texts(folder):
            for name, kind in words.items():
                word = name.strip("[]")
                pattern = rf"\[\[[^\]]*\b{word}\b" if kind == "attribute" else rf"\b{word}\b"
                if name not in seen and (found := re.search(pattern, text)):
                    line = text.count("\n", 0, found.start()) + 1
                    seen[name] = f"{source} {os.path.basename(path)}:{line}"
            if not path.endswith(".metal"):
                continue
            try:
                for name, place in _calls_of(path, [folder, os.path.dirname(path)]).items():
                    seen.setdefault(name, f"{source} {os.path.basename(place)}")
            except (CompileError, SourceError) as e:
                first = next((line for line in str(e).split("\n") if "error:" in line), str(e))
                print(f"left out: {first}", file=sys.stderr)
    return seen


def write_seen(seen):
    """Puts what was seen where names.txt had it; the rest stays."""
    with open(TABLE, encoding="utf-8") as f:
        lines = [line for line in f.read().split("\n") if "\tseen\t" not in line]
    at = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    lines[at:at] = [f"{name}\tseen\t{seen[name]}" for name in sorted(seen)]
    with open(TABLE, "w", encoding="utf-8") as f:
        f.write("\n".join(lines))


def _row(table, name, kind):
    """(seen, specification) of a name, as text."""
    if kind != "function":
        return table.seen.get(name, ""), "" if name in table.seen else table.section(name) or ""
    calls = {n: e for n, e in table.seen.items() if n.split("(")[0].split("<")[0] == name}
    kinds = " ".join(sorted({f"`{n[len(name):]}`" for n in calls}))
    return f"{kinds}, {next(iter(calls.values()))}" if calls else "", table.section(name) or ""


def table_text():
    """The document."""
    table = names.Table()
    lines = ["# The shim's names and Apple's", "",
             "Written by `tools/msl/shim_names.py table` from `tools/msl/names.txt`. \"Seen\" is what kernels use that Apple's",
             "compiler takes every day, functions by the types that they are called with; a section is the",
             "specification's, and of a function what it covers beyond the types seen. What is neither the strict",
             "check refuses. Our own shaders use what is seen, and these:", ""]
    lines += [f"- `{name}`: {reason}" for name, reason in sorted(table.reasons.items())]
    lines += ["", "| name | seen compiled by Apple | specification only | neither |", "|---|---|---|---|"]
    for name, kind in sorted(offered().items(), key=lambda item: (item[1], item[0])):
        seen, section = _row(table, name, kind)
        lines.append(f"| `{name}` | {seen} | {section} | {'' if seen or section else 'refused'} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("collect", "table"))
    parser.add_argument("sources", nargs="*", metavar="NAME=FOLDER")
    args = parser.parse_args()
    if args.command == "collect":
        write_seen(collect(dict(s.split("=", 1) for s in args.sources)))
        return 0
    with open(DOCUMENT, "w", encoding="utf-8") as f:
        f.write(table_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
