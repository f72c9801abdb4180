"""Compiles one shader: to an object for the host's processor, plain or instrumented,
to a shared library, or to PTX; and checks it the strict way."""
import os
import re
import subprocess
import sys
import tempfile

import lint
import names
import reflect
import rewrite
import uses
from source import CLANG, HERE, SourceError, included_files, preprocess, tokenize

TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu", "arm64": "arm64-apple-macos14"}
HOST_FLAGS = {"x86_64": ["-march=x86-64-v3"], "aarch64": ["-march=armv8.2-a"], "arm64": ["-mcpu=apple-m1"]}
# As Apple's compiler has it with fast math off: a product and a sum in one expression are one operation, every
# operation of half and bfloat rounds, and integers that a float goes beyond are the last ones.
EXCESS_PRECISION = ["-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"]
ARITHMETIC = ["-ffp-contract=on", *EXCESS_PRECISION, "-fno-strict-float-cast-overflow"]


class Shader:
    """A shader after the preprocessor, with what reflection found."""

    def __init__(self, path, includes=(), defines=(), version=310, kernels=None):
        self.path, self.version = path, version
        text = preprocess(path, includes, defines, version)
        self.files = included_files(text)
        self.tokens = tokenize(text, path)
        self.kernels = reflect.kernels(self.tokens)
        if kernels is not None:  # only these
            self.kernels = reflect.select(self.kernels, kernels)
        self.plain = tokenize(text, path)
        self.constants = rewrite.rewrite(self.tokens)
        used = uses.constants_of_kernels(self.plain, self.kernels, self.constants)
        for kernel, of_kernel in zip(self.kernels, used):
            kernel.constants = of_kernel

    def body(self, isolate):
        text = "#include <metal_stdlib>\n"
        if isolate:  # so that shaders linked into one program may use the same names
            text += "namespace {\n"
        text += rewrite.text_of(self.tokens) + '\n# 1 "<entries>"\n'
        return text + ("}\n" if isolate else "")


def _base(version):
    return [CLANG, "-x", "c++", "-nostdinc", "-isystem", os.path.join(HERE, "include"), "-w",
            f"-D__METAL_VERSION__={version}",
            "-Wno-reserved-user-defined-literal", "-Wno-unusable-partial-specialization", "-fno-exceptions",
            "-fno-rtti", "-fno-math-errno", "-fsigned-char",
            "-ferror-limit=20"]


def _sycl(arch_triple):
    return ["-Xclang", "-fsycl-is-device", "-Xclang", "-aux-triple", "-Xclang", arch_triple]


