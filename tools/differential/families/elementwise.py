"""arange, unary, binary, binary_two, ternary, copies."""
import numpy as np

from families.layout import ceildiv, dense, group_of, i32, i64, shape_of, strides_of, u32
from formats import TYPES, any_bits, normal
from host import Case
from registry import Kernel, family

REALS = ("float32", "float16", "bfloat16")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
ALL = ("bool_", *INTEGERS, *REALS, "complex64")


def per_thread(name):
    """WorkPerThread<T>::n."""
    return max(1, 8 // np.dtype(TYPES[name][1]).itemsize)


def cycle(items):
    while True:
        yield from items


@family("arange", "utils.h", "arange.h")
def arange():
    def make(name):
        def case(rng):
            n = int(rng.integers(1, 700))
            start, step = (normal(rng, name, 1, 3.0) for _ in range(2))
            return Case((n, 1, 1), group_of((n,)) + (1, 1), {0: start, 1: step, 2: any_bits(rng, name, n)}, {2: name})
        return case
    for name in (*INTEGERS, *REALS):
        yield Kernel("arange" + name, f"arange<{TYPES[name][0]}>", make(name))


def contiguous(form, n, name):
    """Grid and size argument of a v, vn or v2 kernel over n elements; None as size: the kernel has none."""
    if form.endswith("2"):
        threads = ceildiv(n, per_thread(name))
        rows = next(k for k in (3, 2, 1) if threads % k == 0)  # the grid has no more threads than there are
        grid = (ceildiv(threads, rows), rows, 1)
        return grid, i64(n)
    threads = ceildiv(n, per_thread(name)) if form.endswith("n") else n
    return (threads, 1, 1), u32(n)


def indexed(rng, form, arrays):
    """Of a g kernel: grid, elements, and for each array its strides and size."""
    digits = "".join(c for c in form.split("large")[0] if c.isdigit())
    many = "n" in form.split("large")[0]
    ndim = int(rng.integers(3, 6)) if many else int(digits)
    shape = shape_of(rng, ndim)
    rows = shape[:-2]
    x = ceildiv(shape[-1], int(digits)) if many else shape[-1]
    grid = (x, shape[-2] if ndim > 1 else 1, int(np.prod(rows)) if ndim > 2 else 1)
    return grid, shape, [strides_of(rng, shape) for _ in range(arrays)], many


def fill(rng, name, n, wild):
    return any_bits(rng, name, n) if wild else normal(rng, name, n, 2.0)


# What an op is not given: divisions by zero and such have no defined result for integers.
def nonzero(values, name):
    return np.where(values == 0, np.asarray(3, values.dtype), values) if name not in ("bool_",) else values | True


EXACT = ("Abs", "Ceil", "Floor", "Negative", "Sign", "Square", "Sqrt", "Round", "BitwiseInvert", "LogicalNot",
         "Conjugate", "Real", "Imag", "ToFP8", "FromFP8")
UNARY = {op: ALL for op in ("Abs", "Negative", "Sign", "Square")}
UNARY |= {op: ("bool_", *INTEGERS, *REALS) for op in ("Ceil", "Floor")}
UNARY |= {op: REALS for op in ("ArcCosh", "ArcSinh", "ArcTanh", "Expm1", "Sigmoid", "Erf", "ErfInv")}
UNARY |= {op: (*REALS, "complex64") for op in
          ("ArcCos", "ArcSin", "ArcTan", "Cos", "Cosh", "Exp", "Log", "Log2", "Log10", "Log1p", "Sin", "Sinh", "Sqrt",
           "Rsqrt", "Tan", "Tanh", "Round")}
UNARY |= {"BitwiseInvert": INTEGERS, "Conjugate": ("complex64",), "LogicalNot": ("bool_",)}


def unary_kernel(op, form, source, target):
    arguments = {"v": ", 1", "vn": "", "v2": "", "gn1": ", 1, int", "gn4large": ", 4"}[form]
    template = {"v": "unary_v", "vn": "unary_v", "v2": "unary_v2"}.get(form, "unary_g")
    function = f"{template}<{TYPES[source][0]}, {TYPES[target][0]}, {op}{arguments}>"

    def case(rng):
        if form.startswith("g"):
            grid, shape, [(strides, size)], _ = indexed(rng, form, 1)
            more = {2: i32(*shape), 3: i64(*strides), 4: i32(len(shape))}
            n = int(np.prod(shape))
        else:
            n = size = int(rng.integers(1, 900))
            grid, length = contiguous(form, n, source)
            more = {2: length}
        return Case(grid, group_of(grid), {0: any_bits(rng, source, size), 1: any_bits(rng, target, n), **more},
                    {1: target}, shape=str(size))
    return Kernel(f"{form}_{op}{source}{target}", function, case, 0 if op in EXACT else 4)


def has_work_per_thread(name):
    return name not in ("uint64", "int64", "complex64")


@family("unary", "utils.h", "unary_ops.h", "unary.h",
        why="functions of the C library, which round otherwise than Apple's; half the last place is theirs to choose")
def unary():
    forms = cycle(("v", "gn1", "vn", "v2", "gn4large"))
    for op, names in UNARY.items():
        for name in names:
            form = next(forms)
            yield unary_kernel(op, "v" if form == "vn" and not has_work_per_thread(name) else form, name, name)
    for op in ("Real", "Imag"):
        yield unary_kernel(op, "v2", "complex64", "float32")
    for name in REALS:
        yield unary_kernel("ToFP8", "vn", name, "uint8")
        yield unary_kernel("FromFP8", "gn1", "uint8", name)


BINARY = {op: ALL for op in ("Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract", "Power", "Remainder")}
COMPARE = {op: ALL for op in ("Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual")}
COMPARE |= {"NaNEqual": (*REALS, "complex64"), "LogicalOr": ("bool_",), "LogicalAnd": ("bool_",)}
BINARY |= {"LogAddExp": (*REALS, "complex64"), "ArcTan2": REALS}
BITWISE = {op: INTEGERS for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "LeftShift", "RightShift")}
FORMS = ("vv", "g2", "svn", "gn2", "vs2", "g1large", "ss", "vvn", "g3", "sv", "gn4large", "vv2", "g1", "vs", "g2large",
         "sv2", "vsn", "g3large")


