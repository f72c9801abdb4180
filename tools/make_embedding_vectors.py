#!/usr/bin/env python3
"""Vectors of the tiny models, from the last hidden states of Hugging Face transformers.

Needs: torch==2.15.0 transformers==5.24.0 safetensors==0.8.0
Usage: make_embedding_vectors.py FIXTURES [NAME...]
Writes FIXTURES/NAME/embeddings.safetensors. Of the inputs, which are beginnings and pieces of golden.safetensors'
input_ids by `begins` and `ends` [n] i64: `mean`, `last` and `cls` [n, hidden] f32, as sentence-transformers' Pooling has
them, and `mean_normalized` of each, and `last_8_normalized`, the first 8 elements at length 1. The weights are run in f32
with eager attention.
"""
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

PIECES = [(0, 1), (0, 5), (3, 20), (10, 74), (0, 96), (95, 96), (40, 57)]

root = pathlib.Path(sys.argv[1])
for folder in sorted(root.iterdir()):
    if len(sys.argv) > 2 and folder.name not in sys.argv[2:]:
        continue
    ids = load_file(folder / "golden.safetensors")["input_ids"]
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        states = [model(ids[None, begin:end]).last_hidden_state[0] for begin, end in PIECES]
    mean = torch.stack([each.mean(0) for each in states])
    last = torch.stack([each[-1] for each in states])
    normalize = torch.nn.functional.normalize
    save_file({"begins": torch.tensor([begin for begin, _ in PIECES]), "ends": torch.tensor([end for _, end in PIECES]),
               "mean": mean, "last": last, "cls": torch.stack([each[0] for each in states]),
               "mean_normalized": normalize(mean), "last_8_normalized": normalize(last[:, :8])},
              folder / "embeddings.safetensors")
    print(folder.name, tuple(mean.shape))
