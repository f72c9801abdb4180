#!/usr/bin/env python3
"""Registers of the matrix kernels: what shaders/common/register_budget.h counts, and what ptxas gives NVIDIA's form of
the same text in the tiles that Metal's form has. Writes benchmarks/registers.md.

  benchmarks/registers.py [--shader NAME]... [--output FILE]

Needs clang-19 and ptxas (CUDA). Of kernels that differ in the codec alone, the one that holds most is shown."""
import argparse
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tools/msl"))
import uses  # noqa: E402
from compile import Shader, clangs_ptx  # noqa: E402
from private_arrays import CODECS  # noqa: E402

SHADERS = ["simdgroup_attention", "paged_attention", "decode_gemv", "marlin_gemm", "gemm_fp4_optimized",
           "kernels_autotune", "dense_gemm", "sparse_gemm", "batched_gemm", "moe_expert_gemm", "moe_shared_expert"]


def compile_in_metals_tiles(name, folder):
    """(shader, PTX) with an entry a matrix kernel, nothing else."""
    shader = Shader(os.path.join(ROOT, f"shaders/{name}.metal"),
                    defines=["__METAL_MARLIN_PTX__=1", "MM_METAL_TILES=1"])
    counts = uses.constants_of_kernels(shader.plain, shader.kernels, [("msl_note_registers", "", 0)])
    shader.kernels = [k for k, (counted,) in zip(shader.kernels, counts) if counted]
    ptx = os.path.join(folder, name + ".ptx")
    clangs_ptx(shader, ptx, True)
    return shader, ptx


def budgets_of(ptx):
    """{entry: registers} of the kernels that count theirs."""
    found = {}
    with open(ptx, encoding="utf-8") as f:
        entry = None
        for line in f:
            if match := re.search(r"\.entry (msl_entry_\d+)", line):
                entry = match[1]
            if match := re.search(r"// registers (\d+)", line):
                found[entry] = int(match[1])
    return found


def ptxas_of(ptx, entries, limit):
    """{entry: (registers, bytes spilled)} where a thread has `limit` registers."""
    chosen = [a for e in entries for a in ("-e", e)]
    done = subprocess.run(["ptxas", "-v", "-arch=sm_90", f"-maxrregcount={limit}", *chosen, ptx, "-o", os.devnull],
                          capture_output=True, text=True, check=True)
    found, entry, spilled = {}, None, 0
    for line in done.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            entry = match[1]
        if match := re.search(r"(\d+) bytes spill stores", line):
            spilled = int(match[1])
        if (match := re.search(r"Used (\d+) registers", line)) and entry:
            found[entry] = (int(match[1]), spilled)
    return found


def rows_of(name):
    with tempfile.TemporaryDirectory() as folder:
        shader, ptx = compile_in_metals_tiles(name, folder)
        budgets = budgets_of(ptx)
        free, limited = ptxas_of(ptx, sorted(budgets), 255), ptxas_of(ptx, sorted(budgets), 128)
    rows = {}
    for i, kernel in enumerate(shader.kernels):
        entry = f"msl_entry_{i}"
        if entry in budgets:
            kind = re.sub(rf"_(?:{CODECS})(?=_|$)", "_*", kernel.name)
            row = (budgets[entry], free[entry][0], limited[entry][1])
            rows.setdefault(kind, []).append(row)
    return {kind: [max(column) for column in zip(*some)] for kind, some in rows.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shader", action="append", choices=SHADERS)
    parser.add_argument("--output", default=os.path.join(ROOT, "benchmarks/registers.md"))
    args = parser.parse_args()
    lines = ["# Registers of the matrix kernels",
             "",
             "32-bit registers that a thread holds at once, by `benchmarks/registers.py`. Counted: by",
             "`shaders/common/register_budget.h` for Metal's form, at most 128 or it does not compile. ptxas: what NVIDIA's",
             "form of the same text takes in the same tiles (sm_90) where it may take 255, and what it spills, in bytes, where",
             "it may take 128. It loads ahead as long as there are registers, so the first says little; the second tells",
             "whether the tiles fit, with some bytes to spare: NVIDIA holds addresses and parameters that a threadgroup's",
             "threads share in registers of each thread, and decode_gemv's form for it a ring of copies that Metal's lacks",
             "(`_4`). `*`: of all codecs the most.",
             "",
             "| kernel | counted | ptxas, of 255 | spilled, of 128 |",
             "|---|---:|---:|---:|"]
    for name in args.shader or SHADERS:
        for kind, (counted, registers, spilled) in rows_of(name).items():
            lines.append(f"| {kind} | {counted} | {registers} | {spilled} |")
            print(lines[-1], flush=True)
    with open(args.output, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
