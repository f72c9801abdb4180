#!/usr/bin/env python3
"""Whether a kernel's own arrays lie in registers.

  private_arrays.py check [SHADER]...    no array is left in memory, whoever compiles; all shaders if none is named
  private_arrays.py table                writes benchmarks/kernel_registers.md; needs ptxas (CUDA)

The check compiles twice: for a plain 64-bit processor with clang's own limits, as a compiler that knows nothing of
ours would (-O2; address spaces by number, the work of a simdgroup left to functions elsewhere), where an array that is left
means a loop over it that was not unrolled, whether by an index or by a pointer; and to PTX, where a kernel with such an
array has local memory."""
import argparse
import os
import re
import subprocess
import sys
import tempfile

from compile import TRIPLES, Shader, _base, _run, compile_ptx
from source import HERE

ROOT = os.path.join(HERE, "../..")
CODECS = r"e2m1|e4m3|e5m2|u?int[2-8]|nf[234]|iq4nl"
TABLE = os.path.join(ROOT, "benchmarks/kernel_registers.md")


def _shader_path(name):
    return name if name.endswith(".metal") else os.path.join(ROOT, f"shaders/{name}.metal")


def _holds_array(kind, types):
    return "[" in kind or any(_holds_array(types[name], types) for name in re.findall(r'%(?:"[^"]+"|[\w.$]+)', kind) if name in types)


_CONSTANT_PLACE = re.compile(r"\s*(%[\w.]+) = getelementptr (?:[\w]+ )*?[^%]*, ptr (%[\w.]+)(?:, i\d+ \d+)+(?:,|$)")
_ACCESS = re.compile(r"\s*%[\w.]+ = load [^%]*, ptr %[\w.]+,|\s*store [^%]*(?:%[\w.]+)?, ptr %[\w.]+,|.* @llvm\.lifetime\.")


def arrays_in_memory(llvm_text):
    """{function: [type]} of the variables on the stack that are arrays, or that are read at places which no constant
    tells. Not those of bytes that are at constants only: an x86 processor's functions take a structure so."""
    found, function, derived, types = {}, None, {}, {}
    for line in llvm_text.split("\n"):
        if named := re.match(r'(%(?:"[^"]+"|[\w.$]+)) = type (.*)', line):
            types[named[1]] = named[2]
        elif line.startswith("define "):
            function, derived = re.search(r'@("[^"]+"|[\w.$]+)\(', line)[1].strip('"'), {}
        elif made := re.match(r"\s*(%[\w.]+) = alloca (.+?), align", line):
            derived[made[1]] = made[2]
            if _holds_array(made[2], types) and not re.fullmatch(r"\[\d+ x i8\]", made[2]):
                found.setdefault(function, []).append(made[2])
        elif (place := _CONSTANT_PLACE.match(line)) and place[2] in derived:
            derived[place[1]] = derived[place[2]]
        elif derived and (used := [derived[name] for name in re.findall(r"%[\w.]+", line) if name in derived]):
            indexed = re.match(r"\s*%[\w.]+ = getelementptr ", line)
            if (indexed or used[0].endswith("x i8]")) and not _ACCESS.match(line):
                found.setdefault(function, []).append(used[0])
    return found


def plain_code(shader):
    """LLVM's text as a compiler makes it that knows nothing of ours."""
    with tempfile.TemporaryDirectory() as folder:
        code = os.path.join(folder, "code.ll")
        _run(_base(shader.version) + ["-std=c++17", f"--target={TRIPLES['x86_64']}", "-DMSL_PLAIN_SPACES", "-O2",
                                      "-fno-vectorize", "-fno-slp-vectorize", "-S", "-emit-llvm", "-o", code],
             shader.body(False))
        with open(code, encoding="utf-8") as f:
            return f.read()


def ptx_entries(name, folder):
    """[(kernel's name, its PTX)], and the file."""
    shader = Shader(_shader_path(name), defines=["__METAL_MARLIN_PTX__=1"])
    path = os.path.join(folder, "code.ptx")
    compile_ptx(shader, path, isolate=True)
    with open(path, encoding="utf-8") as f:
        parts = re.split(r"\.entry msl_entry_(\d+)\b", f.read())
    bodies = {int(parts[i]): parts[i + 1] for i in range(1, len(parts), 2)}
    return [(kernel.name, bodies[i]) for i, kernel in enumerate(shader.kernels)], path


def local_bytes(body):
    depot = re.search(r"__local_depot\d+\[(\d+)\]", body)
    return int(depot[1]) if depot else 0


def check(name):
    """The faults of a shader."""
    found = arrays_in_memory(plain_code(Shader(_shader_path(name))))
    for function, kinds in found.items():
        yield f"{name}: {function}: {', '.join(sorted(set(kinds)))} stay in memory (MM_UNROLL the loops over them)"
    with tempfile.TemporaryDirectory() as folder:
        for kernel, body in ptx_entries(name, folder)[0]:
            if local_bytes(body):
                yield f"{name}: {kernel}: {local_bytes(body)} bytes of local memory in PTX"


def ptxas_rows(ptx):
    """{entry's number: (registers, bytes spilled, bytes of stack)}."""
    done = subprocess.run(["ptxas", "-v", "-arch=sm_90", ptx, "-o", os.devnull], capture_output=True, text=True, check=True)
    found, entry, stack, spilled = {}, None, 0, 0
    for line in done.stderr.split("\n"):
        if name := re.search(r"Compiling entry function 'msl_entry_(\d+)'", line):
            entry = int(name[1])
        elif sizes := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            stack, spilled = map(int, sizes.groups())
        elif used := re.search(r"Used (\d+) registers", line):
            found[entry] = (int(used[1]), spilled, stack)
    return found


def _family(kernel):
    """Kernels that differ in the codec alone have one name."""
    return re.sub(rf"(^|_)(?:{CODECS})(?=_|$)", r"\1*", kernel)


def table_text(shaders):
    lines = ["# Registers and private arrays by kernel", "",
             "By `tools/msl/private_arrays.py table`: what `ptxas -v` gives for sm_90, of kernels that differ in the codec",
             "alone (`*`) the most. Arrays: bytes of a thread's own arrays that are in memory (local memory in PTX);",
             "spilled: bytes of registers. `private_arrays.py check` fails where there is an array in memory.", "",
             "| shader | kernels | | registers | arrays | spilled |", "|---|---|---:|---:|---:|---:|"]
    for name in shaders:
        with tempfile.TemporaryDirectory() as folder:
            entries, ptx = ptx_entries(name, folder)
            rows = ptxas_rows(ptx)
        families = {}
        for i, (kernel, body) in enumerate(entries):
            registers, spilled, _ = rows[i]
            families.setdefault(_family(kernel), []).append((registers, local_bytes(body), spilled))
        for family, found in families.items():
            most = [max(column) for column in zip(*found)]
            lines.append(f"| {name} | {family} | {len(found)} | {most[0]} | {most[1]} | {most[2]} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("check", "table"))
    parser.add_argument("shaders", nargs="*")
    args = parser.parse_args()
    all_shaders = sorted(f[:-6] for f in os.listdir(os.path.join(ROOT, "shaders")) if f.endswith(".metal"))
    if args.command == "table":
        with open(TABLE, "w", encoding="utf-8") as f:
            f.write(table_text(args.shaders or all_shaders))
        return 0
    faults = [f for name in args.shaders or all_shaders for f in check(name)]
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
