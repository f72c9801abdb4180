#!/usr/bin/env python3
"""Small folders in the layouts of other programs, each of one or two modules, with what their weights are.

Written from what the programs document, not by them: tests/data/stored/KIND holds config.json and model.safetensors,
KIND.safetensors the weights in f32 as those programs compute them. The same seed gives the same bytes.

Needs: numpy==2.4.6
Usage: tools/make_stored_weight_vectors.py tests/data/stored
"""
import json
import pathlib
import struct
import sys

import numpy as np

target = pathlib.Path(sys.argv[1])
random = np.random.default_rng(20)
TYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "int8": "I8", "uint32": "U32", "int32": "I32", "int64": "I64"}


def save(path, tensors):
    """tensors: name to array, or to (dtype name, array of its bytes)."""
    header, data = {}, b""
    for name, value in sorted(tensors.items()):
        dtype, array = value if isinstance(value, tuple) else (TYPES[value.dtype.name], value)
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def folder(kind, config, tensors, weights):
    path = target / kind
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save(path / "model.safetensors", tensors)
    save(target / (kind + ".safetensors"), {k: np.asarray(v, np.float32) for k, v in weights.items()})


def stream(codes, bits, words=np.uint32):
    """Rows of codes as little-endian streams of bits, in whole words."""
    rows, cols = codes.shape
    flat = ((codes[:, :, None] >> np.arange(bits)) & 1).reshape(rows, cols * bits).astype(np.uint8)
    size = np.dtype(words).itemsize * 8
    flat = np.pad(flat, ((0, 0), (0, -flat.shape[1] % size)))
    return np.packbits(flat, axis=1, bitorder="little").view(words)


def scales(rows, groups, dtype=np.float16):
    return random.uniform(0.01, 0.05, (rows, groups)).astype(dtype)


