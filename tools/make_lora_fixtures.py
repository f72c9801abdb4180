#!/usr/bin/env python3
"""Makes small random LoRA adapters with golden logits from PEFT, for the models of make_model_fixtures.py.

Needs: torch==2.15.0 transformers==5.24.0 peft==0.18.1 safetensors==0.8.0
Usage: make_lora_fixtures.py MODELS FOLDER [NAME...]
Each folder holds adapter_config.json, adapter_model.safetensors and golden.safetensors: logits [96, vocab] f32 of the
model with the adapter on the model's own input_ids, and merged.NAME f32, the first weights that merge_and_unload() changes.
"""
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FEED_FORWARD = ["gate_proj", "up_proj", "down_proj"]
TOGETHER = ["qkv_proj", "gate_up_proj"]

# name: model, type of the adapter's elements, LoraConfig
ADAPTERS = {
    # Everything that is linear, the head too, odd sizes, biases beside it, a tied embedding.
    "llama-bias-linear-all": ("llama-bias-linear", torch.float32, dict(r=6, lora_alpha=12, target_modules=ATTENTION + FEED_FORWARD + ["lm_head"])),
    # Ranks and alphas by pattern, scaled by the root, in bf16, one layer of some modules.
    "llama-tiny-patterns": ("llama-tiny", torch.bfloat16, dict(
        r=4, lora_alpha=16, use_rslora=True, target_modules=ATTENTION + ["down_proj"], rank_pattern={"q_proj": 7, "layers.1.self_attn.v_proj": 40},
        alpha_pattern={"o_proj": 3}, layers_to_transform=[1])),
    # Named by a pattern, in f16.
    "qwen3-tiny-regex": ("qwen3-tiny", torch.float16, dict(r=8, lora_alpha=8, target_modules=r".*\.(q_proj|gate_proj|up_proj)")),
    "qwen3-tiny-embedding": ("qwen3-tiny", torch.float32, dict(r=5, lora_alpha=10, target_modules=["embed_tokens", "v_proj", "up_proj"])),
    # Attention and router beside experts.
    "qwen3-moe-attention": ("qwen3-moe", torch.float32, dict(r=4, lora_alpha=4, target_modules=ATTENTION)),
    # Low-rank queries and latents.
    "glm4-latent": ("glm4-moe-lite-tiny", torch.float32, dict(r=4, lora_alpha=8, target_modules=["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj"])),
    # A scaled embedding, and GELU between what is adapted.
    "gemma3-embedding": ("gemma3", torch.float32, dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "v_proj", "gate_proj", "down_proj"])),
    # Projections that are stored as one matrix.
    "phi3-together": ("phi3", torch.float32, dict(r=6, lora_alpha=9, target_modules=["qkv_proj", "gate_up_proj", "o_proj"])),
    # Sums and logits that are scaled, a tied head.
    "granite-head": ("granite", torch.float32, dict(r=3, lora_alpha=6, target_modules=["o_proj", "down_proj", "lm_head"])),
    # Beside a layer for the next tokens, which has none.
    "glm4-mtp-attention": ("glm4-mtp", torch.float32, dict(r=4, lora_alpha=8, target_modules=["q_b_proj", "o_proj", "lm_head"])),
    # Two embeddings, of which one is each layer's.
    "gemma4-embeddings": ("gemma4", torch.float32, dict(r=3, lora_alpha=6, target_modules=["embed_tokens_per_layer", "per_layer_input_gate", "q_proj", "down_proj"])),
}

models = pathlib.Path(sys.argv[1])
for index, (name, (base, dtype, config)) in enumerate(ADAPTERS.items()):
    if len(sys.argv) > 3 and name not in sys.argv[3:]:
        continue
    folder = pathlib.Path(sys.argv[2]) / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(500 + index)

    def load():
        return AutoModelForCausalLM.from_pretrained(models / base, dtype=torch.float32, attn_implementation="eager").eval()

    adapted = get_peft_model(load(), LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=base, **config))
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_" in parameter_name:
                parameter.normal_(0, 0.08)
                parameter.copy_(parameter.to(dtype))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    tensors = {key: value.to(dtype) for key, value in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace(f'"{models / base}"', f'"{base}"'))
    adapted = PeftModel.from_pretrained(load(), folder).eval()
    ids = load_file(models / base / "golden.safetensors")["input_ids"][None]
    with torch.no_grad():
        logits = adapted(ids).logits[0].contiguous()
        weights = {key: value.clone() for key, value in load().state_dict().items()}
        merged = adapted.merge_and_unload().state_dict()
    changed = [key for key, value in weights.items() if (merged[key] != value).any()]
    print(name, len(changed), "weights changed")
    golden = {"merged." + key: merged[key].contiguous().clone() for key in changed if key.split(".")[-2] not in TOGETHER}
    golden = dict(list(golden.items())[:2])
    save_file({"logits": logits, **golden}, folder / "golden.safetensors")
