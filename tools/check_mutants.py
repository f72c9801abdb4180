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
    "flash_attention": "*PackedAttention*", "flash_attention_v2": "*PackedAttention*:*ByTiles*", "gemm_epilogue": "*Epilogue*",
    "gemm_fp4_optimized": "*LinearOp*", "hadamard": "*Hadamard*", "kernels_autotune": "*Autotune*",
    "marlin_gemm": "*LinearOp*:TileMap.*", "mla_proj": "*LatentAttention*", "moe_dispatch": "*MoeDispatch*",
    "moe_dispatch_optimized": "*MoeExperts*", "moe_expert_gemm": "*MoeExperts*", "moe_router": "*MoeRouter*",
    "moe_shared_expert": "*SharedExpert*", "paged_attention": "*PagedAttention*", "rope": "*Rope*",
    "rwkv_wkv": "*Rwkv*", "sampling": "*Sampling*", "simdgroup_attention": "*PackedAttention*:*ByTiles*", "sparse": "*/Sparse.*",
    "sparse_gemm": "*SparseProduct*", "vision_preprocess": "*Vision*"}
# Shaders whose kernels are written in a header.
BODIES = {"dequant": "common/dequantize.h", "dequant_fp8": "common/dequantize.h", "dequant_int8": "common/dequantize.h",
          "dequant_sub4bit": "common/dequantize.h", "gemm_fp4_optimized": "common/staged_gemm.h"}
MADE_FOR_EACH = 5
LEAST_CAUGHT = 90  # percent
NO_END = 120  # seconds, many times what the unchanged tests of any shader take
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


class Copy:
    """A copy of the last commit with a build of its own, in which mutants are tried one at a time."""

    def __init__(self, root, folder):
        self.folder = folder
        if os.path.exists(folder):
            subprocess.run(["git", "-C", folder, "fetch", "-q", root, "HEAD"], check=True)
            subprocess.run(["git", "-C", folder, "reset", "-q", "--hard", "FETCH_HEAD"], check=True)
        else:
            subprocess.run(["git", "clone", "-q", root, folder], check=True)
        # Most mutants fail without the detectors, whose build takes as long again.
        self.builds_of = {folder + "/build-plain": "OFF", folder + "/build-detectors": "ON"}
        for build, detectors in self.builds_of.items():
            subprocess.run(["cmake", "-S", folder, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                            "-DMETAL_MARLIN_MSL_HOST=ON", "-DMETAL_MARLIN_TESTS=ON", "-DMETAL_MARLIN_DETECTORS=" + detectors,
                            "-DCMAKE_EXE_LINKER_FLAGS=-fuse-ld=lld"], check=True, stdout=subprocess.DEVNULL)
            if not self.make(build):
                sys.exit(f"{build}: the unchanged copy does not build")

    @staticmethod
    def make(build):
        command = ["cmake", "--build", build, "--target", "metal_marlin_tests"]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

    def read(self, name):
        with open(os.path.join(self.folder, "shaders", name), encoding="utf-8") as f:
            return f.read()

    @staticmethod
    def failing_test(build, tests):
        """The first that fails, or "": none does."""
        command = [build + "/tests/metal_marlin_tests", "--gtest_fail_fast", "--gtest_filter=" + tests]
        test = subprocess.run(command, capture_output=True, text=True, timeout=NO_END)
        if test.returncode == 0:
            return ""
        failed = re.search(r"\[  FAILED  \] (\S+?),? ", test.stdout)
        return failed.group(1) if failed else f"exit status {test.returncode}"

    def check_unchanged(self, tests):
        """A mutant is caught by tests that the unchanged copy passes, or not at all."""
        build = next(iter(self.builds_of))
        failed = self.failing_test(build, tests) if self.make(build) else "does not build"
        if failed:
            sys.exit(f"{self.folder}: the unchanged copy fails: {failed}")

    def failure(self, name, text, tests):
        """The first failing test where file `name` of the shaders holds `text`, "" if none fails; None: it does not compile."""
        path = os.path.join(self.folder, "shaders", name)
        shutil.copy(path, path + ".kept")
        try:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            for build in self.builds_of:
                if not self.make(build):
                    return None
                failed = self.failing_test(build, tests)
                if failed:
                    return failed
            return ""
        except subprocess.TimeoutExpired:
            return "no end"
        finally:
            os.replace(path + ".kept", path)
            os.utime(path)  # newer than what was built of the mutant


class Tally:
    """What became of the mutants, a line each as they come."""

    def __init__(self):
        self.tried, self.survived = 0, []

    def add(self, name, what, failure):
        self.tried += 1
        if not failure:
            self.survived.append(what)
        print(f"{name}: {what}: " + (f"caught by {failure}" if failure else "SURVIVED"), flush=True)


def try_chosen(copy, numbers, tally):
    if numbers:
        copy.check_unchanged("*LinearOp*")
    for number in numbers:
        name, old, new, what = MUTANTS[number]
        text = copy.read(name)
        if old not in text:
            sys.exit(f"{name}: mutant {number} ({what}): its text is gone: {old!r}")
        failure = copy.failure(name, text.replace(old, new), "*LinearOp*")
        if failure is None:
            sys.exit(f"{name}: mutant {number} ({what}) does not compile")
        tally.add(f"{number}", what, failure)


def try_made(copy, shader, tally):
    """The first mutants of a shader that compile: what does not is no shader."""
    name, sites = made_mutants(os.path.join(copy.folder, "shaders"), shader)
    copy.check_unchanged(SHADER_TESTS[shader])
    made = 0
    for number, old, new in sites:
        if made == MADE_FOR_EACH:
            break
        lines = copy.read(name).split("\n")
        lines[number] = new
        failure = copy.failure(name, "\n".join(lines), SHADER_TESTS[shader])
        if failure is not None:
            made += 1
            tally.add(shader, f"{name}:{number + 1}: {old.strip()} -> {new.strip() or '(nothing)'}", failure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, choices=range(len(MUTANTS)), metavar="N", help="number of one chosen mutant")
    parser.add_argument("--shader", nargs="+", choices=sorted(SHADER_TESTS), help="only mutants by rule, of these")
    parser.add_argument("--list", action="store_true", help="show the mutants by rule, run nothing")
    parser.add_argument("--copy", help="where the copy and its build are, or are made and kept; default: a temporary folder")
    args = parser.parse_args()
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    shaders = [] if args.only is not None else args.shader or sorted(SHADER_TESTS)
    if args.list:
        for shader in shaders:
            for number, old, new in made_mutants(os.path.join(root, "shaders"), shader)[1][:MADE_FOR_EACH]:
                print(f"{shader}:{number + 1}: {old.strip()}  ->  {new.strip() or '(nothing)'}")
        return 0
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(root, args.copy or os.path.join(folder, "copy"))
        try_chosen(copy, [args.only] if args.only is not None else [] if args.shader else range(len(MUTANTS)), tally)
        for shader in shaders:
            try_made(copy, shader, tally)
    caught = tally.tried - len(tally.survived)
    print(f"{caught} of {tally.tried} caught ({100 * caught / max(tally.tried, 1):.0f}%, at least {LEAST_CAUGHT} wanted)")
    return 0 if 100 * caught >= LEAST_CAUGHT * tally.tried else 1


if __name__ == "__main__":
    sys.exit(main())
