"""Products with quantized matrices: affine of 2 to 8 bits, mxfp4, mxfp8 and nvfp4."""
import dataclasses

import numpy as np

from families.elementwise import REALS
from families.layout import ceildiv, f32, i32, i64
from formats import TYPES, any_bits, floats, normal
from host import Case
from registry import Kernel, family

KINDS = {"float32": ("float", "float"), "float16": ("float16_t", "half"), "bfloat16": ("bfloat16_t", "bfloat16_t")}


@dataclasses.dataclass
class Format:
    """How a matrix is quantized."""
    mode: str
    group: int
    bits: int

    @property
    def affine(self):
        return self.mode == "affine"

    @property
    def alignment(self):
        """Values that qmv_fast's simdgroup reads at once."""
        pack = {3: 8, 5: 8, 6: 4}.get(self.bits, 32 // self.bits)
        if not self.affine:
            return 512 if self.bits == 4 else 256
        return pack * (1 if self.bits == 2 else 2) * 32

    def codes(self, rng, rows, columns):
        return rng.integers(0, 256, rows * columns * self.bits // 8, np.uint8)

    def scales(self, rng, name, rows, columns):
        n = rows * columns // self.group
        if self.affine:
            return floats(rng.random(n, np.float32) * np.float32(0.1), name)
        if self.group == 32:  # E8M0
            return rng.integers(122, 130, n).astype(np.uint8)
        return rng.integers(0x18, 0x58, n).astype(np.uint8)  # E4M3

    def matrices(self, rng, name, count, rows, columns, scaled):
        """Buffers 0 to 2, or 0 and 1: codes, scales, and biases or the tensor's scale."""
        out = [self.codes(rng, count * rows, columns), self.scales(rng, name, count * rows, columns)]
        if self.affine:
            out.append(normal(rng, name, count * rows * columns // self.group, 0.1))
        elif scaled:
            out.append(f32(0.75))
        return out

    def batch(self, count, matrices, m, k, rows, columns):
        """The arguments that describe batches of vectors and of matrices."""
        words, groups = columns * self.bits // 32, columns // self.group
        out = [i32(1), i32(count, m, k), i64(m * k, k, 1), i32(1), i32(matrices, rows, words),
               i64(rows * words if matrices > 1 else 0, words, 1), i64(rows * groups if matrices > 1 else 0, groups, 1)]
        return out + ([out[-1]] if self.affine else [])


def listed(*values):
    return dict(enumerate(values))


def has_scale(f, part):
    """Whether the kernel takes the tensor's scale, used or not."""
    return not f.affine and part in ("qmv_fast", "qmv", "qvm", "qmm_t", "gather_qmv_fast", "gather_qmv", "gather_qvm",
                                     "gather_qmm_t", "gather_qmm_n", "gather_qmm_rhs")


def sizes(rng, f, part):
    """M, N, K; rows and columns of the matrix as it lies; the grid's threadgroups but for the batch; a group."""
    m, n = int(rng.integers(1, 5)), int(rng.integers(1, 40))
    k = max(32, f.group) * int(rng.integers(1, 5))
    if part in ("qmm_t", "qmm_n", "qmm_t_splitk", "gather_qmm_t", "gather_qmm_n"):
        m = int(rng.integers(1, 70))
    if part.endswith("qmv_fast"):
        k, n = max(f.alignment, f.group) * int(rng.integers(1, 3)), 8 * int(rng.integers(1, 6))
    if part.endswith(("qvm", "qmm_n")):
        n = max(32, f.group) * int(rng.integers(1, 4))
        return m, n, k, (k, n)
    return m, n, k, (n, k)


def batch_case(f, name, part, batched, options):
    """qmv, qvm, qmm and their kin: some vectors or a matrix by one matrix, or by one of a batch each."""
    def case(rng):
        m, n, k, (rows, columns) = sizes(rng, f, part)
        if part == "qmv_quad":
            k = options["d"]
            rows, columns = n, k
        if options.get("aligned") is not None:
            n = rows = 32 * ceildiv(n, 32) if options["aligned"] else n + (n % 32 == 0)
        if options.get("partial"):
            n = rows = n - int(rng.integers(1, 7))
        count = int(rng.integers(2, 4)) if batched else 1
        matrices = count if rng.random() < 0.7 else 1
        groups, group = grid_of(f, part, m, n, options)
        lists = [i32(k), i32(n)] + ([i32(m)] if part in ("qmm_t", "qmm_n", "qmv_wide") else [])
        values = f.matrices(rng, name, matrices, rows, columns, has_scale(f, part))
        y = len(values) + 1
        values += [normal(rng, name, count * m * k), any_bits(rng, name, count * m * n), *lists,
                   *f.batch(count, matrices, m, k, rows, columns)]
        grid = (groups[0] * group[0], groups[1] * group[1], count * group[2])
        return Case(grid, group, listed(*values), {y: name}, shape=f"{count}x{m}x{n}x{k}")
    return case


def grid_of(f, part, m, n, options):
    if part == "qmv_quad":
        return (m, ceildiv(n, 64)), (32, 1, 1)
    if part == "qmv_wide":
        lanes = options["lanes"]
        return (ceildiv(m, options["vectors"]), ceildiv(n, 2 * 32 // lanes)), (32, 2, 1)
    if part.endswith(("qmm_t", "qmm_n", "splitk")):
        return (ceildiv(n, 32), ceildiv(m, 32)), (32, 2, 2)
    if part.endswith("qvm"):
        return (m, ceildiv(n, 2 * min(f.group, 32))), (32, 2, 1)
    return (m, ceildiv(n, 2 * options.get("results", 4))), (32, 2, 1)


def gather_case(f, name, part, options):
    def case(rng):
        m, n, k, (rows, columns) = sizes(rng, f, part)
        if options.get("aligned") is not None:
            n = rows = 32 * ceildiv(n, 32) if options["aligned"] else n + (n % 32 == 0)
        vectors, matrices, count = (int(rng.integers(1, 4)) for _ in range(3))
        groups, group = grid_of(f, part, m, n, options)
        values = f.matrices(rng, name, matrices, rows, columns, has_scale(f, part))
        y = len(values) + 3
        values += [normal(rng, name, vectors * m * k), rng.integers(0, vectors, count).astype(np.uint32),
                   rng.integers(0, matrices, count).astype(np.uint32), any_bits(rng, name, count * m * n), i32(k),
                   i32(n)]
        values += [i32(m)] if part in ("gather_qmm_t", "gather_qmm_n") else []
        values += [*f.batch(vectors, matrices, m, k, rows, columns), i32(1), i32(count), i64(1), i64(1)]
        grid = (groups[0] * group[0], groups[1] * group[1], count * group[2])
        return Case(grid, group, listed(*values), {y: name}, shape=f"{count}x{m}x{n}x{k}")
    return case


def rhs_case(f, name, transposed):
    def case(rng):
        n, k = 32 * int(rng.integers(1, 3)), max(32, f.group) * int(rng.integers(1, 4))
        if not transposed:
            n = max(32, f.group) * int(rng.integers(1, 3))
        groups = int(rng.integers(1, 40))
        counts = rng.integers(0, 12, groups)
        offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
        m = max(1, int(counts.sum()))
        rows, columns = (n, k) if transposed else (k, n)
        values = [normal(rng, name, m * k), *f.matrices(rng, name, groups, rows, columns, True), offsets,
                  any_bits(rng, name, m * n), i32(m), i32(n), i32(k), i32(groups)]
        flags = {200: np.bool_(m % 16 == 0), 201: np.bool_(n % 32 == 0), 202: np.bool_(k % 32 == 0)}
        return Case((32 * ceildiv(n, 32), 2 * (ceildiv(m, 16) + groups), 1), (32, 2, 1), listed(*values), {5: name},
                    constants=flags, shape=f"{groups}: {m}x{n}x{k}")
    return case


def qvm_split_case(f, name, parts):
    def case(rng):
        m, n = 1, max(32, f.group) * int(rng.integers(1, 3))
        block = 8 if f.affine else 32  # of less than a block lanes read what nobody wrote (see docs/msl.md)
        step = block * int(rng.integers(1, 6))
        last = step if rng.random() < 0.5 else block * int(rng.integers(1, step // block + 1))
        k = (parts - 1) * step + last
        words, groups = n * f.bits // 32, n // f.group
        values = f.matrices(rng, name, 1, parts * step, n, False)
        y = len(values) + 1
        values += [normal(rng, name, parts * step), any_bits(rng, name, parts * m * n), i32(step), i32(n), i32(1),
                   i32(parts, m, k // parts), i64(step, step, 1), i32(1), i32(parts, k // parts, words),
                   i64(step * words, words, 1), i64(step * groups, groups, 1)]
        values += ([values[-1]] if f.affine else []) + [i32(last)]
        grid = (32 * m, 2 * ceildiv(n, 2 * min(f.group, 32)), parts)
        return Case(grid, (32, 2, 1), listed(*values), {y: name}, shape=f"{parts}: {n}x{k}")
    return case


def qmm_split_case(f, name, aligned):
    def case(rng):
        m, parts, step = int(rng.integers(1, 70)), int(rng.integers(2, 4)), max(32, f.group) * int(rng.integers(1, 3))
        n = 32 * int(rng.integers(1, 3)) if aligned else int(rng.integers(1, 32))
        k = parts * step
        values = f.matrices(rng, name, 1, n, k, False)
        y = len(values) + 1
        values += [normal(rng, name, m * k), any_bits(rng, "float32", parts * m * n), i32(k), i32(n), i32(m), i32(step),
                   i32(m * n)]
        return Case((32 * ceildiv(n, 32), 2 * ceildiv(m, 32), 2 * parts), (32, 2, 2), listed(*values), {y: "float32"},
                    shape=f"{parts}: {m}x{n}x{k}")
    return case


def kernels_of(f, name, turn):
    """Every kind of kernel for one format and type; `turn` picks among flags."""
    word, kind = KINDS[name]
    prefix = "affine_" if f.affine else "fp_"
    head, tail = f"{f.mode}_", f"_{word}_gs_{f.group}_b_{f.bits}"
    base = f"{kind}, {f.group}, {f.bits}"

    def flag(value):
        return "true" if value else "false"
    batched, aligned, partial = turn % 2, turn // 2 % 2, turn % 3 == 0
    if f.bits & (f.bits - 1) == 0:  # MLX has it for powers of two alone
        yield "qmv_quad", Kernel(f"{head}qmv_quad{tail}_d_{64 << aligned}_batch_{batched}",
                                 f"{prefix}qmv_quad<{base}, {64 << aligned}, {flag(batched)}>",
                                 batch_case(f, name, "qmv_quad", batched, {"d": 64 << aligned}))
    scaled = not f.affine and turn % 2
    for part, pr in (("qmv_fast", int(partial)), ("qmv", 0)):
        yield part, Kernel(f"{head}{part}{tail}_batch_{batched}_pr_{pr}_hgs_{scaled:d}_r_4",
                           f"{prefix}{part}<{base}, {flag(batched)}, {flag(pr)}, {flag(scaled)}, 4>",
                           batch_case(f, name, part, batched, {"partial": pr}))
    vectors, lanes = 2 + turn % 4, 8 if f.affine else 16
    yield "qmv_wide", Kernel(f"{head}qmv_wide{tail}_nv_{vectors}_kl_{lanes}_batch_{batched}",
                             f"{prefix}qmv_wide<{base}, {vectors}, {lanes}, {flag(batched)}>",
                             batch_case(f, name, "qmv_wide", batched, {"vectors": vectors, "lanes": lanes}))
    hgs, hgs_flag = ("_hgs", ", true") if scaled else ("", "")
    yield "qvm", Kernel(f"{head}qvm{tail}_batch_{batched}{hgs}", f"{prefix}qvm<{base}, {flag(batched)}{hgs_flag}>",
                        batch_case(f, name, "qvm", batched, {}))
    yield "qmm_t", Kernel(f"{head}qmm_t{tail}_alN_{flag(aligned)}_batch_{batched}",
                          f"{prefix}qmm_t<{base}, {flag(aligned)}, {flag(batched)}>",
                          batch_case(f, name, "qmm_t", batched, {"aligned": aligned}))
    yield "qmm_n", Kernel(f"{head}qmm_n{tail}_batch_{batched}", f"{prefix}qmm_n<{base}, {flag(batched)}>",
                          batch_case(f, name, "qmm_n", batched, {}))
    parts = 32 if batched else 8
    yield "qvm_split_k", Kernel(f"{head}qvm_split_k{tail}_spk_{parts}", f"{prefix}qvm_split_k<{base}, {parts}>",
                                qvm_split_case(f, name, parts))
    yield "qmm_t_splitk", Kernel(f"{head}qmm_t_splitk{tail}_alN_{flag(aligned)}",
                                 f"{prefix}qmm_t_splitk<{base}, {flag(aligned)}>", qmm_split_case(f, name, aligned))
    for part in ("gather_qmv_fast", "gather_qmv", "gather_qvm", "gather_qmm_n"):
        yield part, Kernel(f"{head}{part}{tail}{hgs}", f"{prefix}{part}<{base}{hgs_flag}>", gather_case(f, name, part,
                                                                                                        {}))
    yield "gather_qmm_t", Kernel(f"{head}gather_qmm_t{tail}_alN_{flag(aligned)}{hgs}",
                                 f"{prefix}gather_qmm_t<{base}, {flag(aligned)}{hgs_flag}>",
                                 gather_case(f, name, "gather_qmm_t", {"aligned": aligned}))
    trans = "nt" if aligned else "nn"
    yield "gather_qmm_rhs", Kernel(f"{head}gather_qmm_rhs_{trans}{tail}_bm_16_bn_32_bk_32_wm_1_wn_2{hgs}",
                                   f"{prefix}gather_qmm_rhs<{base}, 16, 32, 32, 1, 2, {flag(aligned)}{hgs_flag}>",
                                   rhs_case(f, name, aligned))
    yield from conversions(f, name, head, tail, prefix, base)


def conversions(f, name, head, tail, prefix, base):
    def quantize(rng):
        n = f.group * 8 * int(rng.integers(1, 9))
        per_thread = f.group // 32 if f.affine else 1
        threads = n // per_thread
        codes, groups = n * f.bits // 8, n // f.group
        buffers = {0: normal(rng, name, n), 1: rng.integers(0, 256, codes, np.uint8),
                   2: any_bits(rng, name if f.affine else "uint8", groups),
                   3: any_bits(rng, name, groups) if f.affine else f32(2.5)}
        outputs = {1: "uint8", 2: name, 3: name} if f.affine else {1: "uint8", 2: "uint8"}
        return Case((threads, 1, 1), (min(threads, 256), 1, 1), buffers, outputs, shape=str(n))

    def dequantize(rng):
        n = f.group * 8 * int(rng.integers(1, 9))
        threads = n // ({3: 8, 5: 8, 6: 4}.get(f.bits, 8 // f.bits))
        return Case((threads, 1, 1), (min(threads, 256), 1, 1),
                    listed(*f.matrices(rng, name, 1, 1, n, True), any_bits(rng, name, n)), {3: name}, shape=str(n))

    def both(rng):
        n = 32 * int(rng.integers(1, 20))
        return Case((n, 1, 1), (min(n, 256), 1, 1), {0: normal(rng, name, n), 1: f32(2.5), 2: any_bits(rng, name, n)},
                    {2: name}, shape=str(n))
    if f.affine:
        yield "quantize", Kernel(f"{head}quantize{tail}", f"{prefix}quantize<{base}>", quantize)
        yield "dequantize", Kernel(f"{head}dequantize{tail}", f"{prefix}dequantize<{base}>", dequantize)
        return
    for scaled in ("false", "true")[:2 if f.group == 16 else 1]:
        yield "quantize", Kernel(f"{head}quantize{tail}_hgs_{scaled}", f"{prefix}quantize<{base}, {scaled}>", quantize)
        yield "dequantize", Kernel(f"{head}dequantize{tail}_hgs_{scaled}", f"{prefix}dequantize<{base}, {scaled}>",
                                   dequantize)
        yield "quantize_dequantize", Kernel(f"{head}quantize_dequantize{tail}_hgs_{scaled}",
                                            f"{prefix}quantize_dequantize<{base}, {scaled}>", both)


@family("affine", "utils.h", "steel/gemm/gemm.h", "quantized_utils.h", "quantized.h")
def affine():
    """Each kind with each number of bits; group sizes, types and flags take turns."""
    for i, bits in enumerate((2, 3, 4, 5, 6, 8)):
        for place in range(16):
            f = Format("affine", (32, 64, 128)[(place + i + i // 3) % 3], bits)
            kinds = list(kernels_of(f, REALS[(place + i) % 3], 5 * i + place))
            yield kinds[place % len(kinds)][1]


@family("fp_quantized", "utils.h", "steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h")
def fp_quantized():
    turn = 0
    for mode, group, bits in (("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)):
        for name in REALS:
            yield from (kernel for _, kernel in kernels_of(Format(mode, group, bits), name, turn))
            turn += 1
