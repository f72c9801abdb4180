#!/usr/bin/env python3
"""Makes tiny models whose files call things otherwise than usual, with the logits of Hugging Face transformers.

Needs: torch==2.15.0 transformers==5.24.0 safetensors==0.8.0
Usage: make_named_models.py FOLDER [NAME...]
Each folder holds m (config.json, model.safetensors in bf16), ids.json, and expected.safetensors: logits [12, vocab] f32,
of the bf16 weights run in f32 with eager attention after transformers loaded m.
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config,
                          MiniMaxM2Config, MiniMaxM2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
             max_position_embeddings=256, initializer_range=0.15, bos_token_id=1, eos_token_id=2, pad_token_id=0)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def llama(**fields):
    return LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, **fields))


def qwen3(**fields):
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, num_key_value_heads=2, **fields))


def qwen3_moe(**fields):
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SMALL, num_key_value_heads=2, moe_intermediate_size=24, **fields))


def glm4(**fields):
    small = {key: value for key, value in SMALL.items() if key != "head_dim"}
    return Glm4MoeLiteForCausalLM(Glm4MoeLiteConfig(
        **small, num_key_value_heads=4, moe_intermediate_size=24, n_routed_experts=6, q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=12,
        qk_rope_head_dim=8, v_head_dim=16, mlp_layer_types=["dense", "sparse"], **fields))


def minimax(**fields):
    return MiniMaxM2ForCausalLM(MiniMaxM2Config(**SMALL, num_key_value_heads=2, **fields))


def another_head(weights):
    weights[HEAD] = torch.randn_like(weights[EMBEDDING])


def same_head(weights):
    weights[HEAD] = weights[EMBEDDING].clone()


def only_head(weights):
    weights[HEAD] = weights.pop(EMBEDDING)


def without_model(weights):
    for name in [name for name in weights if name.startswith("model.")]:
        weights[name.removeprefix("model.")] = weights.pop(name)


def model_twice(weights):
    for name in list(weights):
        weights["model." + name] = weights.pop(name)


LEFT_OUT = object()
# The model, whether its experts are stored together, what becomes of its weights, and of fields of its configuration.
MODELS = {
    "experts-together-qwen3": (lambda: qwen3_moe(num_experts=5, num_experts_per_tok=2), True, None, {}),
    "experts-together-glm4": (lambda: glm4(num_experts_per_tok=2), True, None, {}),
    "experts-per-token-left-out": (lambda: qwen3_moe(num_experts=10, mlp_only_layers=[1]), False, None, {"num_experts_per_tok": LEFT_OUT}),
    "experts-per-token-left-out-glm4": (glm4, False, None, {"num_experts_per_tok": LEFT_OUT}),
    "names-without-model": (llama, False, without_model, {}),
    "names-with-model-twice": (qwen3, False, model_twice, {}),
    "tied-another-head": (lambda: qwen3(tie_word_embeddings=True), False, another_head, {}),
    "tied-same-head": (lambda: llama(tie_word_embeddings=True), False, same_head, {}),
    "tied-only-head": (lambda: llama(tie_word_embeddings=True), False, only_head, {}),
    "fields-that-do-not-count-glm4": (lambda: glm4(num_experts_per_tok=2), False, None, {
        "topk_method": "greedy", "scoring_func": "softmax", "qk_head_dim": 99, "qk_rope_head_dim": 4, "head_dim": 8,
        "n_routed_experts": 4, "num_local_experts": 6}),
    "no-shared-experts-glm4": (lambda: glm4(num_experts_per_tok=2, n_shared_experts=0), False, None, {}),
    "experts-together-minimax": (lambda: minimax(num_local_experts=4, num_experts_per_tok=2), True, None, {}),
}


def randomize(model):
    """What is all ones or zeros after construction would hide mistakes."""
    for name, value in list(model.named_parameters()) + list(model.named_buffers()):
        if "norm" in name:
            value.normal_(1, 0.2)
        elif name.endswith("mlp.gate.weight"):
            value.normal_(0, 0.3)
        elif name.endswith("e_score_correction_bias"):
            value.uniform_(0.1, 0.4)


def make(name, folder):
    build, together, change, fields = MODELS[name]
    torch.manual_seed(200 + list(MODELS).index(name))
    model = build()
    with torch.no_grad():
        randomize(model)
    path = folder / name / "m"
    model.to(torch.bfloat16).save_pretrained(path, save_original_format=not together)
    (path / "generation_config.json").unlink(missing_ok=True)
    weights = load_file(path / "model.safetensors")
    if change:
        change(weights)
    assert together == any(weight.endswith("mlp.experts.gate_up_proj") for weight in weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    config = {key: value for key, value in {**config, **fields}.items() if value is not LEFT_OUT}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ids = torch.randint(3, config["vocab_size"], (12,))
    (folder / name / "ids.json").write_text(json.dumps(ids.tolist()) + "\n")
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        save_file({"logits": loaded(ids[None]).logits[0].contiguous()}, folder / name / "expected.safetensors")
    print(name, sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()), "bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*", help="all, if none is given")
    arguments = parser.parse_args()
    for name in arguments.names or MODELS:
        make(name, arguments.folder)


if __name__ == "__main__":
    main()
