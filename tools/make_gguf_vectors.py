#!/usr/bin/env python3
"""Writes tests/data/gguf_blocks.gguf, its big-endian twin and .safetensors: random blocks of every
GGUF type that we read, and their values by the gguf package.

Needs: numpy==2.4.6 gguf==0.19.0 safetensors==0.8.0
"""
import pathlib
import sys

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
# Offsets of f16 scales in a block, which must be finite.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}
ROWS, COLS = 6, 512

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data")
rng = np.random.default_rng(7)
# The same file as machines of the other byte order have it; they keep the fifth bits of Q5_0 and Q5_1 in an order that
# files do not say.
big = gguf.GGUFWriter(folder / "gguf_blocks_big_endian.gguf", "test", endianess=gguf.GGUFEndian.BIG)
writer = gguf.GGUFWriter(folder / "gguf_blocks.gguf", "test")
values = {}
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (ROWS, COLS // block, size), dtype=np.uint8)
    for offset in HALVES[name]:
        scales = (rng.standard_normal((ROWS, COLS // block)) * 0.1).astype(np.float16)
        raw[:, :, offset:offset + 2] = scales[..., None].view(np.uint8)
    if name == "MXFP4":
        raw[:, :, 0] = rng.integers(100, 140, (ROWS, COLS // block))
        raw[0, :4, 0] = [0, 1, 2, 253]
    raw = raw.reshape(ROWS, -1)
    writer.add_tensor(name, raw, raw_dtype=kind)
    if not name.startswith("Q5_") or name == "Q5_K":
        turned = raw.reshape(-1, size).copy()
        for offset in HALVES[name] + ([2] if name == "IQ4_XS" else []):
            turned[:, [offset, offset + 1]] = turned[:, [offset + 1, offset]]
        big.add_tensor(name, turned.reshape(raw.shape), raw_dtype=kind)
    values[name] = dequantize(raw, kind).astype(np.float32).reshape(ROWS, COLS)
for name, dtype in (("F32", np.float32), ("F16", np.float16)):
    data = rng.standard_normal((ROWS, COLS)).astype(dtype)
    writer.add_tensor(name, data)
    big.add_tensor(name, data.copy())  # turned by the writer
    values[name] = data.astype(np.float32)
for file in (writer, big):
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
save_file(values, folder / "gguf_blocks.safetensors")
