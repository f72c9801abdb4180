#!/usr/bin/env python3
"""The lint of includes: what it must find, and what it must let pass; and this tree has nothing to find."""
import os
import subprocess
import sys
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from check_includes import errors  # noqa: E402


class Includes(unittest.TestCase):
    def found(self, name, text):
        return errors(name, text, "x")

    def test_down_and_level(self):
        for name, text in [("io/a.h", '#include "base/hash.h"'), ("io/a.h", '#include "io/b.h"'),
                           ("cli/a.cpp", '#include "server/a.h"'), ("backends/msl/a.cpp", '#include "ops/plan.h"'),
                           ("metal_marlin/model.h", '#include "metal_marlin/tokenizer.h"'),
                           ("backends/a.cpp", '#include "common/a.h"'), ("base/a.h", "#include <io/b.h>")]:
            self.assertEqual(self.found(name, text), [], (name, text))

    def test_up(self):
        self.assertEqual(self.found("formats/a.cpp", '\n#include "runtime/a.h"\n'),
                         ['x:2: formats includes "runtime/a.h", of runtime, which is above it'])
        self.assertEqual(len(self.found("ops/a.h", '  # include "metal_marlin/model.h"')), 1)
        self.assertEqual(len(self.found("metal_marlin/format.h", '#include "metal_marlin/quantize.h"')), 1)

    def test_beside(self):
        self.assertEqual(self.found("server/a.h", '#include "quantize/a.h"'),
                         ['x:1: server includes "quantize/a.h", of quantize, which is beside it'])

    def test_in_no_layer(self):
        self.assertEqual(len(self.found("odd/a.h", "")), 1)
        self.assertEqual(len(self.found("io/a.h", '#include "odd/b.h"')), 1)
        self.assertEqual(len(self.found("io/a.h", '#include "metal_marlin/odd.h"')), 1)

    def test_this_tree(self):
        run = subprocess.run([os.path.join(ROOT, "tools/check_includes.py"), ROOT], capture_output=True, text=True, check=False)
        self.assertEqual((run.returncode, run.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
