"""softmax, logsumexp, norms, rope, random bits, arg_reduce, dot, sort, searchsorted, scan, reduce."""
import numpy as np

from families.elementwise import ALL, INTEGERS, REALS, cycle
from families.layout import ceildiv, dense, f32, group_of, i32, i64, strides_of, u32
from formats import TYPES, any_bits, normal
from host import Case
from registry import Kernel, family


def row_threads(axis, reads, looped):
    """Threads of a threadgroup that reads a row."""
    return 1024 if looped else 32 * ceildiv(ceildiv(axis, reads), 32)


def row_case(rng, name, looped, reads, limit, outputs):
    axis = int(rng.integers(limit + 1, limit + 3000)) if looped else int(rng.integers(1, 900))
    rows = int(rng.integers(1, 4))
    threads = row_threads(axis, reads, looped)
    return axis, rows, dict(grid=(rows * threads, 1, 1), group=(threads, 1, 1), outputs=outputs, shape=f"{rows}x{axis}")


@family("softmax", "utils.h", "softmax.h", why="fast::exp: Metal leaves its error open")
def softmax():
    def make(name, looped):
        def case(rng):
            axis, rows, common = row_case(rng, name, looped, 4, 4096, {1: name})
            x = normal(rng, name, rows * axis, float(rng.choice([1, 10])))
            return Case(buffers={0: x, 1: any_bits(rng, name, rows * axis), 2: i32(axis)}, **common)
        return case
    for name in REALS:
        for precise in ("", "precise_"):
            if precise and name == "float32":
                continue
            kind = TYPES[name][0] + (", float" if precise else "")
            yield Kernel(f"block_softmax_{precise}{name}", f"softmax_single_row<{kind}>", make(name, False), 2)
            yield Kernel(f"looped_softmax_{precise}{name}", f"softmax_looped<{kind}>", make(name, True), 2)


@family("logsumexp", "utils.h", "logsumexp.h", why="fast::exp and log: Metal leaves their error open")
def logsumexp():
    def make(name, looped):
        def case(rng):
            axis, rows, common = row_case(rng, name, looped, 4, 4096, {1: name})
            return Case(buffers={0: normal(rng, name, rows * axis, 4.0), 1: any_bits(rng, name, rows), 2: i32(axis)},
                        **common)
        return case
    for name in REALS:
        yield Kernel(f"block_logsumexp_{name}", f"logsumexp<{TYPES[name][0]}>", make(name, False), 2)
        yield Kernel(f"looped_logsumexp_{name}", f"logsumexp_looped<{TYPES[name][0]}>", make(name, True), 2)


def weight(rng, name, axis):
    """A vector with its stride, or one element for all."""
    stride = int(rng.integers(0, 3))
    return normal(rng, name, 1 + (axis - 1) * stride), u32(stride)


@family("rms_norm", metal="rms_norm.metal")
def rms_norm():
    def forward(name, looped):
        def case(rng):
            axis, rows, common = row_case(rng, name, looped, 4, 4096, {2: name})
            w, stride = weight(rng, name, axis)
            return Case(buffers={0: normal(rng, name, rows * axis), 1: w, 2: any_bits(rng, name, rows * axis),
                                 3: f32(1e-5), 4: u32(axis), 5: stride}, **common)
        return case

    def vjp(name, looped):
        def case(rng):
            axis, rows, common = row_case(rng, name, looped, 4, 4096, {3: name, 4: name})
            w, stride = weight(rng, name, axis)
            n, per_group = rows * axis, 1
            if not looped and rows > 1:
                per_group = 2
                threads = common["group"][0]
                common["grid"] = (ceildiv(rows, per_group) * threads, 1, 1)
            more = {} if looped else {8: u32(rows), 9: u32(per_group)}
            return Case(buffers={0: normal(rng, name, n), 1: w, 2: normal(rng, name, n), 3: any_bits(rng, name, n),
                                 4: any_bits(rng, name, n), 5: f32(1e-5), 6: u32(axis), 7: stride, **more},
                        constants={20: np.bool_(rng.random() < 0.7)}, **common)
        return case
    for name in REALS:
        kind = TYPES[name][0]
        yield Kernel(f"rms{name}", f"rms_single_row<{kind}>", forward(name, False))
        yield Kernel(f"rms_looped{name}", f"rms_looped<{kind}>", forward(name, True))
        yield Kernel(f"vjp_rms{name}", f"vjp_rms_single_row<{kind}>", vjp(name, False))
        yield Kernel(f"vjp_rms_looped{name}", f"vjp_rms_looped<{kind}>", vjp(name, True))


