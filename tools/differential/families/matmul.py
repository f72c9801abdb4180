"""reduce, gemv, steel GEMM: plain, masked, gathered, segmented, split over K."""
import numpy as np

from families.elementwise import ALL, INTEGERS, REALS, cycle
from families.layout import ceildiv, dense, f32, group_of, i32, i64
from formats import TYPES, any_bits, normal
from host import Case
from registry import Kernel, family

FACTORS = (*REALS, "complex64")


def u64(value):
    return np.array([value], np.uint64)


def reduced_type(op, name):
    if op in ("and", "or"):
        return "bool_"
    if op in ("sum", "prod"):
        return {"uint8": "int32", "uint16": "uint32", "int8": "int32", "int16": "int32"}.get(name, name)
    return name


def reduce_values(rng, op, name, n):
    if op in ("and", "or"):
        return np.where(
    rng.random(n) < (
        0.02 if op == "or" else 0.98), normal(
            rng, name, n, 2.0), 0).astype(
                TYPES[name][1])
    return normal(rng, name, n) if op in ("sum", "prod") or rng.random() < 0.5 else any_bits(rng, name, n)


def reduce_arguments(rng, dims, keep, row):
    """Of row and column reductions: shapes and strides of what stays and of what goes, in an array whose
    last `row` elements lie side by side."""
    shape = [*keep, *dims, row]
    strides = dense(shape)
    kept, gone = strides[:len(keep)], strides[len(keep):-1]
    return {4: i32(*(keep or [0])), 5: i64(*(kept or [0])), 6: i32(len(keep)),
            7: i32(*(dims or [0])), 8: i64(*(gone or [0])), 9: i32(len(dims))}


def axes(rng, ndim, most):
    """ndim 1 means none or one axis, 5 any number from three on."""
    count = {1: 1, 2: 2, 5: int(rng.integers(3, 5))}[ndim]
    return [int(n) for n in rng.integers(1, most, count)]


def reduce_all(op, name):
    def case(rng):
        n = int(rng.integers(1, 4000))
        rows = int(rng.integers(1, 4))
        row = ceildiv(n, rows)
        rows = ceildiv(n, row)
        threads = 32 * ceildiv(ceildiv(row, 4), 32)
        target = reduced_type(op, name)
        return Case((threads, rows, 1), (threads, 1, 1),
                    {0: reduce_values(rng, op, name, n), 1: any_bits(rng, target, rows), 2: u64(n), 3: u64(row)},
                    {1: target}, shape=str(n))
    return case


def reduce_row(op, name, ndim, looped):
    def case(rng):
        row = int(rng.integers(65, 1500)) if looped else int(rng.integers(1, 65))
        dims = axes(rng, ndim, 7 if not looped else 3)
        keep = [int(n) for n in rng.integers(1, 5, 2)]
        outs, many, target = keep[0] * keep[1], int(np.prod(dims)), reduced_type(op, name)
        if looped:
            threads = 32 if row <= 512 else 128 if row <= 1024 else min(1024, 32 * ceildiv(ceildiv(row, 4), 32))
            grid, group = (threads, outs, 1), (threads, 1, 1)
        elif many < 32 and row <= 8 or many <= 8:
            grid, group = (outs, 1, 1), (outs, 1, 1)
        else:
            grid, group = (32, outs, 1), (32, 1, 1)
        return Case(grid, group, {0: reduce_values(rng, op, name, outs * many * row), 1: any_bits(rng, target, outs),
                                  2: i64(row), 3: i64(many), **reduce_arguments(rng, dims, keep, row)}, {1: target},
                    shape=f"{keep}, {dims}, {row}")
    return case


def reduce_simple(op, name):
    def case(rng):
        row, outs, target = int(rng.integers(65, 1500)), int(rng.integers(4, 40)), reduced_type(op, name)
        threads = 32 if row <= 512 else 128 if row <= 1024 else min(512, 32 * ceildiv(ceildiv(row, 4), 32))
        return Case((threads, ceildiv(outs, 4), 1), (threads, 1, 1),
                    {0: reduce_values(rng, op, name, outs * row), 1: any_bits(rng, target, outs), 2: u64(row),
                     3: i64(outs)},
                    {1: target}, shape=f"{outs}x{row}")
    return case


