#!/usr/bin/env python3
"""Compiles Metal shaders off Apple hardware.

  mslc.py object in.metal -o out.o --symbol NAME [--arch x86_64|aarch64|arm64] [--instrument] [--isolate]
  mslc.py shared in.metal -o out.so [--arch x86_64|aarch64|arm64] [--instrument]
  mslc.py ptx    in.metal -o out.ptx
  mslc.py syntax PATH...
  mslc.py strict PATH... [--own]
  mslc.py flat   in.metal -o out.metal
  mslc.py check  PATH... [--json] [--no-strict]
  mslc.py list   in.metallib [--json]
  mslc.py metallib in.metal... -o out.metallib [--kernels FILE]

object, shared and ptx take a metallib too, of which --kernel NAME[,NAME...] are lowered, or --all.

x86_64 and aarch64 are Linux's, arm64 is macOS's. flat: with its own headers in it, one file. --table: what the kernels
are, without their code. --pack: compressed for embedding, each kernel's PTX or the whole text (src/base/packed_text.h).
syntax: whether ptx would take the text, in a fraction of its time.
Exit codes: 0 all is well, 1 a shader has errors, 2 wrong usage.
"""
import argparse
import concurrent.futures
import json
import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import metallib  # noqa: E402
import pack  # noqa: E402
from compile import (CompileError, Shader, compile_air, compile_object, compile_ptx, compile_shared, ptx_errors,  # noqa: E402
                     strict_errors)
from source import SourceError, flat_text  # noqa: E402


def write_atomically(output, produce, ending=None):
    """The output appears whole or not at all."""
    folder = os.path.dirname(os.path.abspath(output))
    os.makedirs(folder, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, suffix=ending or os.path.splitext(output)[1])
    os.close(handle)
    try:
        produce(name)
        os.chmod(name, 0o755 if output.endswith(".so") else 0o644)
        os.replace(name, output)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise


def write_text(name, text):
    with open(name, "w", encoding="utf-8") as f:
        f.write(text)


def write_ptx(shader, name, args):
    compile_ptx(shader, name, args.isolate)
    if args.pack:
        with open(name, encoding="utf-8") as f:
            text = f.read()
        pack.write(name, pack.kernels(text, len(shader.kernels)))


def load(path, args, kernels=None):
    # For the host's processor loops stay loops: its memory is near, and objects are made sooner.
    ptx = ["__METAL_MARLIN_PTX__=1"]
    target = {"ptx": ptx, "syntax": ptx, "object": ["MM_UNROLL="], "shared": ["MM_UNROLL="]}.get(args.command, [])
    return Shader(path, args.include, args.define + target, args.version, kernels)


def write_depfile(args, files):
    """What the output was made from, as make and ninja read it."""
    if args.depfile:
        names = " ".join(os.path.abspath(n).replace(" ", "\\ ") for n in files)
        write_atomically(args.depfile, lambda name: write_text(name, f"{args.output}: {names}\n"))


def metal_files(paths):
    for path in paths:
        if os.path.isdir(path):
            for folder, _, names in sorted(os.walk(path)):
                for name in sorted(names):
                    if name.endswith(".metal"):
                        yield os.path.join(folder, name)
        else:
            yield path


def check_one(path, args):
    row = {"file": path, "kernels": 0, "compiled": False, "strict": None, "errors": []}
    try:
        shader = load(path, args)
        row["kernels"] = len(shader.kernels)
        with tempfile.TemporaryDirectory() as folder:
            compile_object(shader, os.path.join(folder, "a.o"), "msl_library", args.arch, quick=True)
        row["compiled"] = True
        if not args.no_strict:
            row["errors"] = strict_errors(shader)
            row["strict"] = not row["errors"]
    except (SourceError, CompileError) as e:
        row["errors"].append(str(e).strip())
    return row


def check_texts(args):
    """Of each shader, side by side, what Apple's compiler would refuse, or ours for PTX."""
    def errors(path):
        shader = load(path, args)
        return ptx_errors(shader) if args.command == "syntax" else strict_errors(shader, args.own)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(errors, metal_files(args.paths)))
    for errors in found:
        if errors:
            print("\n".join(errors), file=sys.stderr)
    return 1 if any(found) else 0


def first_line(text):
    lines = [line for line in text.split("\n") if "error:" in line] or text.split("\n")
    return lines[0]


def lower(args):
    """What object, shared and ptx make of a metallib."""
    if not args.kernel and not args.all:
        raise metallib.MetallibError("error: of a metallib, --kernel NAME[,NAME...] or --all", 2)
    options = {"gpu": args.gpu} if args.command == "ptx" else {"symbol": args.symbol, "instrument": args.instrument}
    ending = {"object": ".o", "shared": ".so", "ptx": ".ptx"}[args.command]
    write_atomically(args.output, lambda name: metallib.lower(args.paths[0], name, args.kernel, **options), ending)