def spread(values, group):
    return np.repeat(np.asarray(values, np.float32), group, axis=1)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def e4m3(codes):
    codes = codes.astype(np.int64)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    value = np.where(exponent == 0, mantissa / 8 * 2.0 ** -6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    return np.where(codes & 128, -value, value).astype(np.float32)


def random_e4m3(shape):
    codes = random.integers(0, 256, shape).astype(np.uint8)
    return np.where(codes & 127 == 127, codes ^ 1, codes)  # no NaN


def e8m0(exponents):
    return (2.0 ** (exponents.astype(np.float64) - 127)).astype(np.float32)


def bf16(values):
    """Rounded down to bfloat16: the bits and the values."""
    bits = (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def mlx():
    for bits in (2, 3, 4, 5, 6, 8):
        rows, cols, group = 8, 256, 64 if bits != 4 else 128
        codes = random.integers(0, 2 ** bits, (rows, cols))
        s, b = scales(rows, cols // group), -scales(rows, cols // group) * np.float16(2)
        folder("mlx-affine-%d" % bits, {"quantization": {"group_size": group, "bits": bits}},
               {"a.weight": stream(codes, bits), "a.scales": s, "a.biases": b},
               {"a.weight": codes * spread(s, group) + spread(b, group)})
    # A module with its own settings, one that is left alone, scales in bf16, stacked experts.
    rows, cols = 8, 128
    four, eight = random.integers(0, 16, (3, rows, cols)), random.integers(0, 256, (rows, cols))
    s4, b4 = scales(3 * rows, 4), scales(3 * rows, 4)
    s8, values8 = bf16(random.uniform(0.01, 0.05, (rows, 1)))
    c8, bias8 = bf16(random.uniform(-1, 1, (rows, 1)))
    dense = random.standard_normal((4, 8)).astype(np.float32)
    settings = {"group_size": 32, "bits": 4, "mode": "affine", "b": {"group_size": 128, "bits": 8}, "c": False}
    weights = {"m.experts.%d.up_proj.weight" % e: four[e] * spread(s4[e * rows:(e + 1) * rows], 32)
               + spread(b4[e * rows:(e + 1) * rows], 32) for e in range(3)}
    folder("mlx-mixed", {"quantization": settings, "quantization_config": settings},
           {"m.switch_mlp.up_proj.weight": np.stack([stream(x, 4) for x in four]),
            "m.switch_mlp.up_proj.scales": s4.reshape(3, rows, 4), "m.switch_mlp.up_proj.biases": b4.reshape(3, rows, 4),
            "b.weight": stream(eight, 8), "b.scales": ("BF16", s8), "b.biases": ("BF16", c8), "c.weight": dense},
           {**weights, "b.weight": eight * spread(values8, 128) + spread(bias8, 128), "c.weight": dense})
    codes, exponents = random.integers(0, 16, (8, 128)), random.integers(117, 125, (8, 4)).astype(np.uint8)
    folder("mlx-mxfp4", {"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}},
           {"a.weight": stream(codes, 4), "a.scales": exponents}, {"a.weight": E2M1[codes] * spread(e8m0(exponents), 32)})
    small = random.integers(20, 80, (8, 8)).astype(np.uint8)
    folder("mlx-nvfp4", {"quantization": {"group_size": 16, "bits": 4, "mode": "nvfp4"}},
           {"a.weight": stream(codes, 4), "a.scales": small}, {"a.weight": E2M1[codes] * spread(e4m3(small), 16)})
    floats = random_e4m3((8, 128))
    folder("mlx-mxfp8", {"quantization": {"group_size": 32, "bits": 8, "mode": "mxfp8"}},
           {"a.weight": floats.view(np.uint32), "a.scales": exponents},
           {"a.weight": e4m3(floats) * spread(e8m0(exponents), 32)})


NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
                1.0], np.float32)
FP4 = np.array([0, 0.0052083333, 0.66666667, 1, 0.33333333, 0.5, 0.16666667, 0.25, 0, -0.0052083333, -0.66666667, -1,
                -0.33333333, -0.5, -0.16666667, -0.25], np.float32)


def bitsandbytes():
    def state(kind, shape, **more):
        text = json.dumps({"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": list(shape), **more})
        return np.frombuffer(text.encode(), np.uint8)

    for kind, table, shape, nested in (("nf4", NF4, (8, 128), False), ("nf4", NF4, (8, 128), True),
                                       ("fp4", FP4, (8, 128), False), ("nf4", NF4, (6, 96), False)):
        codes = random.integers(0, 16, shape[0] * shape[1])
        blocks = codes.size // 64
        tensors = {"a.weight": ((codes[0::2] << 4) | codes[1::2]).astype(np.uint8)[:, None], "a.weight.quant_map": table}
        more = {}
        if nested:
            levels = np.sort(random.uniform(-1, 1, 256)).astype(np.float32)
            index, top = random.integers(0, 256, blocks).astype(np.uint8), np.array([0.5], np.float32)
            absmax = levels[index] * top[0] + np.float32(0.75)
            tensors |= {"a.weight.absmax": index, "a.weight.nested_quant_map": levels, "a.weight.nested_absmax": top}
            more = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.75}
        else:
            absmax = random.uniform(0.5, 2, blocks).astype(np.float32)
            tensors["a.weight.absmax"] = absmax
        tensors["a.weight.quant_state.bitsandbytes__" + kind] = state(kind, shape, **more)
        weight = (table[codes] * np.repeat(absmax, 64)).reshape(shape)
        name = "bnb-" + kind + ("-nested" if nested else "") + ("" if shape[1] % 64 == 0 else "-across-rows")
        folder(name, {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True,
                                              "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested}},
               tensors, {"a.weight": weight})
    codes, top = random.integers(-127, 128, (8, 48)).astype(np.int8), random.uniform(0.5, 2, 8).astype(np.float32)
    folder("bnb-int8", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
           {"a.weight": codes, "a.SCB": top, "a.weight_format": np.zeros((), np.uint8)},
           {"a.weight": codes * (top / np.float32(127))[:, None]})


def fp8():
    rows, cols = 40, 96
    codes = random_e4m3((rows, cols))
    block = scales(3, 3, np.float32)
    full = np.repeat(np.repeat(block, 16, 0), 32, 1)[:rows, :cols]
    folder("fp8-blocks", {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic",
                                                  "weight_block_size": [16, 32], "modules_to_not_convert": ["b"]}},
           {"a.weight": ("F8_E4M3", codes), "a.weight_scale_inv": block, "b.weight": codes[:2, :2].astype(np.float32)},
           {"a.weight": e4m3(codes) * full, "b.weight": codes[:2, :2]})
    exponents = random.integers(117, 125, (3, 3)).astype(np.uint8)
    folder("fp8-blocks-ue8m0", {"quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 32],
                                                        "scale_fmt": "ue8m0"}},
           {"a.weight": ("F8_E4M3", codes), "a.weight_scale_inv": ("F8_E8M0", exponents)},
           {"a.weight": e4m3(codes) * np.repeat(np.repeat(e8m0(exponents), 16, 0), 32, 1)[:rows, :cols]})
    one = np.array([0.03125], np.float32)
    folder("fp8-tensor", {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static",
                                                  "weight_block_size": None}},
           {"a.weight": ("F8_E4M3", codes), "a.weight_scale": one, "a.input_scale": one}, {"a.weight": e4m3(codes) * one})
    compressed("fp8-blocks", "float-quantized",
               dict(num_bits=8, type="float", strategy="block", block_structure=[16, 32], symmetric=True),
               {"a.weight": ("F8_E4M3", codes), "a.weight_scale": block}, e4m3(codes) * full)