def norm_case(rng, name, looped, limit, outputs):
    """A lane whose part begins behind the row's end writes before its own array (see docs/msl.md), so there must be
    none: the row ends in the last lane's part, or it is read in loops."""
    axis, rows, common = row_case(rng, name, looped, 8, limit, outputs)
    if not looped:
        axis = 256 * int(rng.integers(1, 4)) - int(rng.integers(0, 8))
        threads = row_threads(axis, 8, False)
        common |= dict(grid=(rows * threads, 1, 1), group=(threads, 1, 1), shape=f"{rows}x{axis}")
    return axis, rows, common


@family("layer_norm", metal="layer_norm.metal")
def layer_norm():
    def forward(name, looped):
        def case(rng):
            axis, rows, common = norm_case(rng, name, looped, 6656, {3: name})
            (w, w_stride), (b, b_stride) = weight(rng, name, axis), weight(rng, name, axis)
            n = rows * axis
            return Case(buffers={0: normal(rng, name, n), 1: w, 2: b, 3: any_bits(rng, name, n), 4: f32(1e-5),
                                 5: u32(axis), 6: w_stride, 7: b_stride}, **common)
        return case

    def vjp(name, looped):
        def case(rng):
            axis, rows, common = norm_case(rng, name, looped, 8192, {3: name, 4: name})
            w, stride = weight(rng, name, axis)
            n = rows * axis
            return Case(buffers={0: normal(rng, name, n), 1: w, 2: normal(rng, name, n), 3: any_bits(rng, name, n),
                                 4: any_bits(rng, name, n), 5: f32(1e-5), 6: u32(axis), 7: stride},
                        constants={20: np.bool_(rng.random() < 0.7)}, **common)
        return case
    for name in REALS:
        kind = TYPES[name][0]
        yield Kernel(f"layer_norm{name}", f"layer_norm_single_row<{kind}>", forward(name, False))
        yield Kernel(f"layer_norm_looped{name}", f"layer_norm_looped<{kind}>", forward(name, True))
        yield Kernel(f"vjp_layer_norm{name}", f"vjp_layer_norm_single_row<{kind}>", vjp(name, False))
        yield Kernel(f"vjp_layer_norm_looped{name}", f"vjp_layer_norm_looped<{kind}>", vjp(name, True))


def frequencies(rng, half, freqs):
    """Buffers 10 and 11: the base's logarithm, or frequencies with their stride."""
    if not freqs:
        return {10: f32(np.log2(10000.0))}
    return {10: np.abs(rng.standard_normal(2 * half, np.float32)) + np.float32(1), 11: i64(2)}


@family("rope", metal="rope.metal",
        why="exp2, fast::cos and fast::sin: Metal leaves their error open; the angle's last "
        "place is worth more the larger it is, and what of a product is left after a difference, of any size")
