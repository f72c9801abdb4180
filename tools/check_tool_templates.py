#!/usr/bin/env python3
"""Says in which format each of a folder's chat templates writes calls of tools, as a table in Markdown.

  check_tool_templates.py --binary PROGRAM FOLDER [--expect DOCUMENT]

With --expect the table must be the one in DOCUMENT, as far as FOLDER has its templates.
Exit codes: 0 done, 1 a template could not be looked at, or the document says something else.
"""
import argparse
import collections
import pathlib
import subprocess
import sys


def format_of(binary, template):
    found = subprocess.run([binary, "render", str(template), "--tool-format"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise SystemExit(f"{template.name}: {found.stderr.strip()}")
    return found.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--expect", type=pathlib.Path, help="a document that has the table's lines")
    args = parser.parse_args()
    rows = collections.defaultdict(list)
    for template in sorted(args.folder.glob("*.jinja")):
        rows[format_of(args.binary, template)].append(template.stem)
    lines = [f"| {kind.replace('|', '&#124;')} | {len(names)} | {', '.join(names)} |" for kind, names in sorted(rows.items())]
    print("| format | templates | which |\n|---|---|---|")
    print("\n".join(lines))
    if not args.expect:
        return 0
    said = args.expect.read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if line not in said]
    for line in wrong:
        print(f"{args.expect} does not have: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
