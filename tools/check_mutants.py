#!/usr/bin/env python3
"""Mutation check of the shaders: each mutant, a plausible mistake, must be caught by the tests on
the host executor. Works on a copy of the last commit. Mutants of the matrix shaders are chosen by
hand; of every shader five more are made by rule, at places that a seed picks: an operator or bound
changed, a number off by one, a barrier dropped.

  check_mutants.py [--copy DIR] [--only N] [--shader NAME...] [--list]
"""
import argparse
import os
import random
import re
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


# The tests of each shader.
SHADER_TESTS = {
    "all_reduce": "*AllReduce*", "attention": "*PackedAttention*", "batched_gemm": "*BatchedGemm*", "bf16_compat": "*Bf16*",
    "decode_gemv": "*LinearOp*", "dense_gemm": "*LinearOp*", "dequant": "*Dequant*", "dequant_fp8": "*Dequant*",
    "dequant_int8": "*Dequant*", "dequant_sub4bit": "*Dequant*", "diff_attention": "*PackedAttention*",
    "flash_attention": "*PackedAttention*", "flash_attention_v2": "*PackedAttention*", "gemm_epilogue": "*Epilogue*",
    "gemm_fp4_optimized": "*LinearOp*", "hadamard": "*Hadamard*", "kernels_autotune": "*Autotune*", "marlin_gemm": "*LinearOp*",
    "mla_proj": "*Golden*glm4*msl_host*", "moe_dispatch": "*MoeDispatch*", "moe_dispatch_optimized": "*MoeExperts*",
    "moe_expert_gemm": "*MoeExperts*", "moe_router": "*MoeRouter*", "moe_shared_expert": "*SharedExpert*",
    "paged_attention": "*PagedAttention*", "rope": "*Rope*", "rwkv_wkv": "*Rwkv*", "sampling": "*Sampling*",
    "simdgroup_attention": "*PackedAttention*", "sparse": "*Sparse*", "sparse_gemm": "*SparseLinearOp*",
    "vision_preprocess": "*Vision*"}
# Shaders whose kernels are written in a header.
BODIES = {"dequant": "common/dequantize.h", "dequant_fp8": "common/dequantize.h", "dequant_int8": "common/dequantize.h",
          "dequant_sub4bit": "common/dequantize.h", "gemm_fp4_optimized": "common/staged_gemm.h"}
MADE_FOR_EACH = 5
# (what stands there, what the mutant has)
RULES = [(r" < ", " <= "), (r" <= ", " < "), (r" >= ", " > "), (r" \+ ", " - "), (r" - ", " + "), (r" \* ", " + "), (r" / ", " * "),
         (r" == ", " != "), (r"\bmin\(", "max("), (r"\bmax\(", "min("), (r" \+= ", " = "), (r" << ", " >> "), (r" % ", " / "),
         (r"(?<![\w.#\"])([1-9]\d*)(?![\w.])", lambda m: str(int(m.group(1)) + 1))]


def made_mutants(shaders, shader):
    """Mutants of a shader by rule: (file, line, what stands there, what the mutant has)."""
    name = BODIES.get(shader, shader + ".metal")
    with open(os.path.join(shaders, name), encoding="utf-8") as f:
        lines = f.read().split("\n")
    sites, code = [], False
    for number, line in enumerate(lines):
        text = line.split("//")[0]
        if text.startswith("#define"):
            code = False
        if "threadgroup_barrier(" in text:
            sites.append((number, line, ""))
        if code and "[[" not in text and not text.startswith("#"):
            for pattern, new in RULES:
                for m in re.finditer(pattern, text):
                    changed = new(m) if callable(new) else new
                    sites.append((number, line, line[:m.start()] + changed + line[m.end():]))
        if text.rstrip().endswith("{") and not text.startswith("struct"):
            code = True
        elif text.startswith("}"):
            code = False
    random.Random(shader).shuffle(sites)
    return name, sites


def by_rule(shaders, names):
    for shader in names:
        name, sites = made_mutants(shaders, shader)
        for number, old, new in sites:
            yield shader, name, number, old, new


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help="number of one mutant")
    parser.add_argument("--shader", nargs="+", choices=sorted(SHADER_TESTS), help="only mutants by rule, of these")
    parser.add_argument("--list", action="store_true", help="show the mutants by rule, run nothing")
    parser.add_argument("--copy", help="where the copy and its build are, or are made and kept; default: a temporary folder")
    args = parser.parse_args()
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    shaders = args.shader or sorted(SHADER_TESTS)
    if args.list:
        for shader in shaders:
            for number, old, new in made_mutants(os.path.join(root, "shaders"), shader)[1][:MADE_FOR_EACH]:
                print(f"{shader}:{number + 1}: {old.strip()}  ->  {new.strip() or '(nothing)'}")
        return 0
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
        def caught(path, text, tests):
            """The failures of a mutant; None: it does not compile."""
            shutil.copy(path, path + ".kept")
            try:
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
                if subprocess.run(build, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
                    return None
                try:
                    test = subprocess.run([copy + "/build/tests/metal_marlin_tests", "--gtest_filter=" + tests],
                                          capture_output=True, text=True, timeout=600)
                except subprocess.TimeoutExpired:
                    return "no end"
                failures = sum("[  FAILED  ]" in line for line in test.stdout.split("\n"))
                return f"{failures} failures" if test.returncode != 0 else ""
            finally:
                os.replace(path + ".kept", path)

        def report(name, what, found):
            print(f"{name} {'caught' if found else 'SURVIVED':8} {what}: {found}", flush=True)
            if not found:
                survived.append(what)

        for number, (name, old, new, what) in enumerate([] if args.shader else MUTANTS):
            if args.only is not None and number != args.only:
                continue
            path = os.path.join(copy, "shaders", name)
            with open(path, encoding="utf-8") as f:
                text = f.read()
            if old not in text:
                sys.exit(f"{name}: mutant {number} ({what}): its text is gone: {old!r}")
            found = caught(path, text.replace(old, new), "*LinearOp*")
            if found is None:
                sys.exit(f"{name}: mutant {number} ({what}) does not compile")
            report(f"{number:2}", what, found)
        made = dict.fromkeys(shaders, 0)
        for shader, name, number, old, new in [] if args.only is not None else by_rule(os.path.join(copy, "shaders"), shaders):
            if made[shader] == MADE_FOR_EACH:
                continue
            path = os.path.join(copy, "shaders", name)
            with open(path, encoding="utf-8") as f:
                lines = f.read().split("\n")
            lines[number] = new
            found = caught(path, "\n".join(lines), SHADER_TESTS[shader])
            if found is None:  # not a mutant, but no shader either
                continue
            made[shader] += 1
            report(shader, f"{name}:{number + 1}: {old.strip()} -> {new.strip() or '(nothing)'}", found)
    print(f"{len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
