#!/usr/bin/env python3
"""Kernels of Apple's compiler on an NVIDIA GPU, beside the host executor's results.

  cuda.py make FOLDER --wheel FOLDER --air PROGRAM [--most N]   lowers kernels to PTX, and runs them on the host
  cuda.py run FOLDER                                            runs the PTX on the GPU, and compares; no packages needed

The folder goes to the machine with the GPU as it is. Exit codes: 0 as on the host, 1 differences, 2 wrong usage.
"""
import argparse
import array
import ctypes
import json
import math
import os
import struct
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def arguments_of(air, metallib, name):
    """What the PTX entry's parameters stand for, after the grid: (kind, index, by value)."""
    done = subprocess.run([air, "list", metallib, "--kernel", name, "--json"], check=True, capture_output=True, text=True)
    arguments = json.loads(done.stdout)[0]["arguments"]
    return [(a["kind"], a["index"], a["bytes"]) for a in arguments if a["kind"] != "builtin"]


def make(options):
    import zlib

    import numpy as np

    import families  # noqa: F401
    from differential import chosen
    from formats import raw
    from host import Runner, load
    from registry import FAMILIES
    from sides import NotBuilt, Sides

    metallib = os.path.join(options.wheel, "mlx/lib/mlx.metallib")
    sides = Sides(options.cache, os.path.join(options.wheel, "mlx/include"), metallib, options.air)
    runner = Runner(sides.runner())
    made = []
    for family in FAMILIES.values():
        for kernel in chosen(family, [], options.most):
            case = kernel.make(np.random.default_rng([options.seed, zlib.crc32(kernel.name.encode())]))
            if case.constants:
                continue  # a kernel of PTX has no function constants: they are set when a pipeline is made
            number = len(made)
            ptx = os.path.join(options.folder, f"{number}.ptx")
            try:
                expected = runner.run(load(sides.apple([kernel.name])), kernel.name, case)
            except NotBuilt:
                continue
            subprocess.run([options.air, "lower", metallib, "--kernel", kernel.name, "-o", ptx], check=True)
            for index, content in case.buffers.items():
                raw(content).tofile(os.path.join(options.folder, f"{number}.in{index}"))
            for index, content in expected.items():
                content.tofile(os.path.join(options.folder, f"{number}.out{index}"))
            made.append({"family": family.name, "name": kernel.name, "grid": [int(n) for n in case.grid],
                         "group": [int(n) for n in case.group], "outputs": case.outputs, "ulp": kernel.ulp,
                         "near": kernel.near, "threadgroups": {int(k): int(v) for k, v in case.threadgroups.items()},
                         "parameters": arguments_of(options.air, metallib, kernel.name)})
            print(f"{family.name} {kernel.name}", flush=True)
    with open(os.path.join(options.folder, "cases.json"), "w", encoding="utf-8") as f:
        json.dump(made, f)
    return 0