def binary_function(form, source, target, op):
    types = f"{TYPES[source][0]}, {TYPES[target][0]}, {op}"
    if form.startswith("gn"):
        return f"binary_g<{types}, {'2, int' if form == 'gn2' else '4'}>"
    if form.startswith("g"):
        return f"binary_g_nd{form[1]}<{types}{'' if form.endswith('large') else ', int'}>"
    if form.endswith("n"):
        return f"binary_{form[:-1]}<{types}>"
    return f"binary_{form}<{types}{', 1' if form in ('sv', 'vs', 'vv') else ''}>"


def operands(rng, op, name, sizes, wild):
    a, b = (fill(rng, name, n, wild) for n in sizes)
    if op in ("Divide", "Remainder", "DivMod") and name in (*INTEGERS, "bool_"):
        b = nonzero(b, name)
        if name.startswith("int"):  # the least integer by -1 has no quotient
            a = np.where(a == np.iinfo(a.dtype).min, 1, a).astype(a.dtype)
    if op.endswith("Shift"):
        b = (np.abs(b.astype(np.int64)) % (8 * b.itemsize)).astype(b.dtype)
    if op == "Power" and name in INTEGERS:
        b = (np.abs(b.astype(np.int64)) % 7).astype(b.dtype)
    return a, b


def binary_kernel(op, form, source, target, outputs=1, ulp=0):
    def case(rng):
        shape, first = [], 2 + outputs
        if form.startswith("g"):
            grid, shape, ((a_strides, a_size), (b_strides, b_size)), many = indexed(rng, form, 2)
            n = int(np.prod(shape))
            more = [i32(*shape)] if many else []
            more += [i64(*a_strides), i64(*b_strides)] + ([i32(len(shape))] if many else [])
        else:
            n = 1 if form == "ss" else int(rng.integers(1, 900))
            a_size = 1 if form[0] == "s" else n
            b_size = 1 if form[1] == "s" else n
            grid, length = contiguous(form, n, source)
            more = [] if form == "ss" else [length]
        a, b = operands(rng, op, source, (a_size, b_size), rng.random() < 0.7)
        buffers = {0: a, 1: b, **{2 + i: any_bits(rng, target, n) for i in range(outputs)},
                   **{first + i: value for i, value in enumerate(more)}}
        return Case(grid, group_of(grid), buffers, {2 + i: target for i in range(outputs)}, shape=str(shape or n))
    return Kernel(f"{form}_{op}{source}", binary_function(form, source, target, op), case, ulp)


def form_for(forms, name):
    form = next(forms)
    return form[:2] if form in ("svn", "vsn", "vvn") and not has_work_per_thread(name) else form


@family("binary", "defines.h", "utils.h", "binary_ops.h", "binary.h",
        why="pow, atan2, exp and log1p are the C library's, which round otherwise than Apple's")
def binary():
    forms = cycle(FORMS)
    for op, names in {**BINARY, **BITWISE}.items():
        for name in names:
            inexact = op in ("LogAddExp", "ArcTan2") or op == "Power" and name in (*REALS, "complex64")
            yield binary_kernel(op, form_for(forms, name), name, name, ulp=4 if inexact else 0)
    for op, names in COMPARE.items():
        for name in names:
            yield binary_kernel(op, form_for(forms, name), name, "bool_")


@family("binary_two", "utils.h", "binary_ops.h", "binary_two.h")
def binary_two():
    forms = cycle(FORMS)
    for name in ALL:
        yield binary_kernel("DivMod", form_for(forms, name), name, name, outputs=2)


TERNARY_FORMS = ("v", "g1", "vs", "gn2", "sv", "g2", "v2", "g3", "vs2", "g1large", "sv2", "g2large", "gn4large",
                 "g3large", "vn", "vsn", "svn")


