#!/usr/bin/env python3
"""Writes tests/data/formats.safetensors: element tables and encodings from ml_dtypes.

Needs: numpy==2.4.6 ml_dtypes==0.6.0 safetensors==0.8.0
For each type the file holds <type>.decode, the value of every code as f32, and
<type>.encode, the code of every f16 bit pattern, after saturation to the
type's largest finite value (which ml_dtypes leaves to the caller).
"""
import pathlib
import sys

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

TYPES = {
    "fp4": (ml_dtypes.float4_e2m1fn, 16, 6.0),
    "fp8-e4m3": (ml_dtypes.float8_e4m3fn, 256, 448.0),
    "fp8-e5m2": (ml_dtypes.float8_e5m2, 256, 57344.0),
}

out = {}
halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
for name, (dtype, codes, largest) in TYPES.items():
    out[f"{name}.decode"] = np.arange(codes, dtype=np.uint8).view(dtype).astype(np.float32)
    clipped = np.where(np.isnan(halves), halves, np.clip(halves, -largest, largest))
    with np.errstate(invalid="ignore"):
        out[f"{name}.encode"] = clipped.astype(dtype).view(np.uint8)
out["e8m0.decode"] = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
rng = np.random.default_rng(1)
bits = np.concatenate([rng.integers(0, 1 << 32, 20000, dtype=np.uint64).astype(np.uint32),
                       (np.arange(65536, dtype=np.uint32) << 16) + 0x8000,
                       np.arange(0x33000000 - 50, 0x33000000 + 50, dtype=np.uint32)])
values = bits.view(np.float32)
with np.errstate(over="ignore", invalid="ignore"):
    out["f32.bits"] = bits
    out["f32.as_f16"] = values.astype(np.float16).view(np.uint16)
    out["f32.as_bf16"] = values.astype(ml_dtypes.bfloat16).view(np.uint16)
target = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/formats.safetensors")
save_file(out, target)
