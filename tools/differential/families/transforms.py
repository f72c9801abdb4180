"""Fourier transforms and convolutions."""
import math

import numpy as np

from families.elementwise import REALS, cycle
from families.layout import ceildiv, dense, group_of, i32, i64
from formats import TYPES, any_bits, normal
from host import Case
from registry import Kernel, family

RADICES = (13, 11, 8, 7, 6, 5, 4, 3, 2)


def steps_of(n):
    """How often MLX's plan takes each radix, or None where they do not make n."""
    plan, rest = [0] * len(RADICES), n
    for i, radix in enumerate(RADICES):
        if n & (n - 1) == 0 and n < 512 and radix > 4:
            continue
        while rest % radix == 0 and rest > 1:
            plan[i] += 1
            rest //= radix
    return plan if rest == 1 else None


def elements_per_thread(n, plans):
    used = sorted({RADICES[i] for plan in plans for i, steps in enumerate(plan) if steps})
    if 7 in used and (11 in used or 13 in used):
        return 7
    if 11 in used and 13 in used:
        return 11
    if len(used) == 1:
        return used[0]
    if len(used) == 2 and used[1] >= 11:
        return sum(used) // 2
    return used[1]


def constants_of(inverse, size, per_thread, steps, rader=None, rader_m=1):
    values = {0: np.bool_(inverse), 1: np.bool_(size & (size - 1) == 0), 2: np.int32(per_thread), 3: np.int32(rader_m)}
    values |= {4 + i: np.int32(k) for i, k in enumerate(steps)}
    return values | {13 + i: np.int32(k) for i, k in enumerate(rader or [0] * 9)} | {22: np.bool_(False)}


