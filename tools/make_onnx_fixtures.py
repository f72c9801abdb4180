#!/usr/bin/env python3
"""Exports a fixture to ONNX by both of PyTorch's exporters, as tests/data/onnx/{torchscript,dynamo}.

The first turns most matrices round and takes their names, the second keeps both. The one of torchscript has its
weights in a file of their own.

Needs: torch==2.15.0 transformers==5.24.0 onnx==1.23.2 onnxscript==0.7.2 (versions are printed)
Usage: tools/make_onnx_fixtures.py tests/data/fixtures/llama-bias-linear tests/data/onnx
"""
import importlib.metadata
import pathlib
import shutil
import sys

import onnx
import torch
import transformers

source, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
for package in ("torch", "transformers", "onnx", "onnxscript"):
    print(package, importlib.metadata.version(package))


class Logits(torch.nn.Module):
    """The forward pass of a whole prompt; names as the model's own."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head

    def forward(self, ids):
        return self.lm_head(self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state)


model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
ids = torch.arange(3, 19).unsqueeze(0)
for name, dynamo in (("torchscript", False), ("dynamo", True)):
    folder = target / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.onnx.export(Logits(model).eval(), (ids,), str(folder / "whole.onnx"), input_names=["ids"], output_names=["logits"],
                      dynamo=dynamo)
    whole = onnx.load(folder / "whole.onnx")
    for file in folder.iterdir():
        file.unlink()
    onnx.save(whole, folder / "model.onnx", save_as_external_data=not dynamo, location="weights.bin", size_threshold=1024)
    onnx.checker.check_model(str(folder / "model.onnx"))
    shutil.copy(source / "config.json", folder)
    for initializer in whole.graph.initializer:
        print(name, initializer.name, list(initializer.dims), onnx.TensorProto.DataType.Name(initializer.data_type))
