#!/usr/bin/env python3
"""metallib_test.py PROGRAM: shaders that go through a metallib give what they give without; what AIR has no word for
is an error. Needs METAL_MARLIN_AIR and METAL_MARLIN_CLANG in the environment."""
import os
import re
import struct
import subprocess
import sys
import tempfile
import unittest

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/msl")
PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 else ""

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
SHADER = HEAD + """
constant bool doubled [[function_constant(0)]];
constant uint extra [[function_constant(7)]];
constant float scale = doubled ? 2.0f : 1.0f;
struct Pair { uint a = 1; float b = 0; };
struct Params { uint n; uint3 skip; };
template <typename T>
[[kernel, max_total_threads_per_threadgroup(64)]] void mixed(
    device const int* x [[buffer(0)]], device float* y [[buffer(1)]], constant Params& p [[buffer(3)]],
    threadgroup T* given [[threadgroup(0)]], uint id [[thread_position_in_grid]],
    ushort2 place [[thread_position_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup Pair pairs[64];
  const int v = x[id];
  pairs[place.x].a = uint(v) + popcount(uint(v)) + clz(uint(v) | 1u) + reverse_bits(uint(v)) % 7u;
  pairs[place.x].b = float(v) / 3.0f;
  given[place.x] = T(float(v) * 0.25f);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint other_a = pairs[63 - place.x].a;
  const float other_b = pairs[63 - place.x].b;
  float sum = simd_sum(other_b) + float(simd_prefix_exclusive_sum(other_a % 16u));
  sum += float(given[63 - place.x]) + simd_shuffle_xor(sum, 5) + simd_max(float(place.x));
  sum += fast::exp(-float(lane)) + precise::sqrt(float(v * v + 1)) + min(sum, 3.0f) + clamp(float(v), -1.0f, 2.0f);
  if (isfinite(sum) && !isnan(sum)) sum += float(int(sum * 0.125f)) + float(half(fma(half(lane), half(0.5h), half(1))));
  if (simd_any(v > 40) && !simd_all(v > 40)) sum += float(rotate(uint(v), 3u) & 255u);
  if (is_function_constant_defined(extra)) sum += float(extra);
  if (id < p.n) y[id] = sum * scale + float(p.skip.z);
}
template [[host_name("mixed_half")]] [[kernel]] decltype(mixed<half>) mixed<half>;
template [[host_name("mixed_bfloat")]] [[kernel]] decltype(mixed<bfloat>) mixed<bfloat>;

kernel void product(device const half* a [[buffer(0)]], device float* c [[buffer(1)]],
                    device atomic_uint* count [[buffer(2)]], uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<half, 8, 8> left, right;
  simdgroup_load(left, a, 8);
  simdgroup_load(right, a + 64, 8, ulong2(0, 0), true);
  simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0.5f);
  simdgroup_multiply_accumulate(sum, left, right, sum);
  sum.thread_elements()[0] += 1.0f;
  simdgroup_store(sum, c, 8);
  atomic_fetch_add_explicit(count, lane, memory_order_relaxed);
}
"""


def run(*command):
    return subprocess.run(command, capture_output=True, text=True)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def numbers_of(path, kind):
    """Of a .npy file, whose header ends with a line."""
    data = read(path)
    data = data[data.index(b"\n", 10) + 1:]
    return struct.unpack(f"<{len(data) // 4}{kind}", data)


def metallib(*arguments):
    return run(sys.executable, os.path.join(TOOLS, "mslc.py"), "metallib", *arguments)