def ternary_function(form, name):
    kind = f"{TYPES[name][0]}, Select"
    if form.startswith("gn"):
        return f"ternary_g<{kind}, {'2, int' if form == 'gn2' else '4'}>"
    if form.startswith("g"):
        return f"ternary_g_nd{form[1]}<{kind}{'' if form.endswith('large') else ', int'}>"
    scalars = f"{'true' if form[0] == 's' else 'false'}, {'true' if form[:2] == 'vs' else 'false'}"
    if form.endswith("2"):
        return f"ternary_v2<{kind}, {scalars}>"
    return f"ternary_v<{kind}, {scalars}{'' if form.endswith('n') else ', 1'}>"


@family("ternary", "utils.h", "ternary_ops.h", "ternary.h")
def ternary():
    def make(form, name):
        def case(rng):
            if form.startswith("g"):
                grid, shape, strides, many = indexed(rng, form, 3)
                n, sizes = int(np.prod(shape)), [size for _, size in strides]
                more = [i32(*shape)] * many + [i64(*s) for s, _ in strides] + [i32(len(shape))] * many
            else:
                n = int(rng.integers(1, 900))
                sizes = [n, 1 if form[0] == "s" else n, 1 if form[:2] == "vs" else n]
                grid, length = contiguous(form, n, name)
                more = [length]
            buffers = {0: any_bits(rng, "bool_", sizes[0]), 1: any_bits(rng, name, sizes[1]),
                       2: any_bits(rng, name, sizes[2]), 3: any_bits(rng, name, n),
                       **{4 + i: value for i, value in enumerate(more)}}
            return Case(grid, group_of(grid), buffers, {3: name})
        return case
    names = cycle(ALL)
    for form in TERNARY_FORMS:
        name = next(n for n in names if not form.endswith("n") or has_work_per_thread(n))
        yield Kernel(f"{form}_Select{name}", ternary_function(form, name), make(form, name))


COPY_FORMS = ("s", "v", "s2", "v2", "g1", "g2", "g3", "gn2", "g1large", "g2large", "g3large", "gn4large", "sn", "vn")
SAME_FORMS = tuple(f"{form}{dynamic}" for form in ("gg1", "gg2", "gg3", "ggn2", "gg1large", "gg2large", "gg3large",
                                                   "ggn4large") for dynamic in ("", "_dynamic"))


def copy_function(form, source, target):
    kind = f"{TYPES[source][0]}, {TYPES[target][0]}"
    base, _, dynamic = form.partition("_")
    tail = "_dynamic" if dynamic else ""
    large = base.endswith("large")
    digits = base.replace("large", "").lstrip("svgn")
    letters = base[:len(base) - len(base.lstrip("svgn"))]
    if letters in ("gn", "ggn"):
        return f"copy_{letters[:-1]}{tail}<{kind}, {digits}{'' if large else ', int'}>"
    if letters in ("g", "gg"):
        return f"copy_{letters}{tail}_nd{digits}<{kind}{'' if large else ', int'}>"
    return f"copy_{letters[0]}{digits}<{kind}{', 1' if letters == base and len(base) == 1 else ''}>"


@family("copy", "utils.h", "copy.h")
def copy():
    def make(form, source, target):
        def case(rng):
            base = form.partition("_")[0]
            more, size = {}, None
            if base.startswith("g"):
                arrays = 2 if base.startswith("gg") else 1
                grid, shape, strides, many = indexed(rng, base.replace("gg", "g"), arrays)
                n, size = int(np.prod(shape)), strides[0][1]
                if arrays == 2:  # the target's elements lie apart
                    target_strides = [2 * s for s in dense(shape)]
                    strides[1] = (target_strides, 1 + sum((k - 1) * s for k, s in zip(shape, target_strides)))
                    n, more[4] = strides[1][1], i64(*target_strides)
                more[3] = i64(*strides[0][0])
                if many:
                    more |= {2: i32(*shape), 5: i32(len(shape))}
            else:
                n = int(rng.integers(1, 900))
                size = 1 if base[0] == "s" else n
                grid, more[2] = contiguous(base, n, target)
            if "dynamic" in form:
                more |= {6: i64(3), 7: i64(5)}
                size, n = size + 3, n + 5
            return Case(grid, group_of(grid), {0: any_bits(rng, source, size),
                        1: any_bits(rng, target, n), **more}, {1: target})
        return case
    forms = cycle(COPY_FORMS)
    for i, source in enumerate(ALL):
        for target in ALL[i % 2::2]:
            form = next(forms)
            if form in ("sn", "vn") and not has_work_per_thread(target):
                form = form[0]
            yield Kernel(f"{form}_copy{source}{target}", copy_function(form, source, target), make(form, source,
                                                                                                   target))
    names = cycle(ALL)
    for form in SAME_FORMS:
        name = next(names)
        yield Kernel(f"{form}_copy{name}{name}", copy_function(form, name, name), make(form, name, name))