def _run(command, text, seconds=None):
    with tempfile.NamedTemporaryFile("w", suffix=".cpp", delete=False) as f:
        f.write(text)
    try:
        done = subprocess.run(command + [f.name], capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise CompileError(f"error: not compiled after {seconds} seconds") from None
    finally:
        os.unlink(f.name)
    if done.returncode != 0:
        raise CompileError(done.stderr.replace(f.name, "<generated>"))
    return done.stderr


class CompileError(Exception):
    pass


def compile_object(shader, output, symbol, arch="x86_64", instrument=False, isolate=False, sanitize=None, quick=False,
                   table=False, level=2):
    """quick: without optimisation and within two minutes, to see whether it compiles. table: what the kernels are,
    without their code."""
    text = shader.body(isolate) + reflect.host_entries(shader.kernels, shader.constants, symbol, instrument, table)
    command = _base(shader.version) + [f"--target={TRIPLES[arch]}", "-std=c++17", "-fPIC", f"-O{level}",
                                       "-fno-stack-protector"] + ARITHMETIC + \
        HOST_FLAGS[arch] + _sycl(TRIPLES[arch])
    if instrument:
        # Loads stay where the text has them: no vectorizing, no merging.
        command += ["-DMSL_INSTRUMENTED", "-gline-tables-only", "-O1", "-fno-vectorize", "-fno-slp-vectorize",
                    "-fno-unroll-loops", "-Xclang", "-fsanitize-coverage-type=1", "-Xclang",
                    "-fsanitize-coverage-trace-loads", "-Xclang", "-fsanitize-coverage-trace-stores",
                    "-fsanitize=alignment,array-bounds", "-fsanitize-recover=alignment,array-bounds"]
    if sanitize:
        command += [f"-fsanitize={sanitize}", "-mllvm", "-asan-stack=0", "-mllvm", "-asan-globals=0"]
    if quick or table:
        command += ["-O0"]
    _run(command + ["-c", "-o", output], text, 120 if quick else None)


def _tool(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CompileError(f"error: {command[0]} failed\n{done.stderr.strip()}")
    return done.stdout.strip()


def _mach_o_flags():
    """The executor's functions are found in the program that loads the library. Off macOS lld links, and SDKROOT
    names what stands for the SDK."""
    sdk = os.environ.get("SDKROOT") or _tool(["xcrun", "--sdk", "macosx", "--show-sdk-path"])
    return ["-isysroot", sdk, "-Wl,-undefined,dynamic_lookup"] + ([] if sys.platform == "darwin" else ["-fuse-ld=lld"])


def compile_shared(shader, output, symbols, symbol="msl_library", arch="x86_64", instrument=False):
    """symbols: what takes the lines of a Mach-O library, which lie in its object, a temporary file. Linked apart from
    the compilation, whose checks would bring a runtime library in the place of the executor's own handlers."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = os.path.join(folder, "shader.o")
        compile_object(shader, compiled, symbol, arch, instrument)
        mach_o = arch == "arm64"
        _tool([CLANG, f"--target={TRIPLES[arch]}", "-shared", "-o", output, compiled] + (_mach_o_flags() if mach_o else []))
        if mach_o and instrument:
            _tool([_tool([CLANG, "-print-prog-name=dsymutil"]), output, "-o", symbols])


def _ptx_command(shader):
    return _base(shader.version) + ["-std=c++17", "--target=nvptx64-nvidia-cuda", "-DMSL_TARGET_PTX", "-O3",
                                    "-Xclang", "-target-cpu", "-Xclang", "sm_80", "-Xclang", "-target-feature",
                                    "-Xclang", "+ptx80", "-ffp-contract=on"] + _sycl(TRIPLES["x86_64"])


def ptx_errors(shader):
    """What clangs_ptx would refuse, without making code, which takes most of its time."""
    try:
        _run(_ptx_command(shader) + ["-fsyntax-only"], shader.body(True) + reflect.ptx_entries(shader.kernels))
    except CompileError as e:
        return [str(e).strip()]
    return []


def clangs_ptx(shader, output, isolate):
    """As clang writes it, with comments and no bounds. Of sm_80's instructions, but for programmatic dependent launch:
    one text serves every GPU."""
    text = shader.body(isolate) + reflect.ptx_entries(shader.kernels)
    command = _ptx_command(shader) + ["-S", "-o", output]
    _run(command, text)
    with open(output, encoding="utf-8") as f:
        text = f.read()
    with open(output, "w", encoding="utf-8") as f:
        f.write(text.replace(".target sm_80", ".target sm_90", 1))


def compile_ptx(shader, output, isolate=False):
    clangs_ptx(shader, output, isolate)
    with open(output, encoding="utf-8") as f:
        ptx_text = f.read()
    ptx_text = re.sub(r"[ \t]*//[^\n]*", "", ptx_text)
    ptx_text = re.sub(r"\n\s*\n+", "\n", ptx_text)
    for i, kernel in enumerate(shader.kernels):
        if kernel.max_threads:
            # Registers for 20 simdgroups on a core at once, to hide each other's waits.
            threadgroups = max(1, (kernel.resident or 20) * 32 // kernel.max_threads)
            bounds = f".maxntid {kernel.max_threads}, 1, 1\n.minnctapersm {threadgroups}"
            ptx_text = re.sub(rf"(\.entry msl_entry_{i}\((?:[^)]*)\))", rf"\1\n{bounds}", ptx_text, count=1)
    with open(output, "w", encoding="utf-8") as f:
        f.write(ptx_text)


def compile_air(shader, output):
    """A module of bitcode with all kernels and the table of them, for metal-marlin-air to take apart. Compiled for
    NVIDIA's machine, which passes every type as it is."""
    text = shader.body(False) + reflect.air_entries(shader.kernels, shader.constants)
    command = _base(shader.version) + ["-std=c++17", "--target=nvptx64-nvidia-cuda", "-DMSL_TARGET_AIR", "-O2",
                                       "-ffp-contract=on", "-fno-builtin", "-Xclang", "-fconvergent-functions",
                                       *EXCESS_PRECISION, "-emit-llvm", "-c", "-o", output]
    _run(command, text)


def strict_errors(shader, own=False):
    """What Apple's compiler would refuse, as far as clang, a lint and names.txt can tell; own: with what
    no kernel is known to use that it compiles."""
    errors = lint.errors(shader.plain, shader.version)
    flags = ["-std=c++14", "-DMSL_STRICT", "-Werror=c++17-extensions", "-Werror=c++20-extensions",
             "-flax-vector-conversions=none", f"--target={TRIPLES['x86_64']}"]
    base = [c for c in _base(shader.version) if c != "-w"] + ["-Wno-everything"] + flags
    with tempfile.TemporaryDirectory() as folder:
        code = os.path.join(folder, "code.ll")
        modes = {"SYCL address spaces": ["-fsyntax-only"] + _sycl(TRIPLES["x86_64"]),
                 "plain address spaces": ["-DMSL_PLAIN_SPACES", "-Wimplicit-float-conversion", "-S", "-emit-llvm",
                                          "-Xclang", "-disable-llvm-passes", "-gline-tables-only",
                                          "-fclang-abi-compat=17", "-o", code]}
        for mode, extra in modes.items():
            try:
                said = _run(base + extra, shader.body(False))
            except CompileError as e:
                errors.append(f"[{mode}] " + str(e).strip())
            else:
                errors += [line.replace("warning:", "error:") for line in said.split("\n")
                           if own and re.search(r"warning: implicit conversion .*bfloat", line)]
        if os.path.exists(code):
            with open(code, encoding="utf-8") as f:
                errors += names.errors(f.read(), shader.plain, own)
    return errors
