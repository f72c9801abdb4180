#!/usr/bin/env python3
"""Mutation check of the matrix shaders: each mutant, a plausible mistake, must be caught by
the tests on the host executor. Works on a copy of the last commit.

  check_mutants.py [--copy DIR] [--only N]
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

# (file, what stands there, what the mutant has, what the mistake is)
MUTANTS = [
    ("common/staged_gemm.h", "    threadgroup_barrier(mem_flags::mem_threadgroup);\n", "", "no barrier after staging"),
    ("common/staged_gemm.h", "  wait_for_copies<0>();\n  threadgroup_barrier(mem_flags::mem_threadgroup);\n", "",
     "sums overwrite activations that are still read"),
    ("common/staged_gemm.h", "stage + (slot == 0 ? 2 : slot - 1) * stage_size", "stage + slot * stage_size",
     "stages into the slot being read"),
    ("common/staged_gemm.h", "slot = slot == 2 ? 0 : slot + 1;", "slot = slot == 1 ? 0 : slot + 1;", "two slots of three"),
    ("common/staged_gemm.h", "first_token + token < tokens", "first_token + token <= tokens", "a token past the end"),
    ("common/staged_gemm.h", "end = min(begin + per_part, m.units)", "end = begin + per_part", "units past the end"),
    ("common/staged_gemm.h", "(3 * 8 * (columns)*64)", "(2 * 8 * (columns)*64)", "staging memory too small"),
    ("common/staged_gemm.h", "    if (row >= rows) continue;\n", "", "rows past the end"),
    ("common/unit_layout.h", "words[q / per_word] >> (q % per_word * kWidth) & mask",
     "words[q / per_word] >> ((q % per_word ^ 1) * kWidth) & mask", "swapped codes of a word"),
    ("common/unit_layout.h", "+ 2 * part :", "+ 2 * (part ^ 1) :", "scale of the wrong group"),
    ("common/unit_layout.h", "unit >> (m.group_shift - 6)", "unit >> (m.group_shift - 5)", "scale of the wrong unit"),
    ("common/unit_layout.h", "return m.minima == 2 ? -scale * v : v;", "return v;", "integer zeros taken for minima"),
    ("common/linear.h", "at[8] = sums.e[2];", "at[8] = sums.e[1];", "rows and tokens mixed up"),
    ("common/codecs.h", "as_type<half2>(w << 3 & 0x8E008E00u)", "as_type<half2>(w << 2 & 0x8E008E00u)",
     "E2M1 exponent off by one"),
    ("common/codecs.h", "half2(-64.0h - half(p.offset))", "half2(-63.0h - half(p.offset))", "high nibbles off by one"),
    ("marlin_gemm.metal", "part < parts; ++part", "part + 1 < parts; ++part", "last part of a split product lost"),
    ("decode_gemv.metal", "  threadgroup_barrier(mem_flags::mem_threadgroup);\n", "", "no barrier before adding up"),
    ("decode_gemv.metal", "s < simdgroups; ++s", "s + 1 < simdgroups; ++s", "last simdgroup's sums lost"),
    ("common/tile_multiply.h", "weights + 128 * h + 8 * k, 16", "weights + 8 * h + 128 * k, 16", "staged tiles swapped"),
    ("common/unit_stream.h", "min(block, last_block)", "min(0u * block, last_block)", "second block of a band taken for the first"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="number of one mutant")
    parser.add_argument("--copy", help="where the copy and its build are, or are made and kept; default: a temporary folder")
    args = parser.parse_args()
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = args.copy or os.path.join(folder, "copy")
        if os.path.exists(copy):
            subprocess.run(["git", "-C", copy, "fetch", "-q", root, "HEAD"], check=True)
            subprocess.run(["git", "-C", copy, "reset", "-q", "--hard", "FETCH_HEAD"], check=True)
        else:
            subprocess.run(["git", "clone", "-q", root, copy], check=True)
        configure = ["cmake", "-S", copy, "-B", copy + "/build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                     "-DMETAL_MARLIN_PTX=OFF", "-DMETAL_MARLIN_BENCHMARKS=OFF"]
        build = ["cmake", "--build", copy + "/build", "--target", "metal_marlin_tests"]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        for number, (name, old, new, what) in enumerate(MUTANTS):
            if args.only is not None and number != args.only:
                continue
            path = os.path.join(copy, "shaders", name)
            shutil.copy(path, path + ".kept")
            with open(path, encoding="utf-8") as f:
                text = f.read()
            if old not in text:
                sys.exit(f"{name}: mutant {number} ({what}): its text is gone: {old!r}")
            with open(path, "w", encoding="utf-8") as f:
                f.write(text.replace(old, new))
            if subprocess.run(build, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
                sys.exit(f"{name}: mutant {number} ({what}) does not compile")
            test = subprocess.run([copy + "/build/tests/metal_marlin_tests", "--gtest_filter=*LinearOp*"],
                                  capture_output=True, text=True)
            lines = [line for line in test.stdout.split("\n") if "[  FAILED  ]" in line]
            caught = f"{len(lines)} failures" if test.returncode != 0 else ""
            print(f"{number:2} {'caught' if caught else 'SURVIVED':8} {what}: {caught}", flush=True)
            if not caught:
                survived.append(what)
            os.replace(path + ".kept", path)
    print(f"{len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
