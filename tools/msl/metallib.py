"""Compiled shaders (metallib, AIR) by metal-marlin-air, which LLVM's libraries make (tools/msl/air)."""
import os
import shutil
import subprocess

from source import HERE

ENDINGS = (".metallib", ".air", ".bc", ".ll")


class MetallibError(Exception):
    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def is_compiled(path):
    return path.endswith(ENDINGS)


def tool():
    """METAL_MARLIN_AIR, what is installed with this script, or what lies in PATH."""
    chosen = os.environ.get("METAL_MARLIN_AIR")
    if chosen:
        return chosen
    installed = os.path.join(HERE, "../../../bin/metal-marlin-air")
    found = installed if os.path.exists(installed) else shutil.which("metal-marlin-air")
    if found is None:
        raise MetallibError("error: metal-marlin-air is missing: METAL_MARLIN_AIR names it; it is built where LLVM 19 is")
    return found


def run(*arguments):
    """With our standard output and error."""
    try:
        code = subprocess.run([tool(), *arguments]).returncode
    except OSError as e:
        raise MetallibError(f"error: cannot run {tool()}: {e}") from None
    if code != 0:
        raise MetallibError("", code)


def selection(kernels):
    """The tool's options for "a,b"; none for all."""
    return [word for name in (kernels or "").split(",") if name for word in ("--kernel", name)]


def lower(path, output, kernels=None, symbol=None, instrument=False, gpu=None):
    options = ["--symbol", symbol] if symbol else []
    options += ["--instrument"] if instrument else []
    options += ["--gpu", gpu] if gpu else []
    run("lower", path, *selection(kernels), "-o", output, *options)