class Metallib(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)
        return self.path(name)

    def npy(self, name, kind, values):
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({len(values)},), }}".ljust(117) + "\n"
        code = {"<i4": "i", "<f2": "e"}[kind]
        with open(self.path(name), "wb") as f:
            f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() +
                    struct.pack(f"<{len(values)}{code}", *values))
        return self.path(name)

    def make(self, text, *arguments):
        done = metallib(self.write("a.metal", text), "-o", self.path("a.metallib"), *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.path("a.metallib")

    def outputs(self, file, kernel, *arguments, names=("1",)):
        paths = [self.path(f"out{name}.npy") for name in names]
        done = run(PROGRAM, "shaders", "run", file, "--kernel", kernel, *arguments,
                   *(w for n, p in zip(names, paths) for w in ("--output", f"{n}={p}")))
        self.assertEqual(done.returncode, 0, done.stderr)
        return [numbers_of(p, "f" if n == "1" else "I") for n, p in zip(names, paths)]

    def same(self, kernel, *arguments, names=("1",)):
        """But for the order of sums over lanes."""
        expected = self.outputs(self.path("a.metal"), kernel, *arguments, names=names)
        found = self.outputs(self.path("a.metallib"), kernel, *arguments, names=names)
        for a, b in zip(expected, found):
            self.assertEqual(len(a), len(b))
            self.assertTrue(any(a))
            for x, y in zip(a, b):
                self.assertLessEqual(abs(x - y), 1e-6 * abs(x) + 1e-6)
        return found

    def test_kernels_give_what_they_give_without(self):
        self.make(SHADER)
        x = self.npy("x.npy", "<i4", [(7 * i * i - 300 * i) % 997 - 400 for i in range(128)])
        mixed = ("--grid", "128", "--threads", "64", "--buffer", f"0={x}", "--buffer", "1=zeros:512", "--bytes",
                 "3=u32:120,u32:0,u32:0,u32:0,u32:1,u32:2,u32:3,u32:0", "--threadgroup", "0=128")
        plain = self.same("mixed_half", *mixed, "--constant", "0=bool:0")
        other = self.same("mixed_half", *mixed, "--constant", "0=bool:1", "--constant", "7=u32:9")
        self.assertNotEqual(plain, other)
        self.same("mixed_bfloat", *mixed, "--constant", "0=bool:1")
        a = self.npy("h.npy", "<f2", [((5 * i) % 17 - 8) / 4 for i in range(128)])
        self.same("product", "--grid", "32", "--threads", "32", "--buffer", f"0={a}", "--buffer", "1=zeros:256",
                  "--buffer", "2=zeros:4", names=("1", "2"))

    def test_is_made_the_same_each_time(self):
        first = read(self.make(SHADER))
        self.assertEqual(first, read(self.make(SHADER)))

    def test_only_chosen_kernels(self):
        self.make(SHADER, "--kernels", self.write("names", "product\nmixed_half\n"))
        listed = run(os.environ["METAL_MARLIN_AIR"], "list", self.path("a.metallib")).stdout
        self.assertEqual([line.split()[0] for line in listed.splitlines()], ["mixed_half", "product"])
        done = metallib(self.path("a.metal"), "-o", self.path("b"), "--kernels", self.write("names", "another"))
        self.assertIn("names: no kernel another", done.stderr)

    def refused(self, body, error, arguments="device float* x [[buffer(0)]]"):
        file = self.write("b.metal", HEAD + f"constant bool on [[function_constant(0)]];\nkernel void k({arguments}) {{ {body} }}\n")
        done = metallib(file, "-o", self.path("b.metallib"))
        self.assertNotEqual(done.returncode, 0, "it was made")
        self.assertRegex(done.stderr, error)
        self.assertFalse(os.path.exists(self.path("b.metallib")))

    def test_what_air_has_no_word_for(self):
        self.refused("x[0] = float(simd_sum(bfloat(x[0])));", "call to .simd_sum. is ambiguous")
        self.refused("int e; x[0] = frexp(x[0], e);", "frexp")
        self.refused("x[0] = float(mulhi(ulong(x[0]), ulong(x[1])));", "a number of more than 64 bits")
        self.refused("if (on) x[0] = y[0];", "argument y depends on a function constant",
                     "device float* x [[buffer(0)]], device const float* y [[buffer(1), function_constant(on)]]")

    def status_with(self, metallib_path, *arguments, **environment):
        return subprocess.run([PROGRAM, "status", *arguments], capture_output=True, text=True,
                              env={**os.environ, "METAL_MARLIN_METALLIB": metallib_path, **environment})

    def test_the_host_device_takes_no_others_kernels(self):
        done = self.status_with(self.path("none.metallib"), "--self-test")
        self.assertEqual(done.returncode, 3)
        self.assertIn("none.metallib", done.stderr)
        file = self.make(HEAD + "kernel void rope_float(device float* x [[buffer(0)]]) { x[0] = 1; }\n")
        done = self.status_with(file, "--self-test")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(f"kernels of msl-host: 1 of {file}", done.stdout)
        self.assertIn(f"blocker: rope: {file}: kernel rope_float: 1 arguments, expected ", done.stdout)
        self.assertIn(f"blocker: hadamard: {file}: no kernel hadamard_", done.stdout)
        rows = re.findall(r"^(?:rope|hadamard) +\d+ +(\S+) +(\S+)", done.stdout, re.M)  # executed, matched
        self.assertEqual(rows, [("NO", "NO")] * 2, done.stdout)

    def test_only_what_runs_is_lowered(self):
        file = self.make(HEAD + "kernel void k(device float* x [[buffer(0)]]) { x[0] = 1; }\n")
        done = self.status_with(file, METAL_MARLIN_AIR=self.path("none"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn(f"kernels of msl-host: 1 of {file}", done.stdout)
        self.assertEqual(self.status_with(self.write("c.metallib", "text")).returncode, 4)
        slow = self.write("slow", f'#!/bin/sh\nsleep 3\nexec "{os.environ["METAL_MARLIN_AIR"]}" "$@"\n')
        os.chmod(slow, 0o755)
        for said in 1, 0:  # the second time the lowered kernels are there
            done = self.status_with(file, "--self-test", METAL_MARLIN_AIR=slow, XDG_CACHE_HOME=self.folder.name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stderr.count(f"note: {file}: its kernels, 1, are lowered"), said, done.stderr)

    def test_two_kernels_of_one_name(self):
        text = HEAD + "kernel void k(device float* x [[buffer(0)]]) { x[0] = 1; }\n"
        done = metallib(self.write("a.metal", text), self.write("b.metal", text), "-o", self.path("c.metallib"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("two kernels are named k", done.stderr)


if __name__ == "__main__":
    unittest.main()
