"""Small modules of AIR in LLVM's text, as Apple's compiler would write them, for the tests of metal-marlin-air."""
import re

TYPES = {"f32": "float", "f16": "half", "bf16": "bfloat", "i1": "i1", "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64"}
BITS = {"f32": 32, "f16": 16, "bf16": 16, "i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}


def llvm_type(name):
    """float of f32, <4 x half> of v4f16."""
    vector = re.fullmatch(r"v(\d+)([a-z]+\d+)", name)
    return f"<{vector[1]} x {TYPES[vector[2]]}>" if vector else TYPES[name]


class Module:
    """Kernels, what they declare, and the metadata that describes them."""

    def __init__(self):
        self.globals, self.functions, self.declared, self.metadata, self.kernels = [], [], {}, [], []
        self.constants, self.initialisers = [], []

    def node(self, *fields):
        self.metadata.append("!{" + ", ".join(fields) + "}")
        return f"!{len(self.metadata) - 1}"

    def declare(self, name, result, arguments):
        together = " convergent" if any(w in name for w in ("simd", "quad", "barrier")) else ""
        self.declared[name] = f"declare {result} @{name}({', '.join(arguments)}){together}"

    def kernel(self, name, arguments, body, more=()):
        """arguments: (name, LLVM's type, fields of metadata)."""
        described = [self.node(f"i32 {i}", *fields, '!"air.arg_name"', f'!"{n}"') for i, (n, _, fields) in enumerate(arguments)]
        signature = ", ".join(f"{kind} %{n}" for n, kind, _ in arguments)
        self.functions.append(f"define void @{name}({signature}) convergent {{\n{body}\n  ret void\n}}")
        self.kernels.append(self.node(f"ptr @{name}", self.node(), self.node(*described), *more))

    def function_constant(self, name, index, kind="i32", written="int"):
        """A constant, and the variable that kernels read, which a static initialiser writes."""
        given = f"@_Z{name}.MTL_FC_INIT_{index}"
        self.globals += [f'{given} = internal addrspace(2) externally_initialized constant {kind} undef, section "air.fc_initializer"',
                         f"@{name} = internal addrspace(2) global {kind} undef"]
        self.initialisers += [f"  %{name} = load {kind}, ptr addrspace(2) {given}",
                              f"  store {kind} %{name}, ptr addrspace(2) @{name}"]
        self.constants.append(self.node(f"ptr addrspace(2) {given}", f'!"{written}"', f'!"{name}"', f"i32 {index}", "i1 true"))
        return given

    def text(self):
        out = ['target triple = "air64_v26-apple-macosx14.0.0"'] + self.globals
        if self.initialisers:
            out.append("define internal void @initialise() {\n" + "\n".join(self.initialisers) + "\n  ret void\n}")
            out.append("@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] "
                       "[{ i32, ptr, ptr } { i32 65535, ptr @initialise, ptr null }]")
        out += self.functions + list(self.declared.values())
        out.append("!air.kernel = !{" + ", ".join(self.kernels) + "}")
        if self.constants:
            out.append("!air.function_constants = !{" + ", ".join(self.constants) + "}")
        return "\n".join(out + [f"!{i} = {m}" for i, m in enumerate(self.metadata)]) + "\n"


def buffer(name, index, size=8, space=1, access="read_write", reference=False, alignment=None):
    sizes = ['!"air.buffer_size"', f"i32 {size}"] if reference else []
    return (name, f"ptr addrspace({space})",
            ['!"air.buffer"', *sizes, '!"air.location_index"', f"i32 {index}", "i32 1", f'!"air.{access}"',
             '!"air.address_space"', f"i32 {space}", '!"air.arg_type_size"', f"i32 {size}", '!"air.arg_type_align_size"',
             f"i32 {alignment or size}", '!"air.arg_type_name"', '!"long"'])


def builtin(name, attribute, kind="i32", written="uint"):
    return (name, kind, [f'!"air.{attribute}"', '!"air.arg_type_name"', f'!"{written}"'])


def slots_kernel(module, name, inputs, calls):
    """Thread i reads in[i * n], a slot of 64 bits for each input's type, and writes the result of each call
    (function, result, arguments: numbers of inputs, or "type constant") to out[i * m]."""
    lines = []

    def read(k, kind):
        width = BITS[kind]
        lines.append(f"  %base{k} = mul i64 %at, {len(inputs)}\n  %from{k} = add i64 %base{k}, {k}\n"
                     f"  %place{k} = getelementptr i64, ptr addrspace(1) %in, i64 %from{k}\n"
                     f"  %slot{k} = load i64, ptr addrspace(1) %place{k}")
        lines.append(f"  %bits{k} = trunc i64 %slot{k} to i{width}" if width < 64 else f"  %bits{k} = add i64 %slot{k}, 0")
        lines.append(f"  %x{k} = bitcast i{width} %bits{k} to {TYPES[kind]}")

    def write(k, kind, value):
        width = BITS[kind]
        lines.append(f"  %raw{k} = bitcast {TYPES[kind]} {value} to i{width}")
        lines.append(f"  %wide{k} = zext i{width} %raw{k} to i64" if width < 64 else f"  %wide{k} = add i64 %raw{k}, 0")
        lines.append(f"  %to{k} = mul i64 %at, {len(calls)}\n  %index{k} = add i64 %to{k}, {k}\n"
                     f"  %target{k} = getelementptr i64, ptr addrspace(1) %out, i64 %index{k}\n"
                     f"  store i64 %wide{k}, ptr addrspace(1) %target{k}")

    lines.append("  %at = zext i32 %i to i64")
    for k, kind in enumerate(inputs):
        read(k, kind)
    for k, (function, result, arguments) in enumerate(calls):
        given = [f"{TYPES[inputs[a]]} %x{a}" if isinstance(a, int) else a for a in arguments]
        if "." not in function and "_" not in function:  # an instruction
            lines.append(f"  %y{k} = {function} {given[0]}, {given[1].split(' ', 1)[1]}")
        else:
            module.declare(function, TYPES[result], [g.split(" ", 1)[0] for g in given])
            lines.append(f"  %y{k} = call {TYPES[result]} @{function}({', '.join(given)})")
        write(k, result, f"%y{k}")
    module.kernel(name, [buffer("in", 0, access="read"), buffer("out", 1), builtin("i", "thread_position_in_grid")],
                  "\n".join(lines))
