"""Both sides of the differential, compiled once for each content: a text by our toolchain, a kernel of a
metallib by Apple's compiler and our lowering."""
import functools
import hashlib
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
EXECUTOR = ["src/backends/msl/host/executor.cpp", "src/backends/msl/host/fiber.cpp",
            "src/backends/msl/host/segments.cpp", "src/backends/msl/host/shadow.cpp", "src/base/program_path.cpp",
            "src/base/thread_pool.cpp", "tools/differential/runner.cpp"]


class NotBuilt(Exception):
    pass


def _digest(*parts):
    h = hashlib.sha256()
    for part in parts:
        h.update(part if isinstance(part, bytes) else str(part).encode())
        h.update(b"\0")
    return h.hexdigest()[:24]


@functools.cache
def _file_digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@functools.cache
def folder_digest(folder):
    parts = []
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith((".py", ".h", ".metal")) or "." not in name:
                with open(os.path.join(path, name), "rb") as f:
                    parts += [os.path.relpath(os.path.join(path, name), folder), f.read()]
    return _digest(*parts)


class Sides:
    def __init__(self, cache, headers, metallib, air, msl=os.path.join(ROOT, "tools/msl")):
        self.cache, self.headers, self.metallib, self.air, self.msl = cache, headers, metallib, air, msl
        os.makedirs(cache, exist_ok=True)
        self._ours = _digest(folder_digest(msl), folder_digest(os.path.join(headers, "mlx/backend/metal/kernels")))
        self._apple = _digest(_file_digest(metallib), _file_digest(air) if air else "")

    def _make(self, key, command):
        """The cached file of this key; a failure is kept as well, with what the compiler said."""
        output, failed = os.path.join(self.cache, key + ".so"), os.path.join(self.cache, key + ".failed")
        if os.path.exists(failed):
            with open(failed, encoding="utf-8") as f:
                raise NotBuilt(f.read())
        if not os.path.exists(output):
            with tempfile.TemporaryDirectory(dir=self.cache) as folder:
                made = os.path.join(folder, "made.so")
                done = subprocess.run(command(folder, made), capture_output=True, text=True)
                if done.returncode < 0:  # ended by a signal: that tells nothing of the text
                    raise NotBuilt(f"{command(folder, made)[0]} was ended by signal {-done.returncode}")
                if done.returncode != 0:
                    with open(failed, "w", encoding="utf-8") as f:
                        f.write(done.stderr + done.stdout)
                    raise NotBuilt(done.stderr + done.stdout)
                os.replace(made, output)
        return output

    def ours(self, text):
        def command(folder, output):
            path = os.path.join(folder, "text.metal")
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            return [sys.executable, os.path.join(self.msl, "mslc.py"), "shared", path, "-I", self.headers, "-o", output]
        return self._make(_digest("ours", self._ours, text), command)

    def apple(self, kernels):
        """Some kernels of one metallib in one library."""
        if not self.air:
            raise NotBuilt("no metal-marlin-air")
        names = [word for kernel in kernels for word in ("--kernel", kernel)]
        return self._make(_digest("apple", self._apple, *kernels),
                          lambda _, output: [self.air, "lower", self.metallib, *names, "-o", output])

    def runner(self):
        sources = [os.path.join(ROOT, name) for name in EXECUTOR] + [os.path.join(self.msl, "builtins.cpp")]
        headers = [os.path.join(ROOT, name) for name in ("src/backends/msl/host/executor.h", "tools/msl/include/msl_abi.h")]
        parts = [_file_digest(path) for path in sources + headers]
        clang = os.environ.get("METAL_MARLIN_CLANG", "clang-19")
        include = [f"-I{ROOT}/{folder}" for folder in ("src", "include", "tools/msl/include")]
        command = [clang, "--driver-mode=g++", "-std=c++20", "-O2", "-fPIC", "-shared", *include, *sources, "-lfmt", "-ldl",
                   "-pthread", "-Wl,-z,defs", "-o"]
        return self._make(_digest("runner", *parts), lambda _, output: [*command, output])
