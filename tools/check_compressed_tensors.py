#!/usr/bin/env python3
"""Reads folders that metal-marlin wrote in compressed-tensors form with the
compressed-tensors package and saves what it decompresses.

Needs: compressed-tensors==0.20.0 torch==2.11.0 transformers==5.17.0 safetensors==0.8.0
Usage: check_compressed_tensors.py OUT.safetensors FOLDER...
The folders are made of tests/data/fixtures/llama-tiny by
  metal-marlin quantize llama-tiny -o int4    --format s4 --group 128 --scale-type bf16 --embedding-format keep
  metal-marlin quantize llama-tiny -o int4g32 --format s4 --embedding-format keep
  metal-marlin quantize llama-tiny -o int8    --format int8 --group 64 --embedding-format keep
  metal-marlin quantize llama-tiny -o u4      --format u4 --zero int --embedding-format keep
  metal-marlin quantize llama-tiny -o fp8     --format fp8-e4m3 --group row --scale-type f32 --embedding-format keep
  metal-marlin quantize llama-tiny -o nvfp4   --format nvfp4 --embedding-format keep
OUT holds FOLDER/MODULE in f32 for two modules of each, scales widened to f32
first so that products are not rounded to a narrow type.
"""
import json
import pathlib
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file, save_file

MODULES = ["model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"]


def main():
    out = {}
    for folder in map(pathlib.Path, sys.argv[2:]):
        config = json.loads((folder / "config.json").read_text())["quantization_config"]
        parsed = QuantizationConfig.model_validate(config)
        scheme = parsed.config_groups["group_0"]
        compressor = BaseCompressor.get_value_from_registry(parsed.format)
        tensors = {}
        for shard in folder.glob("*.safetensors"):
            tensors.update(load_file(shard))
        for module in MODULES:
            state = {k[len(module) + 1:]: v for k, v in tensors.items() if k.startswith(module + ".")}
            if state["weight_scale"].dtype in (torch.float16, torch.bfloat16):
                state["weight_scale"] = state["weight_scale"].float()
            weight = compressor.decompress(state, scheme)["weight"]
            out[f"{folder.name}/{module}"] = weight.float().contiguous()
            print(folder.name, module, tuple(weight.shape), weight.dtype, float(weight.float().abs().mean()))
        try:
            from transformers import AutoModelForCausalLM, CompressedTensorsConfig
            model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=CompressedTensorsConfig(run_compressed=False))
            print(folder.name, "transformers loads it:", model(torch.tensor([[1, 2, 3]])).logits.shape)
        except Exception as error:  # reported, not fatal: the vectors do not depend on it
            print(folder.name, "transformers:", type(error).__name__, str(error)[:300])
    save_file(out, sys.argv[1])


if __name__ == "__main__":
    main()
