#!/usr/bin/env python3
"""Compiles our sources with clang and LLVM's C++ library, which macOS has, by a build's compile commands; no code is made.

  check_libcxx.py BUILD     BUILD: a folder with compile_commands.json
"""
import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLANG = ["clang++-19", "-stdlib=libc++", "-fsyntax-only", "-Wno-unknown-warning-option",
         "-D_LIBCPP_ENABLE_CXX20_REMOVED_TYPE_TRAITS"]  # Debian's Boost, which is older than a Mac's, has std::result_of


def without_precompiled(words):
    """The words of a command but for GCC's precompiled header, which clang does not read."""
    skipped = {i + k for i, word in enumerate(words[:-1]) for k in (0, 1)
               if word == "-include" and words[i + 1].endswith("cmake_pch.hxx")}
    return [word for i, word in enumerate(words) if i not in skipped and word != "-Winvalid-pch"]


def commands(build):
    # Several sources are compiled as one, whose text is in the build folder.
    folders = ROOT / "src", ROOT / "tests", build / "src", build / "tests"
    for entry in json.loads((build / "compile_commands.json").read_text(encoding="utf-8")):
        source = pathlib.Path(entry["file"])
        if any(map(source.is_relative_to, folders)):
            words = shlex.split(entry["command"])
            begin = next(i for i, word in enumerate(words) if word.startswith("-"))  # behind compiler and launcher
            out = words.index("-o")
            yield source, entry["directory"], CLANG + without_precompiled(words[begin:out] + words[out + 2:])


def errors(command):
    source, folder, words = command
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{source.relative_to(ROOT)}\n{done.stderr}"


def main():
    every = list(commands(pathlib.Path(sys.argv[1]).resolve()))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        failed = [text for text in pool.map(errors, every) if text]
    print("\n".join(failed + [f"{len(every) - len(failed)} of {len(every)} files compile with LLVM's C++ library"]))
    return 1 if failed or not every else 0


if __name__ == "__main__":
    sys.exit(main())