def rope():
    def single(name, freqs):
        def case(rng):
            half, rows = int(rng.integers(1, 65)), int(rng.integers(1, 9))
            dims = 2 * half + 2 * int(rng.integers(0, 3))  # the rest of a row is left as it is
            grid = (half, rows, 1)
            return Case(grid, group_of(grid), {0: normal(rng, name, rows * dims), 1: any_bits(rng, name, rows * dims),
                                               2: i32(rng.integers(0, 500)), 3: f32(0.5), 4: i64(dims),
                                               **frequencies(rng, half, freqs)}, {1: name},
                        constants=flags(rng, False), shape=f"{rows}x{dims}")
        return case

    def flags(rng, transposed):
        return {1: np.bool_(rng.random() < 0.7), 2: np.bool_(rng.random() < 0.5), 3: np.bool_(transposed)}

    def many(name, freqs):
        def case(rng):
            half, length, heads, batch = (int(rng.integers(1, n)) for n in (33, 9, 7, 4))
            dims = 2 * half
            transposed = bool(rng.random() < 0.3)
            n = batch * heads * length * dims
            strides = i64(dims, heads * dims, 1) if transposed else i64(length * dims, dims, 1)
            grid = (half, length, batch * ceildiv(heads, 4))
            offsets = rng.integers(0, 300, batch).astype(np.int32)
            return Case(grid, group_of(grid), {0: normal(rng, name, n), 1: any_bits(rng, name, n), 2: offsets,
                                               3: f32(1.0), 4: strides, 5: i64(length * dims, dims, 1), 6: i64(1),
                                               7: i32(heads), **frequencies(rng, half, freqs)}, {1: name},
                        constants=flags(rng, transposed), shape=f"{batch}x{heads}x{length}x{dims}")
        return case
    last_place = 2.0 ** -15  # of an angle of 308, the largest: so much of a value may turn into another
    for name in REALS:
        kind = TYPES[name][0]
        for freqs in ("", "freqs_"):
            yield Kernel(f"rope_single_{freqs}{name}", f"rope_single{'_freqs' if freqs else ''}<{kind}>",
                         single(name, freqs), 1, last_place)
            for large, index in (("", "int32_t"), ("large_", "int64_t")):
                yield Kernel(f"rope_{freqs}{large}{name}", f"rope{'_freqs' if freqs else ''}<{kind}, {index}>",
                             many(name, freqs), 1, last_place)


