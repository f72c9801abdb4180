#!/usr/bin/env python3
"""Writes docs/STATUS.md from `metal-marlin status --json` and the source tree.

  make_status.py METAL_MARLIN [--check]

--check: write nothing, fail when the page is not what would be written.
"""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "STATUS.md"
AREAS = [("shaders", "shaders", (".metal", ".h")), ("library", "src", (".cpp", ".h")), ("public API", "include", (".h",)),
         ("toolchain", "tools/msl", (".py", ".h", ".cpp")), ("tests", "tests", (".cpp", ".h", ".py", ".sh", ".metal"))]


def table(rows):
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return lines


def size(n):
    return f"{n / 2**30:.2f} GiB"


def page(status):
    shaders = status["shaders"]
    yes = lambda v: "yes" if v else "**no**"  # noqa: E731
    good = sum(s["executed"] and s["matched"] for s in shaders)
    lines = ["# Status", "", "Made by `make status`; a test fails when it is stale. `metal-marlin status --self-test` prints the same for the",
             "machine at hand, with its GPU; benchmarks/cuda_tests.log is the last run of every test on one.", "",
             f"{good} of {len(shaders)} shaders executed and matched their references.", ""]
    lines += table([("shader", "kernels", "executed", "matched")] +
                   [(s["name"], s["kernels"], yes(s["executed"]), yes(s["matched"]))
                    for s in shaders])
    blockers = [f"- {s['name']}: {s['fault']}" for s in shaders if s["fault"]]
    lines += ["", "## Blockers", ""] + (blockers or ["None."])
    lines += ["", "## Models", "", "Architectures: " + ", ".join(status["architectures"]) + ".", ""]
    lines += table([("model", "recipe", "weights", "bf16", "quantized", "with every routed expert cold")] +
                   [(r["model"], r["recipe"], f"{r['weights'] / 1e9:.2f} G", size(r["source_bytes"]), size(r["bytes"]),
                     size(r["bytes_all_cold"])) for r in status["recipes"]])
    lines += ["", "Formats: " + ", ".join(status["formats"]) + ".", "", "## Code", ""]
    rows = [("part", "files", "thousand lines")]
    for name, folder, suffixes in AREAS:
        files = [p for p in sorted((ROOT / folder).rglob("*")) if p.suffix in suffixes and "__pycache__" not in p.parts]
        total = sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files)
        rows.append((name, len(files), round(total / 1000)))
    return "\n".join(lines + table(rows)) + "\n"


def main():
    command = [a for a in sys.argv[1:] if a != "--check"]
    status = json.loads(subprocess.run(command + ["status", "--json", "--self-test"], check=True, stdout=subprocess.PIPE, text=True).stdout)
    for shader in status["shaders"]:  # a GPU's faults are for `status` to tell
        if shader["matched"]:
            shader["fault"] = ""
    text = page(status)
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/STATUS.md is stale: run `make status`")


if __name__ == "__main__":
    main()