def reduce_column(op, name, ndim, kind):
    def case(rng):
        stride = int(rng.integers(1, 32 if kind == "longcolumn" else 100))
        column = int(rng.integers(1, 9))
        dims = [*axes(rng, ndim, 5)[1:], column] if kind == "small" else [*axes(rng, ndim, 6)[1:], column * 40]
        keep = [int(rng.integers(1, 4))]
        total, outs, target = int(np.prod(dims)), keep[0], reduced_type(op, name)
        blocks = 32 if kind in ("longcolumn", "2pass") else 1
        if kind == "small":
            x = min(ceildiv(stride, 4), 32)
            group = (x, min(8, total), 1)
            groups = (ceildiv(ceildiv(stride, 4), x), outs, 1)
        elif kind == "longcolumn":
            group = (stride, min(32, ceildiv(total, blocks)), 1)
            groups = (outs, 1, blocks)
        else:
            group, groups = (256, 1, 1), (ceildiv(stride, 32), outs * blocks, 1)
        more = {"small": {}, "longcolumn": {11: u64(outs * stride)}, "looped": {11: i64(0)},
                "2pass": {11: i64(0), 12: u64(outs)}}[kind]
        return Case(tuple(a * b for a, b in zip(groups, group)), group,
                    {0: reduce_values(rng, op, name, outs * total * stride), 1: any_bits(rng, target,
                                                                                         blocks * outs * stride),
                     2: u64(dims[-1]), 3: i64(stride), **reduce_arguments(rng, dims, keep, stride),
                     10: u64(total // dims[-1]), **more}, {1: target}, shape=f"{keep}, {dims}, {stride}")
    return case


REDUCE_OPS = {"and": ("bool_", "int16", "int32", "int64", *REALS), "or": ("bool_", "int16", "int32", "int64", *REALS),
              **{op: ALL[1:] for op in ("sum", "prod", "min", "max")}}


def reduce_kernel(form, op, name, ndim, large):
    kinds = f"{TYPES[name][0]}, {TYPES[reduced_type(op, name)][0]}, {op.title()}<{TYPES[reduced_type(op, name)][0]}>"
    index = "int64_t" if large else "int"
    suffix = "large_" if large else ""
    if form == "all":
        return Kernel(f"all_reduce_{op}{name}", f"all_reduce<{kinds}>", reduce_all(op, name))
    if form == "simple":
        return Kernel(f"row_reduce_simple_{op}{name}", f"row_reduce_simple<{kinds}>", reduce_simple(op, name))
    if form in ("small", "looped"):
        return Kernel(f"row_reduce_{form}_{suffix}{ndim}_reduce_{op}{name}",
                      f"row_reduce_{form}<{kinds}, {index}, {ndim}>", reduce_row(op, name, ndim, form == "looped"))
    form = form.removeprefix("col_")
    tile, tile_name = (", 32, 32", "_32_32") if form in ("looped", "2pass") else ("", "")
    return Kernel(f"col_reduce_{form}_{suffix}{ndim}{tile_name}_reduce_{op}{name}",
                  f"col_reduce_{form}<{kinds}, {index}, {ndim}{tile}>", reduce_column(op, name, ndim, form))


@family("reduce", "defines.h", "utils.h", "atomic.h", "reduction/ops.h", "reduce.h")
def reduce():
    forms = cycle(("all", "small", "simple", "looped", "col_small", "col_longcolumn", "col_looped", "col_2pass"))
    ndims, larges = cycle((1, 2, 5)), cycle((False, True, False, False, True))
    for op, names in REDUCE_OPS.items():
        for name in names:
            for _ in range(2 if op in ("sum", "min", "max") else 1):
                yield reduce_kernel(next(forms), op, name, next(ndims), next(larges))
        next(forms)
    for op, name in (("and", "bool_"), ("sum", "float16"), ("prod", "complex64"), ("min", "int8"), ("max", "bfloat16")):
        def case(rng, target=reduced_type(op, name)):
            return Case((77, 1, 1), (64, 1, 1), {0: any_bits(rng, target, 77)}, {0: target})
        yield Kernel(f"init_reduce_{op}{name}", f"init_reduce<{TYPES[name][0]}, {op.title()}<{TYPES[name][0]}>>", case)


def tile(bm, bn, sm, sn, tm, tn):
    return f"bm{bm}_bn{bn}_sm{sm}_sn{sn}_tm{tm}_tn{tn}"


GEMV = ((1, 8, 1, 32, 4, 4), (1, 8, 1, 32, 1, 4), (1, 1, 8, 4, 4, 4), (1, 1, 8, 4, 1, 4), (4, 1, 1, 32, 1, 4),
        (4, 1, 1, 32, 4, 4), (8, 1, 1, 32, 4, 4))
GEMV_T = ((1, 2, 8, 4, 4, 1), (1, 2, 8, 4, 4, 4), (1, 4, 8, 4, 4, 4), (1, 16, 8, 4, 4, 4), (1, 16, 4, 8, 4, 4))


def gemv_grid(shape, transposed, out, batch):
    bm, bn, sm, sn, tm, tn = shape
    per_group = bn * sn * tn if transposed else bm * sm * tm
    return (32 * ceildiv(out, per_group), bn, bm * batch), (32, bn, bm)


def matrix_sizes(rng, shape, transposed):
    """Of the vector, of the result and of a row; a tile of one output column or row is for fewer than four."""
    k = int(rng.integers(1, 400))
    few = shape[5 if transposed else 4] == 1
    out = int(rng.integers(1, 4)) if few else int(rng.integers(4, 300))
    return k, out, (out if transposed else k) + int(rng.integers(0, 5))


def gemv_case(name, shape, transposed, strided, axpby):
    def case(rng):
        k, out, ld = matrix_sizes(rng, shape, transposed)
        rows = k if transposed else out
        batch = [2, 2] if strided else [int(rng.integers(1, 4))]
        count = int(np.prod(batch))
        x_strides, m_strides = i64(*dense([*batch, k])[:-1]), i64(*dense([*batch, rows * ld])[:-1])
        if strided:  # some matrices serve twice
            m_strides = i64(0, rows * ld)
        buffers = {0: normal(rng, name, count * rows * ld), 1: normal(rng, name, count * k),
                   3: any_bits(rng, name, count * out), 4: i32(k), 5: i32(out), 6: i32(ld), 9: i32(len(batch)),
                   10: i32(*batch), 11: x_strides, 12: m_strides}
        step = 2
        if axpby:
            buffers |= {2: normal(rng, name, count * out * step), 7: f32(0.75), 8: f32(-1.5),
                        13: i64(*dense([*batch, out * step])[:-1]), 14: i32(step)}
        else:  # there to be bound; not read
            buffers |= {2: buffers[0][:1], 7: f32(1), 8: f32(0), 13: i64(0), 14: i32(0)}
        grid, group = gemv_grid(shape, transposed, out, count)
        return Case(grid, group, buffers, {3: name}, shape=f"{count}x{out}x{k}")
    return case


def gather_case(name, shape, transposed):
    def case(rng):
        k, out, ld = matrix_sizes(rng, shape, transposed)
        rows = k if transposed else out
        vectors, matrices, count = (int(rng.integers(1, 5)) for _ in range(3))
        vec_index = rng.integers(0, vectors, count).astype(np.uint32)
        mat_index = rng.integers(0, matrices, count).astype(np.uint32)
        grid, group = gemv_grid(shape, transposed, out, count)
        return Case(grid, group,
                    {0: normal(rng, name, matrices * rows * ld), 1: normal(rng, name, vectors * k), 2: normal(rng,
                                                                                                              name, 1),
                     3: any_bits(rng, name, count * out), 4: i32(k), 5: i32(out), 6: i32(ld), 7: f32(1), 8: f32(0),
                     9: i32(1), 10: i32(count), 11: i64(1, 1), 12: i32(1), 13: i32(vectors), 14: i64(k), 15: i32(1),
                     16: i32(matrices), 17: i64(rows * ld), 18: vec_index, 19: mat_index}, {3: name},
                    shape=f"{count}x{out}x{k}")
    return case


def wide_case(name, vectors, lanes, gather):
    def case(rng):
        k, out, m = 4 * int(rng.integers(1, 100)), int(rng.integers(2, 100)), int(rng.integers(2, 12))
        ld, xld, batch = k + 4 * int(rng.integers(0, 2)), k, int(rng.integers(1, 3))
        grid = (32 * ceildiv(m, vectors), (lanes // 8) * ceildiv(out, 4), batch)
        buffers = {
    0: normal(
        rng,
        name,
        batch * out * ld),
        1: normal(
            rng,
            name,
            batch * m * xld),
            2: normal(
                rng,
                name,
                batch * m * out),
                3: any_bits(
                    rng,
                    name,
                    batch * m * out),
                    4: i32(k),
                    5: i32(out),
                    6: i32(m),
                    7: i32(ld),
                    8: i32(xld),
                    11: i32(1),
                     12: i32(batch)}
        if gather:
            buffers |= {13: i64(1, 1), 14: i32(1), 15: i32(batch), 16: i64(m * xld), 17: i32(1), 18: i32(batch),
                        19: i64(out * ld), 20: rng.integers(0, batch, batch).astype(np.uint32),
                        21: rng.integers(0, batch, batch).astype(np.uint32)}
        else:
            buffers |= {9: f32(0.5), 10: f32(2), 13: i64(m * xld), 14: i64(out * ld), 15: i64(m * out), 16: i32(out),
                        17: i32(1)}
        flags = {0: np.bool_(rng.random() < 0.5 and not gather), 1: np.bool_(rng.random() < 0.5 and not gather)}
        return Case(grid, (32, lanes // 8, 1), buffers, {3: name}, constants=flags, shape=f"{batch}x{m}x{out}x{k}")
    return case


@family("gemv", "utils.h", "gemv.h")
def gemv():
    flags = cycle(((0, 0), (1, 1), (0, 1), (1, 0)))
    for transposed, shapes in ((False, GEMV), (True, GEMV_T)):
        t = "t_" if transposed else ""
        for name in FACTORS:
            for shape in shapes:
                strided, axpby = next(flags)
                numbers = ", ".join(map(str, shape))
                yield Kernel(f"gemv_{t}{name}_{tile(*shape)}_nc{strided}_axpby{axpby}",
                             f"gemv{t.rstrip('_') and '_t'}<{TYPES[name][0]}, {numbers}, {strided}, {axpby}>",
                             gemv_case(name, shape, transposed, strided, axpby))
            for shape in shapes[-3:]:
                yield Kernel(f"gemv_{t}gather_{name}_{tile(*shape)}",
                             f"gemv_{t}gather<{TYPES[name][0]}, {', '.join(map(str, shape))}>",
                             gather_case(name, shape, transposed))
            next(flags)
    for name in ("float16", "bfloat16"):
        for vectors, lanes in ((2, 16), (3, 32), (4, 16), (5, 32)):
            for gather in ("", "gather_"):
                yield Kernel(f"gemv_wide_{gather}{name}_nv{vectors}_kl{lanes}",
                             f"gemv_wide{gather and '_gather'}<{TYPES[name][0]}, {vectors}, {lanes}>",
                             wide_case(name, vectors, lanes, bool(gather)))


MASKS = (("bool_", "bool_"), ("same", "same"), ("bool_", "same"), ("same", "bool_"), ("nomask", "same"),
         ("nomask", "bool_"), ("bool_", "nomask"), ("same", "nomask"))


def mask_types(masks, name):
    names = [name if m == "same" else m for m in masks]
    return names, ["nomask_t" if n == "nomask" else TYPES[n][0] for n in names]


def mask(rng, name, rows, columns):
    """Of blocks: zeros and ones, or factors."""
    if name == "nomask":
        return any_bits(rng, "bool_", 1)
    keep = rng.random(rows * columns) < 0.7
    return keep if name == "bool_" else np.where(keep, normal(rng, name, rows * columns), 0).astype(TYPES[name][1])


def gemv_masked_case(name, shape, block, transposed, names, strided):
    def case(rng):
        k, out, ld = matrix_sizes(rng, shape, transposed)
        rows = k if transposed else out
        outs, ks = ceildiv(out, block), ceildiv(k, block)
        strides = []
        if names[0] != "nomask":
            strides += [1, 1]
        if names[1] != "nomask":
            strides += [1, ks] if not transposed else [1, outs]
            strides += [1, 1]
        grid, group = gemv_grid(shape, transposed, out, 1)
        batch = [1, 1] if strided else [1]
        zeros = i64(*[0] * len(batch))
        return Case(grid, group,
                    {0: normal(rng, name, rows * ld), 1: normal(rng, name, k), 3: any_bits(rng, name, out), 4: i32(k),
                     5: i32(out), 6: i32(ld), 9: i32(len(batch)), 10: i32(*batch), 11: zeros, 12: zeros,
                     20: mask(rng, names[0], outs, 1), 21: mask(rng, names[1], outs, ks), 22: mask(rng, names[1], ks,
                                                                                                   1),
                     23: i32(*strides), 24: i64(*[0] * 6)}, {3: name}, shape=f"{out}x{k}")
    return case


@family("gemv_masked", "utils.h", "gemv_masked.h")
def gemv_masked():
    shapes = {False: cycle(((2, 1, 4, 8, 1, 4), (2, 1, 4, 8, 4, 4), (2, 1, 2, 16, 1, 4), (2, 1, 2, 16, 4, 4),
                            (4, 1, 2, 16, 4, 4))),
              True: cycle(((1, 1, 8, 4, 4, 1), (1, 2, 8, 4, 4, 4), (1, 1, 8, 4, 8, 1), (1, 1, 8, 4, 8, 4),
                           (1, 2, 8, 4, 8, 4), (1, 4, 8, 4, 8, 4)))}
    strided = cycle((0, 1, 0))
    for name in REALS:
        for transposed, t in ((False, ""), (True, "_t")):
            for masks in MASKS:
                names, types = mask_types(masks, name)
                shape, nc = next(shapes[transposed]), next(strided)
                block = 32 if shape[2:4] == (4, 8) or transposed and shape[4] == 4 else 64
                yield Kernel(f"gemv{t}_outmask_{names[0]}_opmask_{names[1]}_{name}_{tile(*shape)}_nc{nc}",
                             f"gemv{t}_masked<{TYPES[name][0]}, {types[0]}, {types[1]}, "
                             f"{', '.join(map(str, shape))}, {nc}>",
                             gemv_masked_case(name, shape, block, transposed, names, nc))


def gemm_params(m, n, k, lda, ldb, blocks, batch=(0, 0, 0), batch_ndim=1, swizzle=0):
    bm, bn, bk = blocks
    return np.frombuffer(i32(m, n, k, lda, ldb, n, ceildiv(n, bn), ceildiv(m, bm)).tobytes() + i64(*batch).tobytes() +
                         i32(swizzle, k // bk, batch_ndim, 0).tobytes(), np.uint8)


def gemm_sizes(rng, blocks, aligned=None):
    """M, N, K; aligned: for M and N and for K whether they are multiples of the block."""
    if aligned is None:
        aligned = (rng.random() < 0.4, rng.random() < 0.4)
    out = []
    for block, whole in zip(blocks, (aligned[0], aligned[0], aligned[1])):
        size = block * int(rng.integers(1, 3)) if whole else int(rng.integers(1, 2 * block))
        out.append(size if whole or size % block else size + 1)
    return out


def leading(m, n, k, trans):
    return (m if trans[0] == "t" else k), (k if trans[1] == "t" else n)


def gemm_name(trans, name, target, blocks, warps):
    return (f"{trans}_{name}_{target}_bm{blocks[0]}_bn{blocks[1]}_bk{blocks[2]}_wm{warps[0]}_wn{warps[1]}",
            f"{blocks[0]}, {blocks[1]}, {blocks[2]}, {warps[0]}, {warps[1]}, "
            f"{'true' if trans[0] == 't' else 'false'}, {'true' if trans[1] == 't' else 'false'}")


SHAPES = (((64, 64, 16), (2, 2)), ((64, 64, 16), (1, 2)), ((64, 32, 32), (2, 2)), ((32, 64, 16), (1, 2)),
          ((32, 32, 16), (2, 2)))
TRANS = ("nn", "nt", "tn", "tt")
STEEL = ("utils.h", "steel/gemm/gemm.h")


def fused_case(name, trans, blocks, warps):
    def case(rng):
        m, n, k = gemm_sizes(rng, blocks)
        lda, ldb = leading(m, n, k, trans)
        batch, strided, source = int(rng.integers(1, 3)), rng.random() < 0.4, rng.random() < 0.5
        grid = (32 * ceildiv(n, blocks[1]), warps[1] * ceildiv(m, blocks[0]), warps[0] * batch * (2 if strided else 1))
        count = batch * (2 if strided else 1)
        buffers = {0: normal(rng, name, count * m * k), 1: normal(rng, name, count * k * n),
                   2: normal(rng, name, count * m * n), 3: any_bits(rng, name, count * m * n),
                   4: gemm_params(m, n, k, lda, ldb, blocks, (m * k, k * n, m * n), 2 if strided else 1),
                   5: np.frombuffer(i32(n, 1).tobytes() + i64(m * n).tobytes() + f32(0.5, 1.25).tobytes(), np.uint8),
                   6: i32(batch, 2), 7: i64(2 * m * k, m * k, 2 * k * n, k * n, 2 * m * n, m * n)}
        flags = {
    10: np.bool_(strided),
    100: np.bool_(source),
    110: np.bool_(
        source and rng.random() < 0.5),
        200: np.bool_(
            m %
            blocks[0] == 0),
            201: np.bool_(
                n %
                blocks[1] == 0),
                202: np.bool_(
                    k %
                     blocks[2] == 0)}
        return Case(grid, (32, warps[1], warps[0]), buffers, {3: name}, constants=flags, shape=f"{count}x{m}x{n}x{k}")
    return case


@family("steel_gemm", *STEEL, "steel/gemm/kernels/steel_gemm_fused.h")
def steel_gemm():
    shapes = cycle(SHAPES)
    for name in FACTORS:
        for trans in TRANS:
            for _ in range(2):
                blocks, warps = next(shapes)
                words, numbers = gemm_name(trans, name, name, blocks, warps)
                yield Kernel(f"steel_gemm_fused_{words}", f"gemm<{TYPES[name][0]}, {numbers}, float>",
                             fused_case(name, trans, blocks, warps))
        next(shapes)


def masked_case(name, trans, blocks, warps, aligned, names):
    def case(rng):
        m, n, k = gemm_sizes(rng, blocks, aligned)
        lda, ldb = leading(m, n, k, trans)
        tm, tn, tk = ceildiv(m, blocks[0]), ceildiv(n, blocks[1]), ceildiv(k, blocks[0])
        strides = [1, tn] if names[0] != "nomask" else []
        strides += [1, tk, 1, tn] if names[1] != "nomask" else []
        return Case((32 * tn, warps[1] * tm, warps[0]), (32, warps[1], warps[0]),
                    {0: normal(rng, name, m * k), 1: normal(rng, name, k * n), 3: any_bits(rng, name, m * n),
                     4: gemm_params(m, n, k, lda, ldb, blocks), 6: i32(1), 7: i64(*[0] * 5),
                     10: mask(rng, names[0], tm, tn), 11: mask(rng, names[1], tm, tk), 12: mask(rng, names[1], tk, tn),
                     13: i32(*strides)}, {3: name}, shape=f"{m}x{n}x{k}")
    return case


@family("steel_gemm_masked", *STEEL, "steel/gemm/kernels/steel_gemm_masked.h")
def steel_gemm_masked():
    aligns, blocks_of = cycle([(a, b) for a in (True, False) for b in (True, False)]), cycle((32, 64, 32))
    for name in REALS:
        for masks in MASKS:
            names, types = mask_types(masks, name)
            for trans in TRANS[len(name) % 2::2]:
                aligned, block = next(aligns), next(blocks_of)
                words, numbers = gemm_name(trans, name, name, (block, block, 16), (2, 2))
                mn, k = ("taligned" if a else "naligned" for a in aligned)
                yield Kernel(f"steel_gemm_block_outmask_{names[0]}_opmask_{names[1]}_{words}_MN_{mn}_K_{k}",
                             f"block_masked_gemm<{TYPES[name][0]}, {types[0]}, {types[1]}, {numbers}, "
                             f"{str(aligned[0]).lower()}, {str(aligned[1]).lower()}>",
                             masked_case(name, trans, (block, block, 16), (2, 2), aligned, names))
            next(aligns)


def alignment(m, n, k, blocks):
    return {200: np.bool_(m % blocks[0] == 0), 201: np.bool_(n % blocks[1] == 0), 202: np.bool_(k % blocks[2] == 0)}


def gather_mm_case(name, trans, blocks, warps):
    def case(rng):
        m, n, k = gemm_sizes(rng, blocks)
        lda, ldb = leading(m, n, k, trans)
        lefts, rights, rows, columns = (int(rng.integers(1, 4)) for _ in range(4))
        several = bool(rng.random() < 0.5)
        shape = [rows, columns] if several else [rows]
        count = int(np.prod(shape))
        strides = i64(*dense(shape))
        return Case((32 * ceildiv(n, blocks[1]), warps[1] * ceildiv(m, blocks[0]), warps[0] * count),
                    (32, warps[1], warps[0]),
                    {0: normal(rng, name, lefts * m * k), 1: normal(rng, name, rights * k * n),
                     2: rng.integers(0, lefts, count).astype(np.uint32), 3: rng.integers(0, rights,
                                                                                         count).astype(np.uint32),
                     4: any_bits(rng, name, count * m * n),
                     5: gemm_params(m, n, k, lda, ldb, blocks, (int(strides[0]), int(strides[0]), m * n), len(shape)),
                     6: i32(*shape), 7: strides, 8: strides, 9: i32(1), 10: i32(lefts), 11: i64(m * k), 12: i32(1),
                     13: i32(rights), 14: i64(k * n)}, {4: name},
                    constants={10: np.bool_(several), **alignment(m, n, k, blocks)}, shape=f"{shape}x{m}x{n}x{k}")
    return case


def gather_rhs_case(name, trans, blocks, warps):
    def case(rng):
        _, n, k = gemm_sizes(rng, blocks)
        groups = int(rng.integers(1, 40))
        counts = rng.integers(0, 12, groups)
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
        m = max(1, int(counts.sum()))
        lda, ldb = leading(m, n, k, trans)
        tiles = ceildiv(m, blocks[0]) + groups
        return Case((32 * ceildiv(n, blocks[1]), warps[1] * tiles, warps[0]), (32, warps[1], warps[0]),
                    {0: normal(rng, name, m * k), 1: normal(rng, name, groups * k * n), 2: offsets,
                     3: any_bits(rng, name, m * n), 4: gemm_params(m, n, k, lda, ldb, blocks, (0, k * n, 0), 0),
                     5: i32(groups)}, {3: name}, constants=alignment(m, n, k, blocks), shape=f"{groups}: {m}x{n}x{k}")
    return case


@family("steel_gemm_gather", *STEEL, "steel/gemm/kernels/steel_gemm_gather.h")
def steel_gemm_gather():
    shapes = cycle(SHAPES)
    for name in REALS:
        for trans in TRANS:
            blocks, warps = next(shapes)
            words, numbers = gemm_name(trans, name, name, blocks, warps)
            yield Kernel(f"steel_gather_mm_{words}", f"gather_mm<{TYPES[name][0]}, {numbers}, float>",
                         gather_mm_case(name, trans, blocks, warps))
        for trans in ("nn", "nt"):
            blocks, warps = (16, 64, 16), (1, 2)
            words, numbers = gemm_name(trans, name, name, blocks, warps)
            yield Kernel(f"steel_gather_mm_rhs_{words}", f"gather_mm_rhs<{TYPES[name][0]}, {numbers}, float>",
                         gather_rhs_case(name, trans, blocks, warps))


def segmented_case(name, trans, blocks, warps):
    def case(rng):
        m, n, k = gemm_sizes(rng, blocks)
        lda, ldb = leading(m, n, k, trans)
        count = int(rng.integers(1, 4))
        edges = np.sort(rng.integers(0, k + 1, count + 1)).astype(np.uint32)
        contiguous = bool(rng.random() < 0.5)
        segments = np.stack([edges[:-1], edges[1:]], 1).reshape(-1) if contiguous else edges
        return Case((32 * ceildiv(n, blocks[1]), warps[1] * ceildiv(m, blocks[0]), warps[0] * count),
                    (32, warps[1], warps[0]),
                    {0: normal(rng, name, m * k), 1: normal(rng, name, k * n), 2: segments,
                     3: any_bits(rng, name, count * m * n),
                     4: gemm_params(m, n, k, lda, ldb, blocks, (0, 0, m * n), 0)}, {3: name},
                    constants={199: np.bool_(contiguous), **alignment(m, n, k, blocks)}, shape=f"{count}x{m}x{n}x{k}")
    return case


@family("steel_gemm_segmented", *STEEL, "steel/gemm/kernels/steel_gemm_segmented.h")
def steel_gemm_segmented():
    shapes = cycle(SHAPES)
    for name in REALS:
        for trans in TRANS:
            blocks, warps = next(shapes)
            words, numbers = gemm_name(trans, name, name, blocks, warps)
            yield Kernel(f"steel_segmented_mm_{words}", f"segmented_mm<{TYPES[name][0]}, {numbers}, float>",
                         segmented_case(name, trans, blocks, warps))


def splitk_case(name, target, trans, blocks, warps, aligned):
    def case(rng):
        m, n, k = gemm_sizes(rng, blocks, aligned)
        k += 4 * blocks[2]  # every part has some
        lda, ldb = leading(m, n, k, trans)
        parts = int(rng.integers(2, 4))
        steps = k // blocks[2] // parts
        params = i32(
    m, n, k, lda, ldb, n, ceildiv(
        n, blocks[1]), ceildiv(
            m, blocks[0]), parts, m * n, steps * blocks[2], 0, steps)
        return Case((32 * ceildiv(n, blocks[1]), warps[1] * ceildiv(m, blocks[0]), warps[0] * parts),
                    (32, warps[1], warps[0]),
                    {0: normal(rng, name, m * k), 1: normal(rng, name, k * n), 2: any_bits(rng, target, parts * m * n),
                     3: params}, {2: target}, shape=f"{parts}: {m}x{n}x{k}")
    return case


def accumulate_case(source, name, axpby):
    def case(rng):
        m, n, parts = int(rng.integers(1, 30)), int(rng.integers(1, 30)), int(rng.integers(2, 6))
        buffers = {0: normal(rng, source, parts * m * n), 1: any_bits(rng, name, m * n), 2: i32(parts), 3: i32(m * n),
                   4: i32(n)}
        if axpby:
            buffers |= {5: normal(rng, name, m * n), 6: i32(n), 7: i32(1), 8: f32(0.5), 9: f32(1.5)}
        return Case((n, m, 1), group_of((n, m)) + (1,), buffers, {1: name}, shape=f"{parts}x{m}x{n}")
    return case


@family("steel_gemm_splitk", *STEEL, "steel/gemm/kernels/steel_gemm_splitk.h")
def steel_gemm_splitk():
    shapes = cycle([((a, b, 16), (2, 2)) for a in (16, 32) for b in (16, 32)])
    aligns = cycle([(a, b) for a in (True, False) for b in (True, False)])
    for name in FACTORS:
        target = "complex64" if name == "complex64" else "float32"
        for trans in TRANS:
            (blocks, warps), aligned = next(shapes), next(aligns)
            words, numbers = gemm_name(trans, name, target, blocks, warps)
            mn, k = ("taligned" if a else "naligned" for a in aligned)
            yield Kernel(f"steel_gemm_splitk_{words}_MN_{mn}_K_{k}",
                         f"gemm_splitk<{TYPES[name][0]}, {TYPES[target][0]}, {numbers}, {str(aligned[0]).lower()}, "
                         f"{str(aligned[1]).lower()}>", splitk_case(name, target, trans, blocks, warps, aligned))
        next(shapes)
        for axpby in ("", "_axbpy"):
            yield Kernel(f"steel_gemm_splitk_accum_{name}_{target}{axpby}",
                         f"gemm_splitk_accum{axpby and '_axpby'}<{TYPES[target][0]}, {TYPES[name][0]}>",
                         accumulate_case(target, name, bool(axpby)))