def make_metallib(args):
    """Of several shaders, as Apple's compiler would make it; compiled side by side."""
    names = None
    if args.kernels:
        with open(args.kernels, encoding="utf-8") as f:
            names = set(f.read().split())
    shaders = [load(path, args, names) for path in args.paths]
    missing = sorted((names or set()) - {k.name for shader in shaders for k in shader.kernels})
    if missing:
        raise CompileError(f"error: {args.kernels}: no kernel {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        modules = [os.path.join(folder, f"{i}.bc") for i in range(len(args.paths))]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_air, shaders, modules))
        write_atomically(args.output, lambda name: metallib.run("pack", *modules, "-o", name))


def check(args):
    compiled = [path for path in args.paths if metallib.is_compiled(path)]
    if compiled:
        if len(args.paths) > 1:
            raise metallib.MetallibError("error: a metallib is checked by itself", 2)
        metallib.run("check", *compiled, *(["--json"] if args.json else []))
        return 0
    rows = [check_one(path, args) for path in metal_files(args.paths)]
    ok = all(r["compiled"] and r["strict"] is not False for r in rows)
    if args.json:
        print(json.dumps({"files": rows, "ok": ok}, indent=2))
    else:
        width = max([len(r["file"]) for r in rows] + [4])
        mark = {True: "yes", False: "NO", None: "-"}
        print(f"{'file':{width}}  kernels  compiled  strict")
        for r in rows:
            print(f"{r['file']:{width}}  {r['kernels']:7}  {mark[r['compiled']]:8}  {mark[r['strict']]}")
            for e in r["errors"]:
                print("    " + (e if args.verbose else first_line(e)))
        good = sum(r["compiled"] for r in rows)
        print(f"{good} of {len(rows)} compiled" +
              ("" if args.no_strict else f", {sum(r['strict'] is True for r in rows)} strict"))
    return 0 if ok else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("object", "shared", "ptx", "syntax", "strict", "flat", "check", "list", "metallib"):
        p = commands.add_parser(name)
        p.add_argument("paths", nargs="+" if name in ("syntax", "strict", "check", "metallib") else 1)
        p.add_argument("-I", dest="include", action="append", default=[])
        p.add_argument("-D", dest="define", action="append", default=[])
        if name in ("object", "ptx", "flat"):
            p.add_argument("--depfile", help="file that takes the rule of make")
        p.add_argument("--version", type=int, default=310, help="of MSL, e.g. 310")
        p.add_argument("--arch", choices=("x86_64", "aarch64", "arm64"), default=os.uname().machine)
        if name in ("object", "shared", "ptx", "flat", "metallib"):
            p.add_argument("-o", dest="output", required=True)
        if name in ("object", "ptx"):
            p.add_argument("--isolate", action="store_true")
        if name in ("object", "shared", "ptx"):
            p.add_argument("--kernel", help="of a metallib: NAME[,NAME...]")
            p.add_argument("--all", action="store_true", help="of a metallib: every kernel")
        if name in ("object", "shared"):
            p.add_argument("--symbol", default="msl_library")
            p.add_argument("--instrument", action="store_true")
        if name == "object":
            p.add_argument("--sanitize")
            p.add_argument("--level", type=int, choices=(1, 2), default=2, help="of optimisation")
            p.add_argument("--table", action="store_true")
        if name == "metallib":
            p.add_argument("--kernels", help="a file with the names of those that it takes, else all")
        if name == "ptx":
            p.add_argument("--gpu", choices=("sm_80", "sm_90"), help="of a metallib: what it is lowered for")
        if name in ("ptx", "flat"):
            p.add_argument("--pack", action="store_true")
        if name == "strict":
            p.add_argument("--own", action="store_true", help="refuse what no kernel is known to use (names.txt)")
        if name in ("check", "list"):
            p.add_argument("--json", action="store_true")
        if name == "check":
            p.add_argument("--no-strict", action="store_true")
            p.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    try:
        if args.command == "check":
            return check(args)
        if args.command == "flat":
            seen = {os.path.abspath(args.paths[0])}
            text = flat_text(args.paths[0], args.include, seen)
            write_atomically(args.output, lambda name: pack.write(name, [text]) if args.pack else write_text(name, text))
            write_depfile(args, sorted(seen))
            return 0
        if args.command in ("syntax", "strict"):
            return check_texts(args)
        if args.command == "metallib":
            make_metallib(args)
            return 0
        if args.command == "list":
            metallib.run("list", args.paths[0], *(["--json"] if args.json else []))
            return 0
        if metallib.is_compiled(args.paths[0]):
            lower(args)
            return 0
        shader = load(args.paths[0], args)
        if args.command == "ptx":
            if args.gpu:
                raise SourceError(args.paths[0], 0, "--gpu is for metallibs; one PTX of a shader serves every GPU")
            write_atomically(args.output, lambda name: write_ptx(shader, name, args))
        elif args.command == "shared":
            write_atomically(args.output, lambda name: compile_shared(
                shader, name, args.output + ".dSYM", args.symbol, args.arch, args.instrument))
        else:
            write_atomically(args.output, lambda name: compile_object(
                shader, name, args.symbol, args.arch, args.instrument, args.isolate, args.sanitize, table=args.table,
                level=args.level))
        if args.command != "shared":
            write_depfile(args, shader.files)
        return 0
    except metallib.MetallibError as e:
        if str(e):
            print(e, file=sys.stderr)
        return e.code
    except (SourceError, CompileError, OSError) as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
