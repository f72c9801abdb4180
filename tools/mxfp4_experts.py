"""Makes a folder of gpt-oss, as transformers writes it, one whose experts are in MXFP4, as the model is published."""
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file

LEVELS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
LEFT_ALONE = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def packed(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of [..., inputs]: codes of 4 bits, the first of two in the low ones, and a scale for each block of 32 inputs."""
    levels = torch.cat([LEVELS, -LEVELS])
    blocks = matrix.reshape(*matrix.shape[:-1], -1, 32)
    exponents = torch.floor(torch.log2(blocks.abs().amax(-1, keepdim=True) / 6)) + 1
    codes = (blocks / 2 ** exponents)[..., None].sub(levels).abs().argmin(-1).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponents[..., 0] + 127).to(torch.uint8)


def to_mxfp4(folder: pathlib.Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        blocks, scales = packed(tensors.pop(name).float().transpose(1, 2))  # which are inputs by outputs
        tensors |= {name + "_blocks": blocks, name + "_scales": scales}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": LEFT_ALONE}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
