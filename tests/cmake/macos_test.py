#!/usr/bin/env python3
"""What the build asks of a Mac, tried with tools and packages that only look like a Mac's.

  macos_test.py SOURCE CMAKE
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE, CMAKE = os.path.abspath(sys.argv[1]), sys.argv[2]


class WithFakes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name).resolve()
        self.environment = {"PATH": str(self.path / "bin"), "HOMEBREW_PREFIX": str(self.path / "brew")}

    def write(self, name, text="", program=False):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if program:
            path.chmod(0o755)
        return str(path)

    def program(self, name, text):
        return self.write(name, "#!/bin/sh\n" + text, True)

    def run_command(self, *command):
        done = subprocess.run(command, cwd=self.path, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
        return done.returncode, " ".join(done.stdout.split())  # CMake breaks its lines

    def script(self, text, *flags):
        """Exit code and output of a CMake script that has our modules."""
        self.write("script.cmake", f"cmake_minimum_required(VERSION 3.25)\nlist(APPEND CMAKE_MODULE_PATH {SOURCE}/cmake)\n"
                                   f"set(PROJECT_SOURCE_DIR {SOURCE})\n{text}")
        return self.run_command(CMAKE, *flags, "-P", "script.cmake")

    def project(self, text, *flags, languages="NONE"):
        self.write("CMakeLists.txt", f"cmake_minimum_required(VERSION 3.25)\nproject(x LANGUAGES {languages})\n"
                                     f"list(APPEND CMAKE_MODULE_PATH {SOURCE}/cmake)\n{text}")
        return self.run_command(CMAKE, "-G", "Unix Makefiles", "-DCMAKE_MAKE_PROGRAM=make",
                                f"-DCMAKE_PREFIX_PATH={self.path}/prefix", *flags, "-S", ".", "-B", "build")

    def assert_passes(self, found, text=""):
        self.assertEqual(found[0], 0, found[1])
        self.assertIn(text, found[1])

    def assert_fails(self, found, text):
        self.assertNotEqual(found[0], 0, found[1])
        self.assertIn(text, found[1])


class Machine(WithFakes):
    def machine(self, *flags):
        return self.script("include(MacOS)\nmessage(STATUS \"prefix ${CMAKE_PREFIX_PATH}.\")\n", *flags)

    def test_apple_silicon(self):
        good = ["-DCMAKE_OSX_DEPLOYMENT_TARGET=14.0", "-DCMAKE_SYSTEM_PROCESSOR=arm64"]
        self.assert_passes(self.machine(*good), "prefix .")
        self.assert_passes(self.machine(*good, "-DCMAKE_OSX_ARCHITECTURES=arm64"))
        self.assert_fails(self.machine(*good, "-DCMAKE_SYSTEM_PROCESSOR=x86_64"), "is for 'x86_64', expected 'arm64'")
        for others in ("x86_64", "arm64;x86_64", "arm64e"):
            self.assert_fails(self.machine(*good, "-DCMAKE_OSX_ARCHITECTURES=" + others), f"is for '{others}', expected")
        self.assert_fails(self.machine(*good, "-DCMAKE_OSX_DEPLOYMENT_TARGET=13.3"), "is '13.3', expected 14.0 or later")

    def test_kegs(self):
        (self.path / "brew/opt/openssl@3").mkdir(parents=True)
        self.assert_passes(self.machine("-DCMAKE_OSX_DEPLOYMENT_TARGET=15", "-DCMAKE_SYSTEM_PROCESSOR=arm64"),
                           f"prefix {self.path}/brew/opt/openssl@3.")


class ShaderClang(WithFakes):
    def clang(self, *flags):
        return self.script("find_package(ShaderClang 19 EXACT REQUIRED)\nmessage(STATUS \"it is ${METAL_MARLIN_CLANG}.\")\n",
                           *flags)

    def fake(self, name, version="Homebrew clang version 19.1.7"):
        return self.program(name, f"echo '{version}'\n")

    def test_places_in_order(self):
        self.assert_fails(self.clang(), "Homebrew's package is llvm@19")
        plain = self.fake("brew/opt/llvm@19/bin/clang")
        self.fake("bin/clang", "Apple clang version 19.0.0 (clang-1900)")
        self.assert_passes(self.clang(), f"it is {plain}.")
        named = self.fake("brew/opt/llvm@19/bin/clang-19")
        self.assert_passes(self.clang(), f"it is {named}.")
        on_path = self.fake("bin/clang-19", "Debian clang version 19.1.7 (3)")
        self.assert_passes(self.clang(), f"it is {on_path}.")
        self.environment["METAL_MARLIN_CLANG"] = self.fake("my/own", "clang version 19.1.0")
        self.assert_passes(self.clang(), f"it is {self.path}/my/own.")
        self.assert_passes(self.clang("-DMETAL_MARLIN_CLANG=" + plain), f"it is {plain}.")

    def test_others_are_refused(self):
        self.fake("bin/clang-19", "Homebrew clang version 20.1.0")
        self.assert_fails(self.clang(), 'Found unsuitable version "20", but required is exact version "19"')
        self.fake("bin/clang-19", "Apple clang version 19.0.0 (clang-1900)")
        self.assert_fails(self.clang(), "not Apple's")
        self.environment["METAL_MARLIN_CLANG"] = str(self.path / "nothing")
        self.assert_fails(self.clang(), "nothing")


class MetalCompiler(WithFakes):
    # As since Xcode 26: the tool is found, and does not run.
    MISSING = "error: cannot execute tool 'metal' due to missing Metal Toolchain; use: xcodebuild -downloadComponent MetalToolchain"

    def compiler(self):
        return self.script("find_package(MetalCompiler)\nmessage(STATUS \"works: ${MetalCompiler_FOUND}.\")\n")

    def xcrun(self, metal, metallib="exit 0"):
        self.program("bin/xcrun", 'case "$*" in *--find*) echo /usr/bin/metal ;;\n'
                                  f'"-sdk macosx metal "*) {metal} ;;\n"-sdk macosx metallib "*) {metallib} ;;\n*) exit 9 ;; esac\n')

    def test_it_is_run(self):
        self.assert_passes(self.compiler(), "works: FALSE.")
        self.xcrun(f'echo "{self.MISSING}" >&2; exit 1')
        found = self.compiler()
        self.assert_passes(found, "works: FALSE.")
        self.assertIn("cannot execute tool 'metal' due to missing Metal Toolchain, use: xcodebuild", found[1])
        self.xcrun("exit 0", "echo no metallib; exit 1")
        self.assert_passes(self.compiler(), "works: FALSE.")
        self.xcrun("exit 0")
        self.assert_passes(self.compiler(), "works: TRUE.")


class Packages(WithFakes):
    # What CMake's own SameMajorVersion writes, in short.
    VERSION = ('set(PACKAGE_VERSION "{0}")\nif(PACKAGE_FIND_VERSION AND NOT PACKAGE_FIND_VERSION_MAJOR EQUAL {1})\n'
               "  set(PACKAGE_VERSION_COMPATIBLE FALSE)\nelse()\n  set(PACKAGE_VERSION_COMPATIBLE TRUE)\nendif()\n")

    def setUp(self):
        super().setUp()
        self.environment["PATH"] = os.environ["PATH"]  # make

    def config(self, name, version, text=""):
        self.write(f"prefix/lib/cmake/{name}/{name}-config.cmake", text)
        self.write(f"prefix/lib/cmake/{name}/{name}-config-version.cmake", self.VERSION.format(version, version.split(".")[0]))

    def test_eigen(self):
        for version in ("5.0.1", "3.4.0"):
            self.config("eigen3", version)
            self.assert_passes(self.project("find_package(Eigen 3.4 REQUIRED)"), f'(found suitable version "{version}"')
        self.config("eigen3", "3.3.9")
        self.assert_fails(self.project("find_package(Eigen 3.4 REQUIRED)"), 'Found unsuitable version "3.3.9"')

    def protobuf(self, *flags):
        return self.project("set(CMAKE_FIND_USE_CMAKE_SYSTEM_PATH OFF)\nset(CMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH OFF)\n"
                            "find_package(ProtobufLite REQUIRED)\nmessage(STATUS \"config ${from_config}.\")", *flags,
                            languages="CXX")  # CMake's FindThreads asks for it

    def test_protobuf(self):
        library = self.write("old/libprotobuf.so")
        header = "old/google/protobuf/stubs/common.h"
        flags = [f"-DProtobuf_INCLUDE_DIR={self.path}/old", f"-DProtobuf_LIBRARY={library}", "-DProtobuf_LITE_LIBRARY=" + library]
        self.write(header, "#define GOOGLE_PROTOBUF_VERSION 3021012\n")
        self.assert_passes(self.protobuf(*flags), '(found version "3.21.12")')
        self.write(header, "#define GOOGLE_PROTOBUF_VERSION 4025001\n")
        self.assert_fails(self.protobuf(*flags), "Protobuf 4.25.1: releases from 22 on are found by their CMake config")
        self.config("protobuf", "29.3.0", "set(from_config yes)\n")
        self.assert_passes(self.protobuf(*flags), "config yes.")


class MetalCpp(WithFakes):
    # pip download and zipfile, as tools/fetch_metal_cpp.sh calls them.
    PYTHON = """
