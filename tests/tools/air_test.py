#!/usr/bin/env python3
"""metal-marlin-air: small kernels in AIR's text, run on the host executor, against references in exact or double
arithmetic. Usage: air_test.py PROGRAM AIR_TOOL [unittest's arguments]"""
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
from fractions import Fraction

from air_module import BITS, Module, buffer, builtin, llvm_type, slots_kernel
from air_numbers import FORMATS, f32, is_nan, number, read_npy, rounded, signed, write_npy

PROGRAM, TOOL = sys.argv[1:3]


class AirTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, module, name="a.ll"):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(module if isinstance(module, str) else module.text())
        return path

    def tool(self, *arguments):
        done = subprocess.run([TOOL, *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def run_kernel(self, path, kernel, inputs, output, threads, group=None, more=(), code="Q", fails=None):
        """inputs: by index, values with their npy type; output: index, and bytes where it is no input."""
        command = [PROGRAM, "shaders", "run", path, "--kernel", kernel, "--grid", str(threads), "--threads", str(group or threads)]
        for index, (values, kind) in inputs.items():
            name = os.path.join(self.folder, f"in{index}.npy")
            write_npy(name, values, kind)
            command += ["--buffer", f"{index}={name}"]
        out = os.path.join(self.folder, "out.npy")
        command += ["--output", f"{output[0]}={out}:u1", *more]
        if output[0] not in inputs:
            command += ["--buffer", f"{output[0]}=zeros:{output[1]}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if fails is not None:
            self.assertNotEqual(done.returncode, 0, done.stdout)
            self.assertRegex(done.stderr, fails)
            return None
        self.assertEqual(done.returncode, 0, done.stderr)
        return read_npy(out, code)

    def call_all(self, inputs, calls, rows, group=None, more=()):
        """Rows of slots through calls: rows of the results' slots."""
        module = Module()
        slots_kernel(module, "k", inputs, calls)
        got = self.run_kernel(self.write(module), "k", {0: ([b for row in rows for b in row], "u8")},
                              (1, 8 * len(rows) * len(calls)), len(rows), group, more)
        return [got[i * len(calls):(i + 1) * len(calls)] for i in range(len(rows))]

    def same(self, kind, got, expected, what):
        if kind in FORMATS and is_nan(kind, expected):
            self.assertTrue(is_nan(kind, got), f"{what}: {got:#x}, expected a NaN")
        else:
            self.assertEqual(got, expected, f"{what}: {got:#x}, expected {expected:#x}")


class Conversions(AirTest):
    EDGES = {
        "f32": [0, 1, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F800000, 0xBF800000, 0x3F000000, 0x4EFFFFFF, 0x4F000000,
                0xCF000000, 0xCF000001, 0x5F000000, 0x5EFFFFFF, 0xDF000000, 0x437F0000, 0x437F8000, 0x43800000, 0xC3008000,
                0x477FE000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x3F808000, 0x3F818000, 0x3F808001, 0x00008000,
                0x7F7FFFFF, 0x47000000, 0xBF7FFFFF],
        "f16": [0, 1, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x3C00, 0x7BFF, 0xFBFF, 0x3555, 0x5BF8, 0xD801],
        "bf16": [0, 1, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x3F80, 0x7F7F, 0x4F00, 0xCF00, 0x437F, 0xC301, 0x3380],
        "i64": [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 24) + 1, (1 << 53) + 1, 65504, 65519, 65520, 257, 0x1010000000000001,
                0x1018000000000000, 0x0101010000000000, (1 << 62) + (1 << 38), (1 << 62) + (1 << 38) + 1],
        "i32": [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x01000001, 0x01000003, 0x00018081, 0x7FFFFF80, 0x7FFFFFC0],
    }

    def rows(self, kind):
        rng = random.Random(kind)
        return [[b] for b in self.EDGES[kind] + [rng.getrandbits(BITS[kind]) for _ in range(60)]]

    def test_to_nearest_saturating_and_nan_is_zero(self):
        floats, integers = ["f32", "f16", "bf16"], [s + "." + t for s in "su" for t in ("i8", "i16", "i32", "i64")]
        for source in ("f32", "f16", "bf16", "i64", "i32"):
            given = ["f." + source] if source in floats else ["s." + source, "u." + source]
            targets = ["f." + t for t in floats] + (integers + ["u.i1"] if source in floats else [])
            calls = [(f"air.convert.{t}.{g}", t.split(".")[1], [0]) for g in given for t in targets]
            rows = self.rows(source)
            for row, got in zip(rows, self.call_all([source], calls, rows)):
                for (name, kind, _), bits in zip(calls, got):
                    from_signed = f".s.{source}" in name[11:] and source not in floats
                    self.same(kind, bits, self.converted(name.split(".")[2], kind, source, row[0], from_signed),
                              f"{name}({row[0]:#x})")

    def converted(self, to, kind, source, bits, from_signed):
        value = number(source, bits) if source in FORMATS else signed(bits, BITS[source]) if from_signed else bits
        if kind in FORMATS:
            if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
                top = (FORMATS[kind][2] - FORMATS[kind][1] + 2) << (FORMATS[kind][0] - 1)
                return top | 1 if math.isnan(value) else top | int(value < 0) << (BITS[kind] - 1)
            if value == 0 and math.copysign(1, value) < 0:
                return 1 << (BITS[kind] - 1)
            return rounded(kind, Fraction(value))
        if kind == "i1":
            return int(value != 0)
        width = BITS[kind]
        low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if to == "s" else (0, (1 << width) - 1)
        if math.isnan(value):
            return 0
        whole = low if value <= low else high if value >= high else math.trunc(value)
        return whole & ((1 << width) - 1)

    def test_vectors_go_element_by_element(self):
        module = Module()
        module.declare("air.convert.f.v4f32.f.v4f16", "<4 x float>", ["<4 x half>"])
        module.declare("air.dot.v4f32", "float", ["<4 x float>"] * 2)
        module.kernel("k", [buffer("in", 0), buffer("out", 1, 4)], """
  %h = load <4 x half>, ptr addrspace(1) %in
  %f = call <4 x float> @air.convert.f.v4f32.f.v4f16(<4 x half> %h)
  %d = call float @air.dot.v4f32(<4 x float> %f, <4 x float> <float 1.0, float 10.0, float 100.0, float 1000.0>)
  store float %d, ptr addrspace(1) %out""")
        four = struct.unpack("<Q", struct.pack("<4e", 1, 2, 3, 0.5))[0]
        self.assertEqual(self.run_kernel(self.write(module), "k", {0: ([four], "u8")}, (1, 4), 1, code="f"), [821.0])

    def test_arithmetic_of_bfloat_is_rounded_each_time(self):
        rng = random.Random(3)
        rows = [[rng.getrandbits(16) & 0xBFFF | 0x3000, rng.getrandbits(16) & 0xBFFF | 0x3000] for _ in range(100)]
        rows += [[0x3F80, 0x3B80], [0x3F81, 0x3B80], [0x7F7F, 0x7F7F]]
        got = self.call_all(["bf16", "bf16"], [("fadd", "bf16", [0, 1]), ("fmul", "bf16", [0, 1])], rows)
        for (a, b), results in zip(rows, got):
            x, y = Fraction(number("bf16", a)), Fraction(number("bf16", b))
            for bits, exact in zip(results, (x + y, x * y)):
                by_float = struct.unpack("<f", struct.pack("<I", rounded("f32", exact)))[0]
                self.same("bf16", bits, rounded("bf16", Fraction(by_float)) if math.isfinite(by_float) else 0x7F80, f"{a:#x} {b:#x}")


class Functions(AirTest):
    def test_of_floats(self):
        rng = random.Random(5)
        near = {"exp": math.exp, "exp2": lambda x: 2.0 ** x, "sin": math.sin, "cos": math.cos, "tan": math.tan, "atan": math.atan,
                "tanh": math.tanh, "sinh": math.sinh, "cosh": math.cosh, "asinh": math.asinh, "floor": math.floor, "ceil": math.ceil,
                "trunc": math.trunc, "rint": round, "fabs": abs}
        positive = {"log": math.log, "log2": math.log2, "log10": math.log10, "sqrt": math.sqrt, "rsqrt": lambda x: 1 / math.sqrt(x)}
        for functions, values in ((near, [rng.uniform(-20, 20) for _ in range(100)] + [0.5, -0.5, 1.5, 2.5, -2.5]),
                                  (positive, [math.exp(rng.uniform(-60, 60)) for _ in range(100)])):
            calls = [(f"air.{fast}{name}.f32", "f32", [0]) for name in functions for fast in ("", "fast_")]
            rows = [[f32(v)] for v in values]
            for row, got in zip(rows, self.call_all(["f32"], calls, rows)):
                x = number("f32", row[0])
                for (name, _, _), bits in zip(calls, got):
                    exact = float(functions[name.split(".")[1].replace("fast_", "")](x))
                    self.assertLessEqual(abs(number("f32", bits) - exact), abs(exact) * 2.0 ** -24 * 1.01, f"{name}({x})")

    def test_of_two_and_three(self):
        nan, rows = 0x7FC00000, []
        rng = random.Random(6)
        for _ in range(60):
            rows.append([f32(rng.uniform(-9, 9)) for _ in range(3)])
        rows += [[nan, f32(1), f32(2)], [f32(1), nan, f32(2)], [f32(-3.5), f32(2), f32(0)], [f32(7), f32(-1), f32(5)]]
        calls = [("air.fmin.f32", "f32", [0, 1]), ("air.fmax.f32", "f32", [0, 1]), ("air.fmod.f32", "f32", [0, 1]),
                 ("air.atan2.f32", "f32", [0, 1]), ("air.clamp.f32", "f32", [0, 1, 2]), ("air.copysign.f32", "f32", [0, 1])]

        def least(x, y):
            return y if math.isnan(x) else x if math.isnan(y) else min(x, y)

        def greatest(x, y):
            return y if math.isnan(x) else x if math.isnan(y) else max(x, y)
        references = [least, greatest, math.fmod, math.atan2, lambda x, y, z: least(greatest(x, y), z), math.copysign]
        for row, got in zip(rows, self.call_all(["f32"] * 3, calls, rows)):
            values = [number("f32", b) for b in row]
            for (name, _, arguments), reference, bits in zip(calls, references, got):
                expected = reference(*[values[a] for a in arguments])
                self.same("f32", bits, f32(expected), f"{name}{values}")

    def test_of_integers(self):
        rng = random.Random(7)
        rows = [[rng.getrandbits(32) for _ in range(3)] for _ in range(40)] + [[0x80000000, 0xFFFFFFFF, 0], [0, 0, 0]]
        wide = 0xFFFFFFFF
        calls = {("air.min.s.i32", 2): lambda a, b: min(signed(a, 32), signed(b, 32)), ("air.max.u.i32", 2): max,
                 ("air.clamp.s.i32", 3): lambda a, b, c: min(max(signed(a, 32), signed(b, 32)), signed(c, 32)),
                 ("air.abs.s.i32", 1): lambda a: abs(signed(a, 32)), ("air.mul_hi.u.i32", 2): lambda a, b: a * b >> 32,
                 ("air.mul_hi.s.i32", 2): lambda a, b: signed(a, 32) * signed(b, 32) >> 32,
                 ("air.add_sat.s.i32", 2): lambda a, b: max(-1 << 31, min((1 << 31) - 1, signed(a, 32) + signed(b, 32))),
                 ("air.sub_sat.u.i32", 2): lambda a, b: max(0, a - b), ("air.popcount.i32", 1): lambda a: bin(a).count("1"),
                 ("air.reverse_bits.i32", 1): lambda a: int(f"{a:032b}"[::-1], 2),
                 ("air.rotate.i32", 2): lambda a, b: a << b % 32 | a >> (32 - b % 32) if b % 32 else a,
                 ("air.hadd.u.i32", 2): lambda a, b: a + b >> 1, ("air.rhadd.s.i32", 2): lambda a, b: signed(a, 32) + signed(b, 32) + 1 >> 1}
        table = [(name, "i32", list(range(count))) for name, count in calls] + [("air.clz.i32", "i32", [0, "i1 false"])]
        references = list(calls.values()) + [lambda a: 32 - a.bit_length()]
        for row, got in zip(rows, self.call_all(["i32"] * 3, table, rows)):
            for (name, _, arguments), reference, bits in zip(table, references, got):
                expected = reference(*[row[a] for a in arguments if isinstance(a, int)]) & wide
                self.same("i32", bits, expected, f"{name}{row}")


class Lanes(AirTest):
    """Two simdgroups, the second not whole."""
    COUNT = 50

    def groups(self, values):
        return [values[at:at + 32] for at in range(0, len(values), 32)]

    def check(self, calls, reference, kind="f32", width=32):
        rng = random.Random(8)
        values = [float(rng.randrange(-50, 50)) if kind == "f32" else rng.randrange(100) for _ in range(self.COUNT)]
        rows = [[f32(v) if kind == "f32" else v, 0] for v in values]
        for row, fill in zip(rows, reversed(rows)):
            row[1] = fill[0]
        got = self.call_all([kind, kind], calls, rows, self.COUNT)
        for first in range(0, self.COUNT, 32):
            lanes = values[first:first + 32]
            fills = [number(kind, r[1]) for r in rows[first:first + 32]]
            for lane in range(len(lanes)):
                for (name, result, arguments), bits in zip(calls, got[first + lane]):
                    expected = reference(name, arguments, lanes, fills, lane)
                    if expected is not None:
                        self.assertEqual(number(result, bits) if kind == "f32" else bits, expected, f"{name} lane {first + lane}")

    def test_moves(self):
        names = {"simd_shuffle": lambda i, n: n, "simd_shuffle_up": lambda i, n: i - n, "simd_shuffle_down": lambda i, n: i + n,
                 "simd_shuffle_xor": lambda i, n: i ^ n, "simd_shuffle_rotate_up": lambda i, n: (i - n) % 32,
                 "simd_shuffle_rotate_down": lambda i, n: (i + n) % 32, "simd_broadcast": lambda i, n: n}
        calls = [(f"air.{name}.{kind}", "f32" if kind == "f32" else "i32", [0, f"i16 {n}"]) for name in names for n in (1, 5)
                 for kind in ("f32",)]

        def moved(name, arguments, lanes, fills, lane):
            source = names[name.split(".")[1]](lane, int(arguments[1].split()[1]))
            if not 0 <= source < 32:
                return lanes[lane]
            return lanes[source] if source < len(lanes) else None  # an inactive lane's is undefined
        self.check(calls, moved)

    def test_filled_moves(self):
        calls = [(f"air.simd_shuffle_and_fill_{way}.f32", "f32", [0, 1, f"i16 {n}", f"i16 {width}"])
                 for way in ("up", "down") for n in (1, 3) for width in (8, 32)]

        def moved(name, arguments, lanes, fills, lane):
            by, width = (int(a.split()[1]) for a in arguments[2:])
            source = lane % width + (by if "down" in name else -by)
            inside, at = 0 <= source < width, lane - lane % width + source % width
            if at >= len(lanes):
                return None
            return (lanes if inside else fills)[at]
        self.check(calls, moved)

    def test_quads(self):
        names = {"quad_shuffle_xor": lambda i: i ^ 1, "quad_shuffle_down": lambda i: i + 1, "quad_broadcast": lambda i: 1}
        calls = [(f"air.{name}.f32", "f32", [0, "i16 1"]) for name in names] + [("air.quad_sum.f32", "f32", [0]),
                                                                              ("air.quad_max.f32", "f32", [0])]

        def expected(name, arguments, lanes, fills, lane):
            quad, at = lanes[lane & ~3:(lane & ~3) + 4], lane & 3
            if "sum" in name or "max" in name:
                return sum(quad) if "sum" in name else max(quad)
            source = names[name.split(".")[1]](at)
            return quad[at] if source > 3 else quad[source] if source < len(quad) else None
        self.check(calls, expected)

    def test_reductions_and_prefixes(self):
        names = {"sum": sum, "min": min, "max": max}
        calls = [(f"air.simd_{n}.f32", "f32", [0]) for n in names]
        calls += [("air.simd_prefix_inclusive_sum.f32", "f32", [0]), ("air.simd_prefix_exclusive_sum.f32", "f32", [0])]

        def expected(name, arguments, lanes, fills, lane):
            if "prefix" in name:
                return sum(lanes[:lane + ("inclusive" in name)])
            return names[name.split(".")[1][5:]](lanes)
        self.check(calls, expected)

    def test_integers_and_votes(self):
        wide = 0xFFFFFFFF

        def product(lanes):
            out = 1
            for x in lanes:
                out = out * x & wide
            return out

        def combined(f):
            def all_of(lanes):
                out = lanes[0]
                for x in lanes[1:]:
                    out = f(out, x)
                return out
            return all_of
        names = {"simd_sum.u.i32": sum, "simd_product.u.i32": product, "simd_or.u.i32": combined(lambda a, b: a | b),
                 "simd_and.u.i32": combined(lambda a, b: a & b), "simd_xor.s.i32": combined(lambda a, b: a ^ b),
                 "simd_max.s.i32": max, "simd_min.u.i32": min}
        calls = [(f"air.{n}", "i32", [0]) for n in names] + [("air.simd_ballot.i64", "i64", ["i1 true"]), ("air.simd_is_first", "i1", []),
                                                           ("air.simd_any", "i1", ["i1 false"]), ("air.simd_all", "i1", ["i1 true"])]

        def expected(name, arguments, lanes, fills, lane):
            if name[4:] in names:
                return names[name[4:]](lanes) & wide
            return {"air.simd_ballot.i64": (1 << len(lanes)) - 1, "air.simd_is_first": int(lane == 0), "air.simd_any": 0,
                    "air.simd_all": 1}[name]
        self.check(calls, expected, "i32")

    def test_lanes_that_meet_are_the_active_ones(self):
        module = Module()
        module.declare("air.simd_sum.s.i32", "i32", ["i32"])
        module.kernel("k", [buffer("out", 0, 4), builtin("i", "thread_position_in_grid")], """
  %odd = and i32 %i, 1
  %is = icmp eq i32 %odd, 1
  br i1 %is, label %yes, label %no
yes:
  %a = call i32 @air.simd_sum.s.i32(i32 %i)
  br label %end
no:
  %b = call i32 @air.simd_sum.s.i32(i32 %i)
  br label %end
end:
  %r = phi i32 [%a, %yes], [%b, %no]
  %at = zext i32 %i to i64
  %p = getelementptr i32, ptr addrspace(1) %out, i64 %at
  store i32 %r, ptr addrspace(1) %p""")
        got = self.run_kernel(self.write(module), "k", {}, (0, 128), 32, code="I")
        self.assertEqual(got, [sum(range(i % 2, 32, 2)) for i in range(32)])


class Matrices(AirTest):
    def module(self, kind, new_form, transposed):
        """c = 2 (a b + c) at row and column 1 of 10x10 matrices; a by way of memory, where a pair of it is read."""
        module, matrix = Module(), f"<64 x {llvm_type(kind)}>"
        element, pointer = llvm_type(kind), "ptr addrspace(1)"
        v = f"v64{kind}"
        tail = ["<2 x i64>"] * 3 if new_form else ["i64", "<2 x i64>", "i1"]
        module.declare(f"air.simdgroup_matrix_8x8_load.{v}.p1{kind}", matrix, [pointer, *tail])
        module.declare("air.simdgroup_matrix_8x8_load.v64f32.p1f32", "<64 x float>", [pointer, *tail])
        module.declare("air.simdgroup_matrix_8x8_store.v64f32.p1f32", "void", ["<64 x float>", pointer, *tail])
        multiply = f"air.simdgroup_matrix_8x8_multiply_accumulate.v64f32.{v}.{v}.v64f32"
        module.declare(multiply, "<64 x float>", [matrix, matrix, "<64 x float>"])

        def place(turned):
            if new_form:
                steps = "<i64 10, i64 1>" if turned else "<i64 1, i64 10>"
                return f"<2 x i64> <i64 8, i64 8>, <2 x i64> {steps}, <2 x i64> <i64 1, i64 {0 if turned else 1}>"
            return f"i64 10, <2 x i64> <i64 {0 if turned else 1}, i64 1>, i1 {'true' if turned else 'false'}"
        load = f"call {matrix} @air.simdgroup_matrix_8x8_load.{v}.p1{kind}"
        module.kernel("k", [buffer("a", 0, 4), buffer("b", 1, 4), buffer("c", 2, 4), builtin("i", "thread_position_in_grid")], f"""
  %m = alloca {{ {matrix} }}, align 256
  %x = {load}({pointer} %a, {place(False)})
  %y = {load}({pointer} %b, {place(transposed)})
  store {matrix} %x, ptr %m, align 256
  %pair = load <2 x {element}>, ptr %m
  %again = load {matrix}, ptr %m, align 256
  %z = call <64 x float> @air.simdgroup_matrix_8x8_load.v64f32.p1f32({pointer} %c, {place(False)})
  %s = call <64 x float> @{multiply}({matrix} %again, {matrix} %y, <64 x float> %z)
  %e = extractelement <64 x float> %s, i64 0
  %f = extractelement <64 x float> %s, i64 1
  %e2 = fmul float %e, 2.0
  %f2 = fmul float %f, 2.0
  %t0 = insertelement <64 x float> poison, float %e2, i64 0
  %t1 = insertelement <64 x float> %t0, float %f2, i64 1
  call void @air.simdgroup_matrix_8x8_store.v64f32.p1f32(<64 x float> %t1, {pointer} %c, {place(False)})""")
        return module

    def check(self, kind, new_form, transposed, more=()):
        rng = random.Random(9)
        a, b, c = ([float(rng.randrange(-8, 8)) for _ in range(100)] for _ in range(3))

        def given(values):
            if kind == "f32":
                return values, "f4"
            bits = [rounded(kind, Fraction(v)) for v in values]
            return [bits[i] | bits[i + 1] << 16 for i in range(0, len(bits), 2)], "u4"
        path = self.write(self.module(kind, new_form, transposed))
        got = self.run_kernel(path, "k", {0: given(a), 1: given(b), 2: (c, "f4")}, (2, None), 32, more=more, code="f")
        expected = list(c)
        for i in range(8):
            for j in range(8):
                places = [(j + 1) * 10 + k if transposed else (k + 1) * 10 + j + 1 for k in range(8)]
                total = c[(i + 1) * 10 + j + 1] + sum(a[(i + 1) * 10 + k + 1] * b[p] for k, p in enumerate(places))
                expected[(i + 1) * 10 + j + 1] = 2 * total
        self.assertEqual(got, expected)

    def test_products_of_every_type_and_form(self):
        self.check("f32", False, False)
        self.check("f16", False, True)
        self.check("bf16", True, False, ("--debug",))
        self.check("f32", True, True)

    def test_a_matrix_handed_on_is_named(self):
        module = Module()
        module.declare("air.simdgroup_matrix_8x8_rotate.v64f32", "<64 x float>", ["<64 x float>"])
        module.kernel("k", [buffer("a", 0)], "  %x = call <64 x float> @air.simdgroup_matrix_8x8_rotate.v64f32(<64 x float> zeroinitializer)")
        code, _, errors = self.tool("lower", self.write(module), "-o", os.path.join(self.folder, "a.o"))
        self.assertEqual(code, 5)
        self.assertIn("kernel k: a simdgroup matrix is used as in '%x = call", errors)


class Memory(AirTest):
    def shared_module(self, barrier):
        """Thread i writes its place, and reads the next one's."""
        module = Module()
        module.globals.append("@_ZZ1kvE6shared = internal addrspace(3) global [64 x i32] undef, align 4")
        module.declare("air.wg.barrier", "void", ["i32", "i32"])
        module.kernel("k", [buffer("out", 0, 4), builtin("i", "thread_index_in_threadgroup")], f"""
  %at = zext i32 %i to i64
  %mine = getelementptr [64 x i32], ptr addrspace(3) @_ZZ1kvE6shared, i64 0, i64 %at
  store i32 %i, ptr addrspace(3) %mine
  {"call void @air.wg.barrier(i32 2, i32 1)" if barrier else ""}
  %more = add i32 %i, 1
  %next = and i32 %more, 63
  %next64 = zext i32 %next to i64
  %other = getelementptr [64 x i32], ptr addrspace(3) @_ZZ1kvE6shared, i64 0, i64 %next64
  %v = load i32, ptr addrspace(3) %other
  %p = getelementptr i32, ptr addrspace(1) %out, i64 %at
  store i32 %v, ptr addrspace(1) %p""")
        return module

    def test_threadgroup_memory_and_barriers(self):
        path = self.write(self.shared_module(True))
        for more in ((), ("--debug",), ("--order", "reverse")):
            self.assertEqual(self.run_kernel(path, "k", {}, (0, 256), 64, more=more, code="I"), [(i + 1) % 64 for i in range(64)])

    def test_the_detectors_see_lowered_code(self):
        path = self.write(self.shared_module(False))
        self.run_kernel(path, "k", {}, (0, 256), 64, more=("--debug",), fails=r"kernel k: .*of shared")
        path = self.write(self.shared_module(True))
        self.run_kernel(path, "k", {}, (0, 128), 64, more=("--debug",), fails=r"access out of bounds: .*at offset 128 of out")

    def test_copies_are_seen_too(self):
        module = Module()
        module.globals.append("@copied = internal addrspace(3) global [4 x i32] undef, align 4")
        module.kernel("k", [buffer("in", 0, 4, access="read"), buffer("out", 1, 4)], """
  call void @llvm.memcpy.p3.p1.i64(ptr addrspace(3) align 4 @copied, ptr addrspace(1) align 4 %in, i64 16, i1 false)
  %p = getelementptr i32, ptr addrspace(3) @copied, i64 3
  %v = load i32, ptr addrspace(3) %p
  store i32 %v, ptr addrspace(1) %out""")
        module.declared["memcpy"] = "declare void @llvm.memcpy.p3.p1.i64(ptr addrspace(3), ptr addrspace(1), i64, i1)"
        path = self.write(module)
        for more in ((), ("--debug",)):
            self.assertEqual(self.run_kernel(path, "k", {0: ([1, 2, 3, 4], "u4")}, (1, 4), 1, more=more, code="I"), [4])
        self.run_kernel(path, "k", {0: ([1, 2, 3], "u4")}, (1, 4), 1, more=("--debug",), fails="access out of bounds: .*of in")

    def test_atomics(self):
        module = Module()
        atomic = "air.atomic.global"
        module.declare(f"{atomic}.add.f32", "float", ["ptr addrspace(1)", "float", "i32", "i32", "i1"])
        module.declare(f"{atomic}.cmpxchg.weak.i32", "i32", ["ptr addrspace(1)", "ptr", "i32", "i32", "i32", "i32", "i1"])
        for name in ("add.u.i32", "max.s.i32", "xchg.i32"):
            module.declare(f"{atomic}.{name}", "i32", ["ptr addrspace(1)", "i32", "i32", "i32", "i1"])
        module.kernel("k", [buffer("out", 0, 4), builtin("i", "thread_position_in_grid")], f"""
  %e = alloca i32
  %a = call i32 @{atomic}.add.u.i32(ptr addrspace(1) %out, i32 %i, i32 0, i32 2, i1 true)
  %p1 = getelementptr i32, ptr addrspace(1) %out, i64 1
  %b = call i32 @{atomic}.max.s.i32(ptr addrspace(1) %p1, i32 %i, i32 0, i32 2, i1 true)
  %p2 = getelementptr i32, ptr addrspace(1) %out, i64 2
  %c = call float @{atomic}.add.f32(ptr addrspace(1) %p2, float 0.5, i32 0, i32 2, i1 true)
  %p3 = getelementptr i32, ptr addrspace(1) %out, i64 3
  store i32 0, ptr %e
  %d = call i32 @{atomic}.cmpxchg.weak.i32(ptr addrspace(1) %p3, ptr %e, i32 7, i32 0, i32 0, i32 2, i1 true)
  %seen = load i32, ptr %e
  %first = icmp eq i32 %d, 0
  %count = zext i1 %first to i32
  %p4 = getelementptr i32, ptr addrspace(1) %out, i64 4
  %f = call i32 @{atomic}.add.u.i32(ptr addrspace(1) %p4, i32 %count, i32 0, i32 2, i1 true)
  %p5 = getelementptr i32, ptr addrspace(1) %out, i64 5
  %g = call i32 @{atomic}.add.u.i32(ptr addrspace(1) %p5, i32 %seen, i32 0, i32 2, i1 true)
  %p6 = getelementptr i32, ptr addrspace(1) %out, i64 6
  call void @{atomic}.store.i32(ptr addrspace(1) %p6, i32 3, i32 0, i32 2, i1 true)
  %h = call i32 @{atomic}.load.i32(ptr addrspace(1) %p6, i32 0, i32 2, i1 true)
  %p7 = getelementptr i32, ptr addrspace(1) %out, i64 7
  %j = call i32 @{atomic}.add.u.i32(ptr addrspace(1) %p7, i32 %h, i32 0, i32 2, i1 true)""")
        module.declare(f"{atomic}.store.i32", "void", ["ptr addrspace(1)", "i32", "i32", "i32", "i1"])
        module.declare(f"{atomic}.load.i32", "i32", ["ptr addrspace(1)", "i32", "i32", "i1"])
        path = self.write(module)
        for more in ((), ("--debug",)):
            got = self.run_kernel(path, "k", {}, (0, 32), 100, 50, more, "I")
            self.assertEqual(got, [4950, 99, f32(50), 7, 1, 99 * 7, 3, 300])


class Arguments(AirTest):
    def test_positions_of_every_kind(self):
        module = Module()
        module.declare("air.get_simdgroup_size.i16", "i16", [])
        sources = [("a", "thread_position_in_grid", "<3 x i32>", "uint3"), ("b", "thread_position_in_threadgroup", "<2 x i16>", "ushort2"),
                   ("c", "threadgroup_position_in_grid", "i32", "uint"), ("d", "threads_per_threadgroup", "<3 x i32>", "uint3"),
                   ("e", "threads_per_grid", "i16", "ushort"), ("f", "threadgroups_per_grid", "i32", "uint"),
                   ("g", "dispatch_threads_per_threadgroup", "i32", "uint"), ("h", "thread_index_in_threadgroup", "i16", "ushort"),
                   ("j", "thread_index_in_simdgroup", "i32", "uint"), ("l", "simdgroup_index_in_threadgroup", "i32", "uint"),
                   ("m", "threads_per_simdgroup", "i32", "uint"), ("n", "simdgroups_per_threadgroup", "i32", "uint"),
                   ("o", "thread_index_in_quadgroup", "i32", "uint"), ("p", "quadgroup_index_in_threadgroup", "i32", "uint"),
                   ("q", "quadgroups_per_threadgroup", "i32", "uint"), ("r", "thread_execution_width", "i32", "uint"),
                   ("s", "grid_origin", "i32", "uint")]
        lines = ["  %x = extractelement <3 x i32> %a, i64 0", "  %base = mul i32 %x, 17"]
        for k, (name, _, kind, _) in enumerate(sources):
            lines.append(f"  %e{k} = extractelement {kind} %{name}, i64 0" if "x" in kind else f"  %e{k} = or {kind} %{name}, 0")
            lines.append(f"  %v{k} = zext i16 %e{k} to i32" if "i16" in kind else f"  %v{k} = or i32 %e{k}, 0")
            lines.append(f"  %at{k} = add i32 %base, {k}\n  %i{k} = zext i32 %at{k} to i64\n"
                         f"  %p{k} = getelementptr i32, ptr addrspace(1) %out, i64 %i{k}\n  store i32 %v{k}, ptr addrspace(1) %p{k}")
        module.kernel("k", [buffer("out", 0, 4)] + [builtin(*s) for s in sources], "\n".join(lines))
        got = self.run_kernel(self.write(module), "k", {}, (0, 17 * 4 * 100), 100, 40, code="I")
        for i in range(100):
            local, group = i % 40, i // 40
            size = min(40, 100 - group * 40)
            self.assertEqual(got[17 * i:17 * i + 17], [i, local, group, size, 100, 3, 40, local, local % 32, local // 32, 32,
                                                       (size + 31) // 32, local % 4, local // 4, (size + 3) // 4, 32, 0], i)

    def test_function_constants_and_what_they_leave_out(self):
        module = Module()
        given = module.function_constant("scale", 300)
        module.function_constant("has_bias", 7, "i8", "bool")
        module.declared["defined"] = "declare i1 @air.is_function_constant_defined(ptr addrspace(2))"
        bias = buffer("bias", 1, 4, 2, "read", True)
        bias[2][:0] = ['!"air.function_constant"', "!{}"]
        module.kernel("k", [buffer("out", 0, 4), bias], f"""
  %s = load i32, ptr addrspace(2) @scale
  %h = load i8, ptr addrspace(2) @has_bias
  %early = load i32, ptr addrspace(2) %bias
  %has = icmp ne i8 %h, 0
  %b = select i1 %has, i32 %early, i32 5
  %sum = add i32 %s, %b
  %d = call i1 @air.is_function_constant_defined(ptr addrspace(2) {given})
  %more = select i1 %d, i32 1000, i32 0
  %r = add i32 %sum, %more
  store i32 %r, ptr addrspace(1) %out""")
        path = self.write(module)
        for more, expected in (((), 5), (("--constant", "300=i32:40"), 1045),
                               (("--constant", "300=i32:40", "--constant", "7=bool:1", "--bytes", "1=i32:100"), 1140)):
            for debug in ((), ("--debug",)):
                self.assertEqual(self.run_kernel(path, "k", {}, (0, 4), 1, more=(*more, *debug), code="I"), [expected])
        code, out, _ = self.tool("list", path, "--json")
        self.assertEqual(code, 0)
        listed = json.loads(out)[0]
        self.assertEqual(listed["constants"], [{"name": "scale", "type": "int", "index": 300, "size": 4},
                                               {"name": "has_bias", "type": "bool", "index": 7, "size": 1}])
        self.assertEqual([(a["name"], a["kind"], a["index"], a["bytes"], a["optional"]) for a in listed["arguments"]],
                         [("out", "buffer", 0, False, False), ("bias", "buffer", 1, True, True)])

    def test_dynamic_threadgroup_memory(self):
        module = Module()
        module.kernel("k", [buffer("out", 0, 4), buffer("memory", 1, 4, 3), builtin("i", "thread_position_in_grid")], """
  %at = zext i32 %i to i64
  %t = getelementptr i32, ptr addrspace(3) %memory, i64 %at
  store i32 %i, ptr addrspace(3) %t
  %v = load i32, ptr addrspace(3) %t
  %p = getelementptr i32, ptr addrspace(1) %out, i64 %at
  store i32 %v, ptr addrspace(1) %p""")
        got = self.run_kernel(self.write(module), "k", {}, (0, 16), 4, more=("--threadgroup", "1=16", "--debug"), code="I")
        self.assertEqual(got, [0, 1, 2, 3])


class Errors(AirTest):
    def fails(self, module, code, message, *arguments):
        path = self.write(module) if not isinstance(module, bytes) else os.path.join(self.folder, "x.metallib")
        if isinstance(module, bytes):
            with open(path, "wb") as f:
                f.write(module)
        found, _, errors = self.tool(*(arguments or ("lower",)), path, "-o", os.path.join(self.folder, "a.o"))
        self.assertRegex(errors, message)
        self.assertEqual(found, code, errors)

    def calling(self, name, result="void", body=None, more=()):
        module = Module()
        module.declare(name, result, [])
        module.kernel("k", [buffer("out", 0), *more], body or f"  call {result} @{name}()")
        return module

    def test_unknown_functions_are_named(self):
        self.fails(self.calling("air.frobnicate.f32"), 5, r"kernel k calls air\.frobnicate\.f32, which is not supported")
        self.fails(self.calling("__tensorops_impl_matmul2d_op_run"), 5, "__tensorops_impl_matmul2d_op_run, one of Metal 4's tensor operations")
        self.fails(self.calling("air.exp.f32"), 5, r"calls air\.exp\.f32 as void \(\), expected float \(float\)")

    def test_arguments_of_other_kinds_are_named(self):
        texture = ("t", "ptr addrspace(1)", ['!"air.texture"', '!"air.location_index"', "i32 0"])
        self.fails(self.calling("air.frobnicate", more=[texture]), 5, r"kernel k, argument 1 \(t\): arguments of kind texture are not supported")
        odd = builtin("v", "thread_position_in_grid", "i64", "ulong")
        self.fails(self.calling("air.frobnicate", more=[odd]), 5, r"argument 1 \(v\) of type ulong: expected up to three integers")

    def test_recursion_is_named(self):
        module = Module()
        module.kernel("k", [buffer("out", 0)], "  %x = call i32 @again(i32 5)\n  store i32 %x, ptr addrspace(1) %out")
        module.functions.append("define i32 @again(i32 %n) {\n  %m = sub i32 %n, 1\n  %c = icmp eq i32 %m, 0\n"
                                "  br i1 %c, label %end, label %more\nmore:\n  %y = call i32 @again(i32 %m)\n  ret i32 %y\nend:\n  ret i32 1\n}")
        self.fails(module, 5, "kernel k: again is recursive")

    def test_code_that_no_kernel_calls_is_named(self):
        good = self.shared().text()
        boom = "define internal void @boom() {\n  store volatile i32 1, ptr null\n  ret void\n}\n"
        listed = "@llvm.global_{}tors = appending global [1 x {{ i32, ptr, ptr }}] [{{ i32, ptr, ptr }} {{ i32 65535, ptr @{}, ptr null }}]\n"
        for more, fault in ((boom + listed.format("c", "boom"), r"static initialiser boom \(llvm\.global_ctors\) does more"),
                            (listed.format("c", "abort") + "declare void @abort()", "llvm.global_ctors names what is no function"),
                            (boom + listed.format("c", "other") + "@other = alias void (), ptr @boom", "ctors names what is no function"),
                            (boom.replace("store volatile i32 1, ptr null", "call void asm sideeffect \"ud2\", \"\"()") +
                             listed.format("c", "boom"), "initialiser boom"),
                            (boom + listed.format("d", "boom"), "llvm.global_dtors: what runs when a library goes"),
                            ('module asm "nop"', "the module has assembly")):
            self.fails(good + more, 5, "kernel k: .*" + fault)
            self.run_kernel(self.write(good + more), "k", {}, (0, 4), 1, fails=fault)
        boom = boom.replace("store volatile i32 1, ptr null", "")
        for body, more, fault in (("call void @other()", boom + "@other = alias void (), ptr @boom", "other is an alias, which"),
                                  ("call void @other()", "@other = ifunc void (), ptr @chosen\n" +
                                   "define ptr @chosen() {\n  ret ptr null\n}\n", "other is an ifunc, which"),
                                  ("%v = load ptr, ptr @environ", "@environ = external global ptr", "the variable environ is not in"),
                                  ('call void asm sideeffect "nop", ""()', "", "k has assembly")):
            module = Module()
            module.kernel("k", [buffer("out", 0)], "  " + body)
            self.fails(module.text() + more, 5, "kernel k: " + fault)
            self.assertEqual(self.tool("lower", self.write(module.text() + more), "-o", os.path.join(self.folder, "a.ptx"))[0], 5)

    def test_corrupt_input(self):
        good = self.calling("air.frobnicate").text()
        self.fails(good.replace("ret void", "ret"), 4, r"a\.ll:\d+: neither a metallib nor LLVM's")
        self.fails(good.replace("!air.kernel", "!air.vertex"), 3, "no kernels")
        self.fails(good.replace("i32 0, !\"air.buffer\"", "i32 9, !\"air.buffer\""), 4, r"argument 0 \(out\): described out of order")
        self.fails(good.replace('!"air.location_index", i32 0, ', ""), 4, r"argument 0 \(out\): its metadata has no number air\.location_index")
        self.fails(good.replace("ptr addrspace(1) %out", "i32 %out"), 4, r"a buffer that is no pointer")
        self.fails(b"MTLB" + bytes(40), 4, "x.metallib")
        self.fails(b"BC\xc0\xde" + bytes(range(200)), 4, "x.metallib")

    def test_wrong_usage(self):
        path = self.write(self.shared())
        code, _, errors = self.tool("lower", path, "-o", os.path.join(self.folder, "a.txt"))
        self.assertEqual((code, "expected a name that ends with .o, .so or .ptx" in errors), (2, True))
        code, _, errors = self.tool("lower", path, "--kernel", "none", "-o", os.path.join(self.folder, "a.o"))
        self.assertEqual((code, "no kernel none among its 1" in errors), (3, True))

    def shared(self):
        module = Module()
        slots_kernel(module, "k", ["f32"], [("air.exp.f32", "f32", [0])])
        return module

    def test_check_counts_and_names(self):
        module = self.shared()
        module.declare("air.frobnicate.f32", "void", [])
        module.kernel("gemv_wide_float32", [buffer("out", 0)], "  call void @air.frobnicate.f32()")
        path = self.write(module)
        code, out, _ = self.tool("check", path)
        self.assertEqual(code, 1)
        self.assertRegex(out, r"1 +1  gemv_wide\n")
        self.assertIn("1x kernel * calls air.frobnicate.f32, which is not supported\n    gemv_wide_float32\n", out)
        self.assertIn("2 kernels, 1 lowered, 1 failed", out)
        done = subprocess.run([PROGRAM, "shaders", "check", path, "--json"], capture_output=True, text=True)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual([k["lowered"] for k in json.loads(done.stdout)["kernels"]], [True, False])
        done = subprocess.run([PROGRAM, "shaders", "list", path], capture_output=True, text=True)
        self.assertEqual(done.stdout, "k 0:in 1:out\ngemv_wide_float32 0:out\n")


class Names(AirTest):
    """What a file names its kernels and arguments is no command of the terminal."""

    BYTES = {b"\\1B[31mRED": "\\x1b[31mRED", b"two\\0Alines": "two\\x0alines", b"\\FF": "\\xff"}

    def setUp(self):
        super().setUp()
        module = Module()
        for i, name in enumerate(self.BYTES):
            module.kernel(f"k{i}", [buffer(f"in{i}", 0)], f"  call void @air.frobnicate{i}()")
            module.declare(f"air.frobnicate{i}", "void", [])
        text = module.text().encode()
        for i, name in enumerate(self.BYTES):
            text = text.replace(b"@k%d" % i, b'@"%s"' % name).replace(b'"in%d"' % i, b'"%s"' % name)
        self.file = os.path.join(self.folder, "a.ll")
        with open(self.file, "wb") as f:
            f.write(text)

    def run_bytes(self, *command):
        done = subprocess.run(command, capture_output=True)
        self.assertNotRegex(done.stdout + done.stderr, rb"[^\n -~]")
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_in_lists(self):
        for command in (TOOL,), (PROGRAM, "shaders"):
            code, out, errors = self.run_bytes(*command, "list", self.file)
            self.assertEqual((code, errors), (0, ""))
            self.assertEqual(out.splitlines(), [f"{name} 0:{name}" for name in self.BYTES.values()])

    def test_in_what_check_prints(self):
        for command in (TOOL,), (PROGRAM, "shaders"):
            code, out, _ = self.run_bytes(*command, "check", self.file)
            self.assertIn(code, (1, 4))
            for name in self.BYTES.values():
                self.assertIn(f"    {name}\n", out)

    def test_in_errors(self):
        for i, name in enumerate((b"\x1b[31mRED", b"two\nlines", b"\xff")):
            shown = list(self.BYTES.values())[i]
            code, _, errors = self.run_bytes(TOOL, "lower", self.file, "--kernel", name, "-o", os.path.join(self.folder, "a.o"))
            self.assertEqual((code, errors), (5, f"error: kernel {shown} calls air.frobnicate{i}, which is not supported\n"))
        code, _, errors = self.run_bytes(TOOL, "lower", self.file, "--kernel", b"\x1b[0m", "-o", os.path.join(self.folder, "a.o"))
        self.assertEqual((code, "no kernel \\x1b[0m among its 3" in errors), (3, True))

    def test_in_json(self):
        names = ["\x1b[31mRED", "two\nlines", "\ufffd"]
        for command in (TOOL,), (PROGRAM, "shaders"):
            done = subprocess.run([*command, "list", self.file, "--json"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual([(k["kernel"], k["arguments"][0]["name"]) for k in json.loads(done.stdout)], list(zip(names, names)))
            done = subprocess.run([*command, "check", self.file, "--json"], capture_output=True, text=True)
            self.assertIn(done.returncode, (1, 4), done.stderr)
            self.assertEqual([k["kernel"] for k in json.loads(done.stdout)["kernels"]], names)


class Toolchain(AirTest):
    """mslc.py takes metallibs too."""

    def test_exit_codes_say_what_is_wrong(self):
        empty = os.path.join(self.folder, "empty.metallib")
        open(empty, "w").close()
        missing = os.path.join(self.folder, "missing.metallib")
        for code, command in [(3, ["list", missing]), (4, ["list", empty]), (4, ["check", empty])]:
            done = subprocess.run([PROGRAM, "shaders", *command], capture_output=True, text=True)
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertEqual(self.tool(*command)[0], code)
        self.assertEqual(self.tool("lower", empty, "--gpu", "sm_1", "-o", "x.ptx")[0], 2)
        self.assertEqual(self.tool()[0], 2)

    def mslc(self, *arguments):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/msl/mslc.py")
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True,
                              env={**os.environ, "METAL_MARLIN_AIR": TOOL})
        return done.returncode, done.stdout, done.stderr

    def test_objects_and_ptx(self):
        module = Module()
        for name in ("a", "b", "c"):
            module.kernel(name, [buffer("out", 0, 4)], "  store i32 7, ptr addrspace(1) %out")
        path, out = self.write(module), os.path.join(self.folder, "out")
        self.assertEqual(self.mslc("object", path, "--kernel", "a,c", "--symbol", "my_table", "-o", out), (0, "", ""))
        with open(out, "rb") as f:
            self.assertIn(b"my_table", f.read())
        self.assertEqual(self.mslc("ptx", path, "--all", "--gpu", "sm_80", "-o", out), (0, "", ""))
        with open(out, encoding="utf-8") as f:
            self.assertEqual(f.read().count(".entry"), 3)
        self.assertEqual(self.mslc("object", path, "-o", out)[::2], (2, "error: of a metallib, --kernel NAME[,NAME...] or --all\n"))
        code, _, errors = self.mslc("shared", path, "--kernel", "d", "-o", out)
        self.assertEqual((code, "no kernel d among its 3" in errors), (3, True))


class Ptx(AirTest):
    def test_what_the_driver_reads(self):
        module = Memory.shared_module(self, True)
        module.declare("air.simd_sum.f32", "float", ["float"])
        slots_kernel(module, "lanes", ["f32", "f16"], [("air.simd_sum.f32", "f32", [0]), ("air.sin.f32", "f32", [0]), ("fadd", "f16", [1, 1])])
        module.kernel("dynamic", [buffer("n", 0, 4, 2, "read", True), buffer("memory", 1, 4, 3)],
                      "  %v = load i32, ptr addrspace(2) %n\n  store i32 %v, ptr addrspace(3) %memory",
                      [module.node('!"air.max_work_group_size"', "i32 96")])
        path, out = self.write(module), os.path.join(self.folder, "a.ptx")
        for gpu in ("sm_80", "sm_90"):
            self.assertEqual(self.tool("lower", path, "-o", out, "--gpu", gpu)[0], 0)
            with open(out, encoding="utf-8") as f:
                text = f.read()
            self.assertEqual(text.count(".visible .entry msl_entry_"), 3)
            for part in (f".target {gpu}", ".visible .global .align 16 .b8 msl_constant_values", "bar.sync", "shfl.sync", ".maxntid 96",
                         ".param .align 4 .b8 msl_entry_2_param_1[4]", "msl_dynamic_threadgroup"):
                self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
