#!/usr/bin/env python3
"""The functions of doubles that metal-marlin-air gives to PTX, compiled for this processor, against the system's."""
import ctypes
import math
import os
import random
import subprocess
import tempfile
import unittest

from air_numbers import number


class NvidiasFunctions(unittest.TestCase):
    ONE = ["exp", "exp2", "exp10", "log", "log2", "log10", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh",
           "asinh", "acosh", "atanh"]
    TWO = ["pow", "atan2", "fmod"]

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        text = os.path.join(folder.name, "a.c")
        with open(text, "w", encoding="utf-8") as f:
            f.write('#include "math_ptx.h"\n')
            f.writelines(f"double try_{n}(double x) {{ return double_{n}(x); }}\n" for n in self.ONE)
            f.writelines(f"double try_{n}(double x, double y) {{ return double_{n}(x, y); }}\n" for n in self.TWO)
        definitions = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/msl/air/definitions")
        library = os.path.join(folder.name, "a.so")
        subprocess.run([os.environ.get("METAL_MARLIN_CLANG", "clang-19"), "-O1", "-std=gnu17", "-ffp-contract=off", "-fPIC", "-shared",
                        "-I" + definitions, text, "-o", library], check=True)
        self.library = ctypes.CDLL(library)

    def near(self, name, arguments, exact):
        function = self.library[f"try_{name}"]
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double] * len(arguments)
        found = function(*arguments)
        if math.isnan(exact):
            self.assertTrue(math.isnan(found), f"{name}{arguments} is {found}, expected a NaN")
        elif math.isinf(exact) or exact == 0:
            self.assertEqual((found, math.copysign(1, found)), (exact, math.copysign(1, exact)), f"{name}{arguments}")
        else:
            self.assertLessEqual(abs(found - exact), abs(exact) * 1e-13, f"{name}{arguments} is {found}, expected {exact}")

    def exact(self, name, *arguments):
        """As C's library has it, which Python's functions ask; None where these only tell of an overflow."""
        try:
            return {"exp2": lambda x: 2.0 ** x, "exp10": lambda x: 10.0 ** x}.get(name, getattr(math, name, None))(*arguments)
        except OverflowError:
            return None
        except ValueError:
            if name == "pow" and arguments[0] == 0:
                return math.copysign(math.inf, arguments[0]) if arguments[1] % 2 == 1 else math.inf
            return -math.inf if name.startswith("log") and arguments[0] == 0 else math.nan

    def test_of_one(self):
        rng = random.Random(11)
        values = [number("f32", rng.getrandbits(32)) for _ in range(300)] + [rng.uniform(-10, 10) for _ in range(300)]
        values += [0.0, -0.0, math.inf, math.nan, 3 * 2.0 ** 126, 2.0 ** 100, 2.0 ** -140]
        for name in self.ONE:
            for x in values:
                if name == "atanh" and abs(x) == 1:
                    continue  # Python's has none
                exact = self.exact(name, x)
                if exact is not None:
                    self.near(name, (x,), exact)

    def test_of_two(self):
        rng = random.Random(12)
        pairs = [(rng.uniform(-10, 10), rng.uniform(-10, 10)) for _ in range(300)]
        pairs += [(number("f32", rng.getrandbits(31)), number("f32", rng.getrandbits(32))) for _ in range(300)]
        pairs += [(x, y) for x in (0.0, -0.0, 1.0, -2.0, 0.5, math.inf, -math.inf) for y in (0.0, 2.0, -3.0, 0.5, math.inf, -math.inf)]
        for name in self.TWO:
            for x, y in pairs:
                exact = self.exact(name, x, y)
                if exact is not None and (exact == 0 or abs(exact) > 1e-300):  # smaller than any float
                    self.near(name, (x, y), exact)


if __name__ == "__main__":
    unittest.main()