@family("random", metal="random.metal")
def random():
    def make(strided):
        def case(rng):
            keys, size = int(rng.integers(1, 6)), int(rng.integers(1, 200))
            words = ceildiv(size, 4)
            grid = (keys, words // 2 + words % 2, 1)
            more = {4: i32(2), 5: i32(keys, 2), 6: i64(1, keys)} if strided else {}
            return Case(grid,
    group_of(grid),
    {0: any_bits(rng,
    "uint32",
    2 * keys),
    1: any_bits(rng,
    "int8",
    keys * size),
    2: np.array([words % 2],
    np.bool_),
    3: np.array([size],
    np.uint64),
    **more},
    {1: "int8"},
     shape=f"{keys}x{size}")
        return case
    yield Kernel("rbitsc", "rbitsc", make(False))
    yield Kernel("rbits", "rbits", make(True))


@family("arg_reduce", metal="arg_reduce.metal")
def arg_reduce():
    def make(name):
        def case(rng):
            axis = int(rng.integers(1, 700))
            shape = [int(n) for n in rng.integers(1, 4, 2)]
            strides, size = strides_of(rng, [*shape, axis])
            threads = 32 * ceildiv(ceildiv(axis, 4), 32)
            x = normal(rng, name, size, 2.0)  # of NaN the library's text is newer than that of MLX 0.32.2
            return Case((threads, shape[0] * shape[1], 1), (threads, 1, 1),
                        {0: x, 1: any_bits(rng, "uint32", shape[0] * shape[1]), 2: i32(*shape), 3: i64(*strides[:2]),
                         4: i64(*dense(shape)), 5: np.array([2], np.uint64), 6: i64(strides[2]),
                         7: np.array([axis], np.uint64)}, {1: "uint32"}, shape=f"{shape}x{axis}")
        return case
    for name in ALL[:-1]:
        for op, function in (("argmin", "ArgMin"), ("argmax", "ArgMax")):
            yield Kernel(f"{op}_{name}", f"arg_reduce_general<{TYPES[name][0]}, {function}<{TYPES[name][0]}>>",
                         make(name))


@family("dot", "dot.h")
def dot():
    def make(name):
        def case(rng):
            n = int(rng.integers(1, 40000))
            groups = ceildiv(n, 512 * 32)
            return Case(
    (groups * 512, 1, 1), (512, 1, 1), {
        0: normal(
            rng, name, n), 1: normal(
                rng, name, n), 2: any_bits(
                    rng, "float32", groups), 3: i32(n)}, {
                        2: "float32"}, shape=str(n))
        return case
    for name in REALS:
        yield Kernel(f"dot_product_{name}_it32_tg512_sg16", f"dot_product<{TYPES[name][0]}, 32, 512, 16>", make(name))


def sort_values(rng, name, n):
    values = normal(rng, name, n, 5.0) if rng.random() < 0.5 else any_bits(rng, name, n)
    return values


@family("sort", "utils.h", "sort.h")
def sort():
    def single(name, target, bn, contiguous):
        def case(rng):
            axis, rows = int(rng.integers(1, 4 * bn + 1)), int(rng.integers(1, 4))
            gap = int(rng.integers(0, 3))
            n = rows * (axis + gap)
            buffers = {0: sort_values(rng, name, n), 1: any_bits(rng, target, n), 2: i32(axis), 3: i32(1), 4: i32(1)}
            if contiguous:
                buffers |= {5: i32(axis + gap), 6: i32(axis + gap)}
            else:
                buffers |= {5: i32(1), 6: i32(rows), 7: i64(axis + gap), 8: i64(axis + gap)}
            return Case((bn, rows, 1), (bn, 1, 1), buffers, {1: target}, shape=f"{rows}x{axis}")
        return case

    def blocks(name, bn):
        def case(rng):
            count, rows = int(rng.integers(1, 4)), int(rng.integers(1, 3))
            axis = int(rng.integers((count - 1) * 4 * bn + 1, count * 4 * bn + 1))
            n = rows * axis
            return Case((bn * count, rows, 1), (bn, 1, 1),
                        {0: sort_values(rng, name, n), 1: any_bits(rng, name, n), 2: any_bits(rng, "uint32", n),
                         3: i32(axis), 4: i32(1), 5: i32(1), 6: i32(rows), 7: i64(axis)}, {1: name, 2: "uint32"},
                        shape=f"{rows}x{axis}")
        return case

    def sorted_blocks(rng, name, bn):
        """Two blocks, sorted each, as the first merge finds them."""
        axis = int(rng.integers(4 * bn + 1, 8 * bn + 1))
        values = normal(rng, name, axis, 5.0)
        ordered = np.concatenate([np.sort(plain(values[k:k + 4 * bn], name), kind="stable")
                                  for k in range(0, axis, 4 * bn)])
        back = ordered.view(np.uint32) >> 16 if name == "bfloat16" else ordered
        return axis, back.astype(values.dtype), np.arange(axis, dtype=np.uint32)

    def plain(values, name):
        return (values.astype(np.uint32) << 16).view(np.float32) if name == "bfloat16" else values

    def partition(name, bn):
        def case(rng):
            axis, values, indices = sorted_blocks(rng, name, bn)
            return Case((3, 1, 1), (3, 1, 1), {0: any_bits(rng, "uint32", 3), 1: values, 2: indices, 3: i32(axis),
                                               4: i32(2), 5: i32(2)}, {0: "uint32"}, shape=str(axis))
        return case

    def merge(name, bn):
        def case(rng):
            axis, values, indices = sorted_blocks(rng, name, bn)
            first = plain(values[:4 * bn], name)
            kth = np.sort(plain(values, name), kind="stable")[4 * bn]
            from_first = int(min(np.searchsorted(first, kth), 4 * bn))
            return Case((2 * bn, 1, 1), (bn, 1, 1),
                        {0: u32(0, from_first, 4 * bn), 1: values, 2: indices, 3: any_bits(rng, name, axis),
                         4: any_bits(rng, "uint32", axis), 5: i32(axis), 6: i32(2), 7: i32(2)},
                        {3: name, 4: "uint32"}, shape=str(axis))
        return case
    widths = cycle((32, 64, 128, 256))
    for name in ALL[1:]:
        kind = TYPES[name][0]
        for arg, target in (("_block", name), ("arg_block", "uint32")):
            for c in ("c", "nc"):
                bn = next(widths)
                yield Kernel(f"{c}{arg}_sort_{name}_{target}_bn{bn}_tn4",
                             f"block_sort{'_nc' if c == 'nc' else ''}<{kind}, {TYPES[target][0]}, "
                             f"{'true' if arg == 'arg_block' else 'false'}, {bn}, 4>", single(name, target, bn,
                                                                                              c == "c"))
    for name in ("float32", "bfloat16", "int8", "uint64"):
        bn = 256 if name == "uint64" else 512
        tail = f"<{TYPES[name][0]}, uint32_t, true, {bn}, 4>"
        for part, make in (("sort", blocks), ("partition", partition), ("merge", merge)):
            function = {"sort": "mb_block_sort", "partition": "mb_block_partition", "merge": "mb_block_merge"}[part]
            yield Kernel(f"{part}_mbsort_{name}_uint32_bn{bn}_tn4", function + tail, make(name, bn))


@family("searchsorted", "utils.h", "sort.h", "searchsorted.h")
def searchsorted():
    def make(name):
        def case(rng):
            n, m = int(rng.integers(1, 300)), int(rng.integers(1, 300))
            values = normal(rng, name, n, 5.0)
            if name == "bfloat16":
                values = values[np.argsort((values.astype(np.uint32) << 16).view(np.float32), kind="stable")]
            else:
                values = np.sort(values)
            return Case(
    (m, 1, 1), (min(
        m, 256), 1, 1), {
            0: values, 1: sort_values(
                rng, name, m), 2: any_bits(
                    rng, "uint32", m), 3: u32(n), 4: i64(1)}, {
                        2: "uint32"}, shape=f"{n}, {m}")
        return case
    sides = cycle(("left", "right"))
    for name in ALL:
        side = next(sides)
        yield Kernel(f"searchsorted_{name}_{side}",
                     f"searchsorted<{TYPES[name][0]}, {'true' if side == 'right' else 'false'}>", make(name))


SCAN_TYPES = {"sum": [("bool_", "int32"), ("bool_", "uint32"), *((n, n) for n in ALL[1:])],
              "prod": [(n, n) for n in ALL], "max": [(n, n) for n in ALL], "min": [(n, n) for n in ALL],
              "logaddexp": [(n, n) for n in (*REALS, "complex64")]}
SCAN_OPS = {"sum": "CumSum", "prod": "CumProd", "max": "CumMax", "min": "CumMin", "logaddexp": "CumLogaddexp"}


@family("scan", "defines.h", "utils.h", "binary_ops.h", "scan.h",
        why="exp and log1p of logaddexp, in each of many steps")
def scan():
    def contiguous(source, target, reads):
        def case(rng):
            axis, rows = int(rng.integers(1, 3000)), int(rng.integers(1, 4))
            threads = min(1024, 32 * ceildiv(axis, 32 * reads))
            return Case((threads, rows, 1), (threads, 1, 1),
                        {0: normal(rng, source, rows * axis), 1: any_bits(rng, target, rows * axis),
                         2: np.array([axis], np.uint64)}, {1: target}, shape=f"{rows}x{axis}")
        return case

    def strided(source, target, reads):
        def case(rng):
            axis, rows, stride = (int(rng.integers(1, n)) for n in (100, 3, 70))
            blocks, threads, n = ceildiv(stride, 32), 32 * 32 // reads, rows * axis * stride
            return Case((threads, rows * blocks, 1), (threads, 1, 1),
                        {0: normal(rng, source, n), 1: any_bits(rng, target, n), 2: np.array([axis], np.uint64),
                         3: np.array([stride], np.uint64), 4: np.array([blocks], np.uint64)}, {1: target},
                        shape=f"{rows}x{axis}x{stride}")
        return case
    modes = cycle([(i, r) for r in ("", "reverse_") for i in ("inclusive", "exclusive")])
    for op, pairs in SCAN_TYPES.items():
        for source, target in pairs:
            reads = 2 if source in ("uint64", "int64", "complex64") else 4
            for layout, make in (("contig", contiguous), ("strided", strided)):
                inclusive, reverse = next(modes)
                kinds = f"{TYPES[source][0]}, {TYPES[target][0]}, {SCAN_OPS[op]}<{TYPES[target][0]}>"
                yield Kernel(f"{layout}_scan_{reverse}{inclusive}_{op}_{source}_{target}",
                             f"{'contiguous' if layout == 'contig' else 'strided'}_scan<{kinds}, {reads}, "
                             f"{'true' if inclusive == 'inclusive' else 'false'}, {'true' if reverse else 'false'}>",
                             make(source, target, reads), 64 if op == "logaddexp" else 0)
            next(modes)
