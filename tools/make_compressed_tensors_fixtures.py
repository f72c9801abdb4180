#!/usr/bin/env python3
"""Quantizes a fixture with the compressed-tensors package, as tests/data/compressed_tensors/SCHEME, with the logits
that transformers gives for the weights decompressed again.

Needs: torch==2.15.0 transformers==5.24.0 compressed-tensors==0.20.0 safetensors==0.8.0 (versions are printed)
Usage: tools/make_compressed_tensors_fixtures.py tests/data/fixtures/qwen3-window tests/data/compressed_tensors
"""
import importlib.metadata
import pathlib
import shutil
import sys

import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig, QuantizationScheme, QuantizationStatus,
                                             apply_quantization_config)
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file

source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
for package in ("torch", "transformers", "compressed-tensors", "safetensors"):
    print(package, importlib.metadata.version(package))

SCHEMES = {
    "int4": ("pack-quantized", dict(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)),
    "int4-asymmetric": ("pack-quantized", dict(num_bits=4, type="int", symmetric=False, strategy="group", group_size=32)),
    "int8": ("pack-quantized", dict(num_bits=8, type="int", symmetric=True, strategy="channel")),
    "fp8": ("float-quantized", dict(num_bits=8, type="float", symmetric=True, strategy="channel")),
    "nvfp4": ("nvfp4-pack-quantized", dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16,
                                           scale_dtype=torch.float8_e4m3fn)),
}


def calibrate(module):
    """Scales by the least and largest weights of each group."""
    args = module.quantization_scheme.weights
    weight = module.weight.data
    size = args.group_size or weight.shape[1]
    parts = weight.unflatten(1, (-1, size))
    least, largest = parts.amin(-1), parts.amax(-1)
    gparam = None
    if args.strategy == "tensor_group":
        gparam = generate_gparam(weight.min(), weight.max())
        module.weight_global_scale.data.copy_(gparam)
    scale, zero = calculate_qparams(least, largest, args, global_scale=gparam)
    module.weight_scale.data.copy_(scale.view_as(module.weight_scale))
    if hasattr(module, "weight_zero_point"):
        module.weight_zero_point.data.copy_(zero.view_as(module.weight_zero_point))


ids = torch.tensor([[5, 17, 200, 3, 99, 42, 8, 150, 77, 31]])
for name, (form, args) in SCHEMES.items():
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args), format=form)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"], format=form))
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            calibrate(module)
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    folder = target / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tied = model.config.tie_word_embeddings
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "config.json", folder)
    compressor.update_config(folder)
    compressor.decompress_model(model)
    for module in model.modules():
        module.quantization_enabled = False
    with torch.no_grad():
        logits = model.float()(ids).logits[0, -1].float()
    save_file({"logits": logits, "input_ids": ids[0]}, folder / "golden.safetensors")
    print(name, {k: (tuple(v.shape), v.dtype) for k, v in state.items() if "layers.0.mlp.up_proj" in k})
