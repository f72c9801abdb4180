#!/usr/bin/env python3
"""What of the differential needs neither Apple's library nor MLX's text: the planted faults fit our toolchain's
files, and a .metal file is left with its templates only."""
import os
import sys
import tempfile
import types
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, os.path.join(ROOT, "tools/differential"))
import planted  # noqa: E402
from registry import Family, Kernel, text_of  # noqa: E402


class Planted(unittest.TestCase):
    def test_each_fault_changes_a_copy(self):
        msl = os.path.join(ROOT, "tools/msl")
        for fault in planted.FAULTS:
            with tempfile.TemporaryDirectory() as folder:
                copy = planted.plant(fault, msl, folder)
                with open(os.path.join(msl, fault.file), encoding="utf-8") as a, \
                        open(os.path.join(copy, fault.file), encoding="utf-8") as b:
                    self.assertNotEqual(a.read(), b.read(), fault.what)

    def test_a_fault_that_no_longer_fits_is_told(self):
        fault = planted.Fault("none", "compile.py", "this is not there", "", ())
        with tempfile.TemporaryDirectory() as folder, self.assertRaisesRegex(ValueError, "compile.py has 0 times"):
            planted.plant(fault, os.path.join(ROOT, "tools/msl"), folder)

    def test_what_tells_a_fault_agrees_without_it(self):
        def result(kernel, message="", broken=False):
            return types.SimpleNamespace(family="x", kernel=kernel, message=message, broken=broken)

        faulty = [result("agrees"), result("differs", "1 of 2"), result("always", "1 of 2"), result("alone", "1 of 2"),
                  result("broken", "error", True)]
        control = [result("agrees"), result("differs"), result("always", "1 of 2"), result("broken")]
        self.assertEqual([r.kernel for r in planted.telling(faulty, control)], ["differs"])


class Texts(unittest.TestCase):
    KERNELS = [Kernel("f_half", "f<half>", None), Kernel("g", "g", None)]

    def test_of_headers(self):
        text = text_of(Family("x", ("utils.h", "x.h"), None, "", []), self.KERNELS, None)
        include = '#include "%s/backend/metal/kernels/%s"\n'
        self.assertIn(include % ("mlx", "utils.h") + include % ("mlx", "x.h"), text)
        self.assertIn('template [[host_name("f_half")]] [[kernel]] decltype(f<half>) f<half>;', text)
        self.assertNotIn('host_name("g")', text)  # no template

    def test_of_a_metal_file(self):
        family = Family("x", (), "x.metal", "", [])
        self.assertIsNone(text_of(family, self.KERNELS, None))
        with tempfile.TemporaryDirectory() as folder:
            place = os.path.join(folder, "mlx/backend/metal/kernels")
            os.makedirs(place)
            with open(os.path.join(place, "x.metal"), "w", encoding="utf-8") as f:
                f.write("template <typename T> kernel void f(device T* x) {}\n#define instantiate_f(n, t) \\\n"
                        '  instantiate_kernel("f_" #n, f, t)\ninstantiate_f(\n    half, half) // on\nint after;\n')
            text = text_of(family, self.KERNELS, folder)
        self.assertIn("kernel void f(device T* x) {}\n#define instantiate_f(n, t) \\\n", text)
        self.assertIn("int after;\n", text)
        self.assertNotIn("half, half)", text)
        self.assertIn('host_name("f_half")', text)


if __name__ == "__main__":
    unittest.main()