def lengths(memory, wanted):
    """Those n whose transforms take this much threadgroup memory."""
    return [n for n in range(max(2, memory // 2 + 1 if memory > 256 else 2), memory + 1) if wanted(n)]


def data(rng, kind, count):
    if kind == "float":
        return normal(rng, "float32", count)
    if kind == "complex32_t":
        return normal(rng, "float16", 2 * count)
    return normal(rng, "complex64", count)


FORMATS = {"float": "float32", "float2": "complex64", "complex32_t": "float16"}


def transform(rng, kinds, n, memory, size, per_thread, inverse, more, constants):
    """A Case of `size` elements a transform of n; more: the arguments behind input and output, from the batch."""
    source, target = kinds
    real = "float" in kinds
    batch = int(rng.integers(1, 6))
    per_group = max(1, 256 // size)
    groups = ceildiv(batch, per_group)
    groups = ceildiv(groups, 2) if real else groups
    half = n // 2 + 1
    lengths_ = {("float", "float2"): (n, half), ("float2", "float"): (half, n)}.get(kinds, (n, n))
    threads = ceildiv(size, per_thread)
    grid = (groups, per_group, threads)
    buffers = {0: data(rng, source, batch * lengths_[0]), 1: any_bits(rng, FORMATS[target], batch * lengths_[1] *
                                                                   (2 if target == "complex32_t" else 1))}
    return Case(grid, (1, per_group, threads), buffers | {2 + i: v for i, v in enumerate(more(batch))},
                {1: FORMATS[target]}, constants=constants, shape=f"{batch}x{n}")


def plain_case(kinds, memory):
    candidates = lengths(memory, steps_of)

    def case(rng):
        n = int(rng.choice(candidates))
        steps = steps_of(n)
        per_thread = elements_per_thread(n, [steps])
        inverse = kinds == ("float2", "float") or "float" not in kinds and rng.random() < 0.5
        return transform(rng, kinds, n, memory, n, per_thread, inverse, lambda batch: [i32(n), i32(batch)],
                         constants_of(inverse, n, per_thread, steps))
    return case


def prime_factors(n):
    out, k = [], 2
    while n > 1:
        while n % k == 0:
            out.append(k)
            n //= k
        k += 1
    return out


def rader_prime(n):
    """The one prime factor of n that needs Rader's algorithm, if there is just one and it can be planned."""
    large = [p for p in prime_factors(n) if p not in RADICES]
    return large[0] if len(large) == 1 and all(p in RADICES for p in prime_factors(large[0] - 1)) else None


def rader_case(kinds, memory):
    candidates = lengths(memory, lambda n: n <= 2048 and rader_prime(n))

    def case(rng):
        n = int(rng.choice(candidates))
        prime = rader_prime(n)
        root = next(r for r in range(2, prime) if all(
            pow(r, (prime - 1) // p, prime) != 1 for p in prime_factors(prime - 1)))
        g = np.array([pow(root, i, prime) for i in range(prime - 1)], np.int16)
        g_minus = np.array([pow(pow(root, -1, prime), i, prime) for i in range(prime - 1)], np.int16)
        b = np.fft.fft(np.exp(-2j * math.pi * g_minus.astype(np.float64) / prime)).astype(np.complex64)
        if kinds[0] == "complex32_t":
            b = b.view(np.float32).astype(np.float16)
        steps, rader = steps_of(n // prime), steps_of(prime - 1)
        per_thread = elements_per_thread(n, [steps, rader])
        inverse = kinds == ("float2", "float") or "float" not in kinds and rng.random() < 0.5
        return transform(rng, kinds, n, memory, n, per_thread, inverse,
                         lambda batch: [b, g, g_minus, i32(n), i32(batch), i32(prime)],
                         constants_of(inverse, n, per_thread, steps, rader, n // prime))
    return case


def bluestein_case(kinds, memory):
    def case(rng):
        n = int(rng.integers(max(2, memory // 4 + 1), memory // 2 + 1))  # those whose padded length is `memory`
        size = 1 << (2 * n - 2).bit_length()
        i = np.arange(-n + 1, n, dtype=np.float64)
        w = np.exp(1j * math.pi * i ** 2 / n)
        padded = np.zeros(size, np.complex128)
        padded[:2 * n - 1] = w
        w_q, w_k = np.fft.fft(padded).astype(np.complex64), np.conj(w[n - 1:]).astype(np.complex64)
        if kinds[0] == "complex32_t":
            w_q, w_k = (x.view(np.float32).astype(np.float16) for x in (w_q, w_k))
        steps = steps_of(size)
        per_thread = elements_per_thread(n, [steps])
        inverse = kinds == ("float2", "float") or "float" not in kinds and rng.random() < 0.5
        return transform(rng, kinds, n, memory, size, per_thread, inverse,
                         lambda batch: [w_q, w_k, i32(n), i32(size), i32(batch)],
                         constants_of(inverse, size, per_thread, steps))
    return case


def four_step_case(kinds, memory, step):
    def case(rng):
        """Of n1 columns and n2 rows."""
        n = memory // 4 if memory < 4096 else int(rng.choice([1024, 2048, 4096]))
        other = int(rng.choice([64, 128]))
        n1, n2 = (n, other) if step == 0 else (other, n)
        steps = steps_of(n)
        per_thread = elements_per_thread(n, [steps])
        per_group = max(256 // n, min(4, 4096 // n))
        batch = other * int(rng.integers(1, 3))
        threads = ceildiv(n, per_thread)
        total = batch * n
        source, target = kinds
        wide = 2 if source == "complex32_t" else 1
        inverse = bool(rng.random() < 0.5) if "float" not in kinds else target == "float"
        return Case((ceildiv(batch, per_group), per_group, threads), (1, per_group, threads),
                    {0: data(rng, source, total), 1: any_bits(rng, FORMATS[target], total * wide), 2: i32(n1),
                     3: i32(n2),
                     4: i32(batch)}, {1: FORMATS[target]}, constants=constants_of(inverse, n, per_thread, steps),
                    shape=f"{n1}x{n2}x{batch // other}")
    return case


@family("fft", "fft.h", why="fast::cos and fast::sin of the twiddle factors: Metal leaves their error open; some 12 "
        "steps add theirs up")
def fft():
    def within(kinds):
        return 2.0 ** -7 if kinds[0] == "complex32_t" else 2.0 ** -19
    kinds_of = cycle((("float2", "float2"), ("float", "float2"), ("float2", "float"), ("complex32_t", "complex32_t")))
    for memory in (256, 512, 1024, 2048, 4096):
        for _ in range(4):
            kinds = next(kinds_of)
            words, types = "_".join(kinds), ", ".join(kinds)
            yield Kernel(f"fft_mem_{memory}_{words}", f"fft<{memory}, {types}>", plain_case(kinds, memory),
                         near=within(kinds))
            if memory < 4096:
                yield Kernel(f"rader_fft_mem_{memory}_{words}", f"rader_fft<{memory}, {types}>", rader_case(kinds,
                                                                                                            memory),
                             near=within(kinds))
            yield Kernel(f"bluestein_fft_mem_{memory}_{words}", f"bluestein_fft<{memory}, {types}>",
                         bluestein_case(kinds, memory), near=within(kinds))
        for kinds in (("float2", "float2"), ("complex32_t", "complex32_t")):
            for step in (0, 1):
                yield Kernel(f"four_step_mem_{memory}_{'_'.join(kinds)}_{step}_false",
                             f"four_step_fft<{memory}, {', '.join(kinds)}, {step}, false>",
                             four_step_case(kinds, memory, step), near=within(kinds))


def conv_params(batch, channels, outs, sizes, window, out_sizes, stride, pad, dilation, in_dilation, groups, flip):
    per_group = channels // groups
    shape_in, shape_w, shape_out = [batch, *sizes, channels], [outs, *window, per_group], [batch, *out_sizes, outs]
    head = i32(batch, channels, outs, *sizes, *window, *out_sizes, *stride, *pad, *dilation, *in_dilation).tobytes()
    head += b"\0" * (-len(head) % 8)
    tail = i64(*dense(shape_in), *dense(shape_w), *dense(shape_out)).tobytes() + i32(groups, int(flip)).tobytes()
    return np.frombuffer(head + tail, np.uint8)


def conv_sizes(rng, ndim, in_dilation):
    window = [int(n) for n in rng.integers(1, 4, ndim)]
    stride, pad, dilation = ([int(n) for n in rng.integers(low, high, ndim)] for low, high in ((1, 3), (0, 3), (1, 3)))
    inner = [int(n) for n in rng.integers(1, 3, ndim)] if in_dilation else [1] * ndim
    sizes = [int(n) + (w - 1) * d for n, w, d in zip(rng.integers(1, 8, ndim), window, dilation)]
    outs = [(i * (n - 1) + 1 + 2 * p - d * (w - 1) - 1) // s + 1
            for n, w, s, p, d, i in zip(sizes, window, stride, pad, dilation, inner)]
    return sizes, window, outs, stride, pad, dilation, inner


def implicit_case(name, blocks, warps, ndim, channels, small):
    """2 and 3 dimensions; channels: the number that the kernel is made for, 0 for any."""
    def case(rng):
        bm, bn, bk = blocks
        batch, groups = int(rng.integers(1, 3)), 1 if channels else int(rng.integers(1, 3))
        sizes, window, outs, stride, pad, dilation, inner = conv_sizes(rng, ndim, False)
        per_group = channels or 16 * int(rng.integers(1, 3))
        out_per_group = int(rng.integers(1, 2 * bn))
        # MLX's 2d loader of large filters looks for borders where an unflipped filter would lie, so that it reads
        # outside of a padded input.
        flip = bool(rng.random() < 0.3) and (ndim == 3 or small or channels > 0 or not any(pad))
        in_channels, out_channels = groups * per_group, groups * out_per_group
        params = conv_params(batch, in_channels, out_channels, sizes, window,
                             outs, stride, pad, dilation, inner, groups, flip)
        m, taps = batch * int(np.prod(outs)), int(np.prod(window))
        iterations = taps * ceildiv(per_group, bk)
        if channels:
            iterations = ceildiv(taps * (channels if channels <= 2 else 4), bk)
        sign = -1 if flip else 1
        steps = [s * d for s, d in zip(dense([*sizes, in_channels])[:-1], dilation)]  # from the outermost in
        jumps, inside = [], 0
        for k in range(ndim - 1, -1, -1):
            jumps.append(sign * (steps[k] - inside))
            inside += (window[k] - 1) * steps[k]
        jumps.append(bk - sign * inside)
        gemm = i32(m, out_per_group, taps * per_group, iterations, *jumps, ceildiv(out_per_group, bn), ceildiv(m, bm), 0)
        grid = (32 * ceildiv(out_per_group, bn), warps[1] * ceildiv(m, bm), warps[0] * groups)
        return Case(grid, (32, warps[1], warps[0]),
                    {0: normal(rng, name, batch * int(np.prod(sizes)) * in_channels),
                     1: normal(rng, name, out_channels * taps * per_group),
                     2: any_bits(rng, name, m * out_channels), 3: params, 4: gemm}, {2: name},
                    shape=f"{batch}x{sizes}x{in_channels}, {window}, {out_channels}")
    return case


def general_case(name, blocks, warps):
    def case(rng):
        bm, bn, bk = blocks
        batch, channels, outs_ = int(rng.integers(1, 3)), int(rng.integers(1, 40)), int(rng.integers(1, 2 * bn))
        sizes, window, outs, stride, pad, dilation, inner = conv_sizes(rng, 2, True)
        flip = bool(rng.random() < 0.3)
        jumps_w = [math.lcm(i, d) // d for i, d in zip(inner, dilation)]
        jumps_o = [math.lcm(i, s) // s for i, s in zip(inner, stride)]
        adjusted = [ceildiv(o, j) for o, j in zip(outs, jumps_o)]
        m = batch * adjusted[0] * adjusted[1]
        jump = i32(*jumps_w, *jumps_o, *adjusted, adjusted[0] * adjusted[1], m)
        bases = [general_bases(*row, flip) for row in zip(jumps_o, jumps_w, stride, pad, window, dilation, inner)]
        sign = -1 if flip else 1
        ijw, ijh = channels * dilation[1], sizes[1] * channels * dilation[0]
        gemm = i32(batch * outs[0] * outs[1],
    outs_,
    window[0] * window[1] * channels,
    ceildiv(channels,
    bk),
    sign * ijw,
    sign * (ijh - (window[1] - 1) * ijw),
    bk - sign * ((window[0] - 1) * ijh + (window[1] - 1) * ijw),
    ceildiv(outs_,
    bn),
    ceildiv(m,
    bm),
     0)
        grid = (32 * ceildiv(outs_, bn), warps[1] * ceildiv(m, bm), warps[0] * jumps_o[0] * jumps_o[1])
        params = conv_params(batch, channels, outs_, sizes, window, outs, stride, pad, dilation, inner, 1, flip)
        return Case(grid, (32, warps[1], warps[0]),
                    {0: normal(rng, name, batch * sizes[0] * sizes[1] * channels),
                     1: normal(rng, name, outs_ * window[0] * window[1] * channels),
                     2: any_bits(rng, name, batch * outs[0] * outs[1] * outs_), 3: params, 4: gemm, 5: jump,
                     6: bases[0],
                     7: bases[1]}, {2: name}, constants={200: np.bool_(channels % bk == 0)},
                    shape=f"{batch}x{sizes}x{channels}, {window}, {outs_}")
    return case


def general_bases(out_jump, weight_jump, stride, pad, window, dilation, inner, flip):
    rows = []
    for i in range(out_jump):
        at, base = i * stride - pad + ((window - 1) * dilation if flip else 0), 0
        while base < window and math.fmod(at, inner) != 0:
            base += 1
            at += -dilation if flip else dilation
        rows += [base, ceildiv(window - base, weight_jump)]
    return i32(*rows)


@family("conv_implicit", "utils.h", "steel/gemm/mma.h", "steel/conv/conv.h", "steel/conv/params.h",
        "steel/conv/kernels/steel_conv.h")
def conv_implicit():
    blocks_of = cycle((((32, 8, 16), (4, 1)), ((64, 8, 16), (4, 1)), ((32, 32, 16), (2, 2)), ((32, 64, 16), (2, 2)),
                       ((64, 32, 16), (2, 2)), ((64, 64, 16), (2, 2))))
    for name in REALS:
        for channels, small in ((0, True), (0, False), (1, False), (2, False), (3, False), (4, False)):
            blocks, warps = next(blocks_of)
            head = f"bm{blocks[0]}_bn{blocks[1]}_bk{blocks[2]}_wm{warps[0]}_wn{warps[1]}"
            numbers = f"{TYPES[name][0]}, {', '.join(map(str, blocks + warps))}"
            yield Kernel(f"implicit_gemm_conv_2d_{name}_{head}_channel_{channels or 'l'}_filter_"
                         f"{'s' if small else 'l'}",
                         f"implicit_gemm_conv_2d<{numbers}, {channels}, {str(small).lower()}>",
                         implicit_case(name, blocks, warps, 2, channels, small))
        next(blocks_of)


@family("conv_implicit_3d", "utils.h", "steel/gemm/mma.h", "steel/conv/conv.h", "steel/conv/params.h",
        "steel/conv/kernels/steel_conv_3d.h")
def conv_implicit_3d():
    for i, name in enumerate(REALS):
        for small in (True, False):
            blocks, warps = (((32, 32, 16), (2, 2)), ((32, 8, 16), (4, 1)), ((64, 64, 16), (2, 2)))[i]
            yield Kernel(f"implicit_gemm_conv_3d_{name}_bm{blocks[0]}_bn{blocks[1]}_bk16_wm{warps[0]}_wn{warps[1]}"
                         f"_filter_{'s' if small else 'l'}",
                         f"implicit_gemm_conv_3d<{TYPES[name][0]}, {', '.join(map(str, blocks + warps))}, "
                         f"{str(small).lower()}>", implicit_case(name, blocks, warps, 3, 0, small))


@family("conv_general", "utils.h", "steel/gemm/mma.h", "steel/conv/conv.h", "steel/conv/params.h", "steel/utils.h",
        "steel/conv/kernels/steel_conv_general.h")
def conv_general():
    for name in REALS:
        for blocks, warps in (((32, 8, 16), (4, 1)), ((32, 32, 16), (2, 2)), ((64, 64, 16), (2, 2))):
            yield Kernel(f"implicit_gemm_conv_2d_general_{name}_bm{blocks[0]}_bn{blocks[1]}_bk16_wm{warps[0]}"
                         f"_wn{warps[1]}",
                         f"implicit_gemm_conv_2d_general<{TYPES[name][0]}, {', '.join(map(str, blocks + warps))}>",
                         general_case(name, blocks, warps))


def unfold_case(name, ndim):
    def case(rng):
        batch, channels = int(rng.integers(1, 3)), int(rng.integers(1, 40))
        sizes, window, outs, stride, pad, dilation, inner = conv_sizes(rng, ndim, True)
        rows, taps = batch * int(np.prod(outs)), int(np.prod(window))
        grid = (channels, taps, rows)
        return Case(grid,
    group_of(grid),
    {0: normal(rng,
    name,
    batch * int(np.prod(sizes)) * channels),
    1: any_bits(rng,
    name,
    rows * taps * channels),
    2: conv_params(batch,
    channels,
    1,
    sizes,
    window,
    outs,
    stride,
    pad,
    dilation,
    inner,
    1,
    rng.random() < 0.3),
    3: i32(0)},
    {1: name},
     shape=f"{batch}x{sizes}x{channels}, {window}")
    return case


def depthwise_2d_case(name):
    def case(rng):
        batch, channels = int(rng.integers(1, 3)), 8 * int(rng.integers(1, 4))
        window, stride, pad = ([int(n) for n in rng.integers(low, high, 2)] for low, high in ((1, 6), (1, 3), (0, 3)))
        sizes = [int(n) for n in rng.integers(6, 20, 2)]
        outs = [(n + 2 * p - w) // s + 1 for n, w, s, p in zip(sizes, window, stride, pad)]
        flip = bool(rng.random() < 0.3)
        flags = {0: np.int32(window[0]), 1: np.int32(window[1]), 10: np.int32(stride[0]), 11: np.int32(stride[1]),
                 100: np.int32(4), 101: np.int32(8), 200: np.bool_(flip)}
        grid = (channels, 8 * ceildiv(outs[1], 8), 4 * ceildiv(outs[0], 4) * batch)
        params = conv_params(
    batch, channels, channels, sizes, window, outs, stride, pad, [
        1, 1], [
            1, 1], channels, flip)
        return Case(grid,
    (8,
    8,
    4),
    {0: normal(rng,
    name,
    batch * sizes[0] * sizes[1] * channels),
    1: normal(rng,
    name,
    channels * window[0] * window[1]),
    2: any_bits(rng,
    name,
    batch * outs[0] * outs[1] * channels),
    3: params},
    {2: name},
    constants=flags,
     shape=f"{batch}x{sizes}x{channels}, {window}")
    return case


def depthwise_1d_case(name, large):
    def case(rng):
        batch, channels, window, outs = (int(rng.integers(1, n)) for n in (4, 40, 6, 30))
        length = outs + window - 1
        strides = (i64 if large else i32)(length * channels, channels, 1)
        grid = (channels, outs, batch)
        return Case(grid, group_of(grid), {0: normal(rng, name, batch * length * channels),
                                           1: normal(rng, name, channels * window),
                                           2: any_bits(rng, name, batch * outs * channels), 3: strides, 4: i32(window)},
                    {2: name}, shape=f"{batch}x{length}x{channels}, {window}")
    return case


def winograd_case(name, part):
    def case(rng):
        batch, channels, outs_ = int(rng.integers(1, 3)), 32 * int(rng.integers(1, 3)), 32 * int(rng.integers(1, 3))
        outs = [int(n) for n in rng.integers(1, 15, 2)]
        tiles = [ceildiv(n, 6) for n in outs]
        padded = [6 * t + 2 for t in tiles]
        if part == "weight":
            return Case((32 * (outs_ // 4), 4, 1), (32, 4, 1),
                        {0: normal(rng, name, outs_ * 9 * channels), 1: any_bits(rng, name, 64 * channels * outs_),
                         2: i32(channels), 3: i32(outs_)}, {1: name}, shape=f"{channels}, {outs_}")
        params = conv_params(batch, channels, outs_, padded, [3, 3], outs, [1, 1], [0, 0], [1, 1], [1, 1], 1, False)
        count = batch * tiles[0] * tiles[1]
        inside, wide = (batch * padded[0] * padded[1], channels) if part == "input" else (64 * count, outs_)
        outside = 64 * count if part == "input" else batch * outs[0] * outs[1]
        return Case((32 * tiles[1], 2 * tiles[0], 2 * batch), (32, 2, 2),
                    {0: normal(rng, name, inside * wide), 1: any_bits(rng, name, outside * wide), 2: params}, {1: name},
                    shape=f"{batch}x{outs}x{wide}")
    return case


@family("conv", metal="conv.metal")
def conv():
    for name in REALS:
        kind = TYPES[name][0]
        for ndim in (1, 2, 3):
            yield Kernel(f"naive_unfold_nd_{name}_{ndim}", f"naive_unfold_Nd<{kind}, {ndim}>", unfold_case(name, ndim))
            yield Kernel(f"naive_unfold_transpose_nd_{name}_{ndim}", f"naive_unfold_transpose_Nd<{kind}, {ndim}>",
                         unfold_case(name, ndim))
        yield Kernel(f"depthwise_conv_2d_{name}", f"depthwise_conv_2d<{kind}>", depthwise_2d_case(name))
        yield Kernel(f"depthwise_conv_1d_{name}", f"depthwise_conv_1d<{kind}, int32_t>", depthwise_1d_case(name, False))
        yield Kernel(f"depthwise_conv_1d_{name}_large", f"depthwise_conv_1d<{kind}, int64_t>",
                     depthwise_1d_case(name, True))
        for part, tail, numbers in (("weight", "bc32", "32"), ("input", "bc32",
                                    "32, 2, 2"), ("output", "bo32", "32, 2, 2")):
            yield Kernel(f"winograd_conv_2d_{part}_transform_{name}_{tail}",
                         f"winograd_conv_2d_{part}_transform<{kind}, {numbers}>", winograd_case(name, part))