def compressed(kind, form, weights, tensors, weight, **more):
    config = {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"], **more,
              "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}}
    folder("ct-" + kind, {"quantization_config": config}, tensors, {"a.weight": weight})


def packed_integers(bits, symmetric):
    rows, cols = 24, 128
    codes, zeros = random.integers(0, 2 ** bits, (rows, cols)), random.integers(0, 2 ** bits, (rows, 4))
    s = scales(rows, 4)
    tensors = {"a.weight_packed": stream(codes, bits).view(np.int32), "a.weight_scale": s, "a.weight_shape": np.array([rows, cols], np.int64)}
    if symmetric:
        zeros[:] = 2 ** (bits - 1)
    else:
        tensors["a.weight_zero_point"] = np.ascontiguousarray(stream(zeros.T, bits).view(np.int32).T)
    compressed("int%d-packed%s" % (bits, "" if symmetric else "-asymmetric"), "pack-quantized",
               dict(num_bits=bits, type="int", strategy="group", group_size=32, symmetric=symmetric), tensors,
               (codes - np.repeat(zeros, 32, 1)) * spread(s, 32))


def compressed_tensors():
    rows, cols = 24, 128
    codes = random.integers(-128, 128, (rows, cols)).astype(np.int8)
    s = scales(rows, 1)
    compressed("int8", "int-quantized", dict(num_bits=8, type="int", strategy="channel", symmetric=True),
               {"a.weight": codes, "a.weight_scale": s}, codes * spread(s, cols))
    zeros, s = random.integers(-20, 20, (rows, 4)).astype(np.int8), scales(rows, 4)
    compressed("int8-asymmetric", "int-quantized",
               dict(num_bits=8, type="int", strategy="group", group_size=32, symmetric=False),
               {"a.weight": codes, "a.weight_scale": s, "a.weight_zero_point": zeros},
               (codes - np.repeat(zeros.astype(np.float32), 32, 1)) * spread(s, 32))
    compressed("int8-tensor", "int-quantized", dict(num_bits=8, type="int", strategy="tensor", symmetric=True),
               {"a.weight": codes, "a.weight_scale": s[:1, 0]}, codes * np.float32(s[0, 0]))
    for bits in (2, 3, 6, 8):
        packed_integers(bits, False)
    codes, s = random.integers(0, 16, (rows, 512)), scales(rows, 2)
    compressed("groups-of-256", "pack-quantized",
               dict(num_bits=4, type="int", strategy="group", group_size=256, symmetric=True),
               {"a.weight_packed": stream(codes, 4).view(np.int32), "a.weight_scale": s,
                "a.weight_shape": np.array([rows, 512], np.int64)}, (codes - 8) * spread(s, 256))
    codes, exponents = random.integers(0, 16, (rows, cols)), random.integers(117, 125, (rows, 4)).astype(np.uint8)
    compressed("mxfp4", "mxfp4-pack-quantized", dict(num_bits=4, type="float", strategy="group", group_size=32),
               {"a.weight_packed": stream(codes, 4, np.uint8), "a.weight_scale": exponents},
               E2M1[codes] * spread(e8m0(exponents), 32))
    floats = random_e4m3((rows, cols))
    compressed("mxfp8", "mxfp8-quantized", dict(num_bits=8, type="float", strategy="group", group_size=32),
               {"a.weight": ("F8_E4M3", floats), "a.weight_scale": exponents},
               e4m3(floats) * spread(e8m0(exponents), 32))


def gptq(kind, config, modules):
    """modules: name to (bits, group, symmetric, zeros as stored)."""
    tensors, weights = {}, {}
    for name, (bits, group, symmetric, form) in modules.items():
        rows, cols = 32, 128
        codes, s = random.integers(0, 2 ** bits, (rows, cols)), scales(rows, cols // group)
        zeros = np.full(s.shape, 2 ** (bits - 1)) if symmetric else random.integers(0, 2 ** bits, s.shape)
        packed = stream(zeros.T, bits)
        if form == "gptq" and 32 % bits == 0:  # one is taken from all fields of a word together
            packed = packed - np.uint32(0xFFFFFFFF // (2 ** bits - 1))
        elif form == "gptq":
            packed = stream((zeros.T - 1) % 2 ** bits, bits)
        tensors |= {name + ".qweight": np.ascontiguousarray(stream(codes, bits).view(np.int32).T),
                    name + ".qzeros": packed.view(np.int32), name + ".scales": np.ascontiguousarray(s.T)}
        weights[name + ".weight"] = (codes - np.repeat(zeros, group, 1)) * spread(s, group)
    path = target / kind
    folder(kind, {} if config is None else {"quantization_config": config}, tensors, weights)
    return path


def gptqs():
    base = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    gptq("gptq-2-asymmetric", {**base, "bits": 2, "sym": False}, {"a": (2, 32, False, "gptq")})
    gptq("gptq-3", {**base, "bits": 3}, {"a": (3, 32, True, "gptq")})
    gptq("gptq-3-asymmetric", {**base, "bits": 3, "sym": False}, {"a": (3, 32, False, "gptq")})
    gptq("gptq-4-asymmetric", {**base, "sym": False}, {"a": (4, 32, False, "gptq")})
    gptq("gptq-8-asymmetric", {**base, "bits": 8, "sym": False, "checkpoint_format": "gptq_v2"},
         {"a": (8, 32, False, "gptq_v2")})
    gptq("gptq-v2-called-gptq", base, {"a": (4, 32, True, "gptq_v2")})
    # The first rule that matches counts.
    rules = {"+:.*\\.down": {"bits": 8, "group_size": 64}, "-:.*gate": {}, ".*down|.*up": {"bits": 2}}
    path = gptq("gptq-dynamic", {**base, "dynamic": rules}, {"m.down": (8, 64, True, "gptq"), "m.up": (2, 32, True, "gptq"),
                                                             "m.q": (4, 32, True, "gptq")})
    path = gptq("gptq-own-config", None, {"a": (4, 32, True, "gptq")})
    (path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "sym": True, "desc_act": False,
                                                           "model_file_base_name": "model"}) + "\n")


mlx()
bitsandbytes()
fp8()
compressed_tensors()
gptqs()
for width, is_symmetric in ((5, False), (5, True), (2, True), (3, True), (6, True)):
    packed_integers(width, is_symmetric)