case "$2" in
  pip) while [ $# -gt 0 ]; do [ "$1" != -d ] || d=$2; [ "$1" != -r ] || grep -q 'sha256:[0-9a-f]\\{64\\}$' "$2" || exit 7; shift; done
       touch "$d/mlx_metal-1.whl" ;;
  zipfile) mkdir -p "$5/mlx/include/metal_cpp/Metal" "$5/mlx/lib" && touch "$5/mlx/include/metal_cpp/Metal/Metal.hpp" ;;
esac
"""

    def setUp(self):
        super().setUp()
        self.environment["PATH"] += ":/usr/bin:/bin"

    def headers(self, *flags):
        return self.script(f"set(PROJECT_BINARY_DIR {self.path}/build)\ninclude(MetalDevice)\nmetal_marlin_find_metal_cpp(found)\n"
                           'message(STATUS "they are ${found}.")\n', *flags)

    def test_a_folder_of_ones_own(self):
        self.write("own/Metal/Metal.hpp")
        self.assert_passes(self.headers(f"-DMETAL_MARLIN_METAL_CPP={self.path}/own"), f"they are {self.path}/own.")
        self.assert_fails(self.headers(f"-DMETAL_MARLIN_METAL_CPP={self.path}"), f"no Metal/Metal.hpp in {self.path}")

    def test_fetched_by_hash_and_once(self):
        self.program("bin/python3", self.PYTHON)
        place = f"they are {self.path}/build/metal-cpp/mlx/include/metal_cpp."
        self.assert_passes(self.headers(), place)
        self.assertEqual(os.listdir(self.path / "build/metal-cpp"), ["mlx"])
        self.program("bin/python3", "echo no network >&2\nexit 1\n")
        self.assert_passes(self.headers(), place)

    def test_without_a_network(self):
        self.program("bin/python3", "echo no network >&2\nexit 1\n")
        found = self.headers()
        self.assert_fails(found, "no network")
        self.assertIn("METAL_MARLIN_METAL_CPP can name a folder", found[1])


class MetalTests(WithFakes):
    """tools/run_metal_tests.sh, with a program in the tests' place."""

    def setUp(self):
        super().setUp()
        self.environment["PATH"] += ":/usr/bin:/bin"
        self.write("build/bin/metal_marlin.metallib")

    def run_tests(self, text):
        self.program("build/tests/metal_marlin_tests", text)
        return self.run_command(SOURCE + "/tools/run_metal_tests.sh", "build")

    def test_with_the_library_and_without(self):
        there = '[ -e build/tests/metal_marlin.metallib ] && l=library || l=text\necho "$l $MTL_DEBUG_LAYER $MTL_SHADER_VALIDATION"\n'
        found = self.run_tests(there + "echo '[==========] 7 tests from 2 test suites ran. (1 ms total)'\n")
        self.assert_passes(found)
        for line in ("library 1 1", "library 0", "text 1 1"):
            self.assertIn(line, found[1])

    def test_none_ran(self):
        self.assert_fails(self.run_tests("echo '[==========] 0 tests from 0 test suites ran. (0 ms total)'\n"), "no test ran on Metal")

    def test_faults(self):
        ran = "echo '[==========] 7 tests from 2 test suites ran. (1 ms total)'\n"
        self.assert_fails(self.run_tests(ran + "exit 1\n"), "7 tests")
        self.assert_fails(self.run_tests("echo 'Invalid device load executing kernel function \"add\"' >&2\n" + ran), "found a fault")

    def test_no_library(self):
        (self.path / "build/bin/metal_marlin.metallib").unlink()
        self.assert_fails(self.run_tests("exit 0\n"), "metal_marlin.metallib is missing")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