class Gpu:
    def __init__(self):
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.check(self.cuda.cuInit(0), "cuInit")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.check(self.cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
        self.check(self.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
        self.check(self.cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")

    @staticmethod
    def check(result, what):
        if result:
            raise RuntimeError(f"{what}: CUDA error {result}")

    def upload(self, content):
        pointer = ctypes.c_uint64()
        self.check(self.cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(max(16, len(content)))), "cuMemAlloc")
        self.check(self.cuda.cuMemcpyHtoD_v2(pointer, content, ctypes.c_size_t(len(content))), "cuMemcpyHtoD")
        return pointer

    def download(self, pointer, size):
        content = ctypes.create_string_buffer(size)
        self.check(self.cuda.cuMemcpyDtoH_v2(content, pointer, ctypes.c_size_t(size)), "cuMemcpyDtoH")
        return content.raw

    def run(self, ptx, case, buffers):
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.cuda.cuModuleLoadData(ctypes.byref(module), ptx + b"\0"), "cuModuleLoadData")
        self.check(self.cuda.cuModuleGetFunction(ctypes.byref(function), module, b"msl_entry_0"), "cuModuleGetFunction")
        values, shared = [(ctypes.c_uint32 * 3)(*case["grid"])], 0
        for kind, index, by_value in case["parameters"]:
            if kind == "threadgroup":
                values.append(ctypes.c_uint32(shared))
                shared += (case["threadgroups"][str(index)] + 15) // 16 * 16
            elif by_value:
                values.append(ctypes.create_string_buffer(buffers[index][0], len(buffers[index][0])))
            else:
                values.append(buffers[index][1] if index in buffers else ctypes.c_uint64(0))
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        blocks = [(n + g - 1) // g for n, g in zip(case["grid"], case["group"])]
        self.check(self.cuda.cuLaunchKernel(function, *blocks, *case["group"], shared, None, pointers, None), "cuLaunchKernel")
        self.check(self.cuda.cuCtxSynchronize(), "the kernel")
        self.check(self.cuda.cuModuleUnload(module), "cuModuleUnload")


WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "complex64": 4}
# Of the largest result: what is left of values that cancel.
NEAR = {"float32": 2**-20, "float16": 2**-10, "bfloat16": 2**-8, "complex64": 2**-20}


def ordered(content, width):
    """Floats as integers whose distance is that in units of the last place."""
    sign = 1 << (8 * width - 1)
    unsigned = array.array({2: "H", 4: "I"}[width], content)
    return [sign - (n & (sign - 1)) if n & sign else sign + n for n in unsigned]


def floats(content, kind):
    if kind == "float16":
        return [v[0] for v in struct.iter_unpack("<e", content)]
    if kind == "bfloat16":
        return array.array("f", array.array("I", [n << 16 for n in array.array("H", content)]).tobytes())
    return array.array("f", content)


def difference(kind, found, expected, case):
    """(units of the last place, what differs by more than the differential allows or than sums of another order do, or
    nothing). A NaN is a NaN, whatever its bits."""
    if found == expected:
        return 0, ""
    if kind not in WIDTHS:
        at = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
        return 0, f"byte {at} is {found[at]}, expected {expected[at]}"
    pairs = list(zip(floats(found, kind), floats(expected, kind)))
    distances = [0 if math.isnan(a) and math.isnan(b) else abs(x - y) for (a, b), x, y in
                 zip(pairs, ordered(found, WIDTHS[kind]), ordered(expected, WIDTHS[kind]))]
    near = max(case["near"], NEAR[kind]) * max((abs(b) for _, b in pairs if math.isfinite(b)), default=0)
    for i, (a, b) in enumerate(pairs):
        if distances[i] > max(case["ulp"], 2) and not abs(a - b) <= near:
            return max(distances), f"element {i} is {a}, expected {b}"
    return max(distances), ""


def run(options):
    gpu = Gpu()
    with open(os.path.join(options.folder, "cases.json"), encoding="utf-8") as f:
        cases = json.load(f)
    bad = 0
    for number, case in enumerate(cases):
        def content(name, number=number):
            with open(os.path.join(options.folder, f"{number}.{name}"), "rb") as f:
                return f.read()
        indices = [int(n.split(".in")[1]) for n in os.listdir(options.folder) if n.startswith(f"{number}.in")]
        buffers = {i: (content(f"in{i}"), gpu.upload(content(f"in{i}"))) for i in indices}
        gpu.run(content("ptx"), case, buffers)
        worst, said = 0, ""
        for index, kind in case["outputs"].items():
            expected = content(f"out{index}")
            distance, wrong = difference(kind, gpu.download(buffers[int(index)][1], len(expected)), expected, case)
            worst, said = max(worst, distance), said or wrong
        bad += bool(said)
        print(f"{case['family']:20} {case['name']}: {said or ('as on the host' if worst == 0 else f'within {worst} ulp')}")
    print(f"{len(cases) - bad} of {len(cases)} kernels of Apple's compiler as on the host")
    return 1 if bad else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("make", "run"):
        p = commands.add_parser(name)
        p.add_argument("folder")
    p = commands.choices["make"]
    p.add_argument("--wheel", required=True)
    p.add_argument("--air", required=True)
    p.add_argument("--most", type=int, default=3, help="kernels of a family")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--cache", default="build/differential")
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    return make(options) if options.command == "make" else run(options)


if __name__ == "__main__":
    sys.exit(main())
