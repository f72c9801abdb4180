"""Attention: steel's tiles, and sdpa_vector in one pass and in two."""
import numpy as np

from families.elementwise import REALS
from families.layout import ceildiv, f32, i32, i64
from formats import TYPES, any_bits, normal
from host import Case
from registry import Kernel, family

WHY = "fast::exp and fast::exp2: Metal leaves their error open"


def masks(rng, name, heads, rows, columns):
    """A mask of the kernel's type: where attention looks (some of it always), or what is added."""
    if name == "bool_":
        looks = rng.random((heads, rows, columns)) < 0.8
        looks[..., 0] = True
        return looks.reshape(-1)
    return normal(rng, name, heads * rows * columns)


def steel_case(name, mask, bk, bd, bv, wn):
    def case(rng):
        batch, kv_heads, group = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
        heads, ql = kv_heads * group, int(rng.integers(1, 70))
        kl = ql + int(rng.integers(0, 70))
        if rng.random() < 0.3:
            ql, kl = 64, 64 + bk * int(rng.integers(0, 3))
        nq, nk = ceildiv(ql, 32), ceildiv(kl, bk)
        params = i32(batch, heads, bd, ql, kl, group).tobytes() + f32(bd ** -0.5).tobytes()
        params += i32(nq, nk, ql // 32, kl // bk, ql % 32, kl % bk, kl - ql).tobytes()
        params += i64(heads * ql * bd, ql * bd, bd, kv_heads * kl * bd, kl * bd, bd, kv_heads * kl * bv, kl * bv, bv,
                      heads * ql * bv, ql * bv, bv).tobytes()
        has_mask, lse = bool(rng.random() < 0.6), bool(rng.random() < 0.4)
        flags = {200: np.bool_(ql % 32 == 0), 201: np.bool_(kl % bk == 0), 300: np.bool_(has_mask),
                 301: np.bool_(rng.random() < 0.5), 302: np.bool_(rng.random() < 0.3), 303: np.bool_(lse)}
        buffers = {0: normal(rng, name, batch * heads * ql * bd), 1: normal(rng, name, batch * kv_heads * kl * bd),
                   2: normal(rng, name, batch * kv_heads * kl * bv), 3: any_bits(rng, name, batch * heads * ql * bv),
                   4: np.frombuffer(params, np.uint8), 5: i64(0, ql * kl, kl), 6: masks(rng, mask, heads, ql, kl),
                   7: normal(rng, name, heads), 8: any_bits(rng, "float32", batch * heads * ql)}
        return Case((32 * nq, 4 * heads, wn * batch), (32, 4, wn), buffers, {3: name, 8: "float32"}, constants=flags,
                    shape=f"{batch}x{heads}x{ql}x{kl}")
    return case


@family("steel_attention", "utils.h", "steel/attn/attn.h", "steel/attn/kernels/steel_attention.h", why=WHY)
def steel_attention():
    shapes = [(16, 192, 192, 1), (16, 128, 128, 1), (32, 96, 96, 1), (32, 96, 64, 1), (32, 80, 80, 1), (32, 72, 72, 1),
              (32, 64, 64, 1), (16, 256, 256, 2)]
    for place, (bk, bd, bv, wn) in enumerate(shapes):
        for i, name in enumerate(REALS):
            if name == "float32" and bd == 192:
                continue  # 40 KB of threadgroup memory, more than a GPU of Apple's has
            mask = name if (place + i) % 2 else "bool_"
            yield Kernel(f"steel_attention_{name}_bq32_bk{bk}_bd{bd}_bv{bv}_wm4_wn{wn}_mask{mask}",
                         f"attention<{TYPES[name][0]}, 32, {bk}, {bd}, {bv}, 4, {wn}, {TYPES[mask][0]}, float>",
                         steel_case(name, mask, bk, bd, bv, wn), 4, 2.0 ** -20)


def key_arguments(rng, name, first, batch, kv_heads, n, d, v):
    """Keys, values and their strides from buffer `first` on."""
    return {1: normal(rng, name, batch * kv_heads * n * d), 2: normal(rng, name, batch * kv_heads * n * v),
            first: i32(n), **{first + 1 + i: i64(s) for i, s in enumerate((n * d, d, n * v, v))},
            first + 5: f32(d ** -0.5)}


def vector_flags(rng, sinks=True):
    kind = rng.choice(["none", "bool", "float"])
    flags = {20: np.bool_(kind != "none"), 21: np.bool_(rng.random() < 0.3), 22: np.bool_(rng.random() < 0.3),
             23: np.bool_(kind == "bool"), 24: np.bool_(kind == "float"), 25: np.bool_(sinks and rng.random() < 0.3)}
    return flags


def mask_arguments(rng, name, first, heads, rows, n):
    return {first: masks(rng, "bool_", heads, rows, n), first + 1: masks(rng, name, heads, rows, n),
            first + 2: i32(1), first + 3: i32(n), first + 4: i32(rows * n), first + 5: normal(rng, name, heads)}


def vector_case(name, d, v):
    def case(rng):
        batch, kv_heads, group = (int(rng.integers(1, 3)) for _ in range(3))
        heads, rows, n = kv_heads * group, int(rng.integers(1, 4)), int(rng.integers(1, 200))
        out = batch * heads * rows
        n = max(n, rows)
        return Case((1024 * batch * heads, rows, 1), (1024, 1, 1),
                    {0: normal(rng, name, out * d), 3: any_bits(rng, name, out * v), 4: i32(group),
                     **key_arguments(rng, name, 5, batch, kv_heads, n, d, v),
                     **mask_arguments(rng, name, 11, batch * heads, rows, n), 17: i32(heads)}, {3: name},
                    constants=vector_flags(rng), shape=f"{batch}x{heads}x{rows}x{n}")
    return case


def first_pass_case(name, d, v, group=None, threads=None):
    """group: of the kernels made for one number of queries a key; threads: their simdgroups."""
    def case(rng):
        batch, kv_heads, blocks = int(rng.integers(1, 3)), int(rng.integers(1, 3)), 32
        queries = group or int(rng.integers(1, 4))
        rows = 1 if group else int(rng.integers(1, 3))
        heads, n = kv_heads * queries, int(rng.integers(2, 200))
        out = batch * heads * rows
        flags = {26: np.int32(blocks), **vector_flags(rng)}
        if group:
            flags |= {i: np.bool_(False) for i in range(20, 26)}
        buffers = {0: normal(rng, name, out * d), 3: any_bits(rng, name, out * blocks * v),
                   4: any_bits(rng, "float32", out * blocks), 5: any_bits(rng, "float32", out * blocks),
                   **key_arguments(rng, name, 7, batch, kv_heads, n, d, v)}
        if not group:
            buffers |= mask_arguments(rng, name, 13, batch * heads, rows, n)
        simdgroups = threads or queries
        return Case((32 * kv_heads, simdgroups * batch, rows * blocks), (32, simdgroups, rows), buffers,
                    {3: name, 4: "float32", 5: "float32"}, constants=flags, shape=f"{batch}x{heads}x{rows}x{n}")
    return case


def second_pass_case(name, d):
    def case(rng):
        heads, rows, blocks = int(rng.integers(1, 4)), int(rng.integers(1, 3)), 32 * int(rng.integers(1, 3))
        out = heads * rows
        sums = np.abs(normal(rng, "float32", out * blocks)) + np.float32(0.5)
        return Case((1024 * heads, rows, 1), (1024, 1, 1),
                    {0: normal(rng, name, out * blocks * d), 1: sums, 2: normal(rng, "float32", out * blocks),
                     3: any_bits(rng, name, out * d), 4: i32(blocks)}, {3: name}, shape=f"{heads}x{rows}x{blocks}")
    return case


NAMES = {"float32": "float", "float16": "float16_t", "bfloat16": "bfloat16_t"}


@family("sdpa_vector", "utils.h", "sdpa_vector.h", why=WHY)
def sdpa_vector():
    for name, word in NAMES.items():
        kind = TYPES[name][0]
        for d, v in ((64, 64), (96, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256), (512, 512)):
            yield Kernel(f"sdpa_vector_{word}_{d}_{v}", f"sdpa_vector<{kind}, {d}, {v}>", vector_case(name, d, v), 4,
                         2.0 ** -20)
            yield Kernel(f"sdpa_vector_2pass_1_{word}_{d}_{v}", f"sdpa_vector_2pass_1<{kind}, {d}, {v}>",
                         first_pass_case(name, d, v), 4, 2.0 ** -20)
        for d in (64, 96, 128, 192, 256, 512):
            yield Kernel(f"sdpa_vector_2pass_2_{word}_{d}", f"sdpa_vector_2pass_2<{kind}, {d}>",
                         second_pass_case(name, d), 4, 2.0 ** -20)
        for group, d, heads in ((8, 64, 8), (8, 128, 4), (12, 128, 4), (16, 128, 2)):
            yield Kernel(f"sdpa_vector_2pass_1_gqa_{group}_{word}_{d}_{d}",
                         f"sdpa_vector_2pass_1_gqa<{kind}, {d}, {d}, {group}, {heads}>",
                         first_pass_case(name, d, d, group, group), 4, 2.0 ** -20)
