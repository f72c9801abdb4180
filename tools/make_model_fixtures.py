#!/usr/bin/env python3
"""Makes tiny random models with golden logits from Hugging Face transformers.

Needs: torch==2.11.0 transformers==5.17.0 safetensors==0.8.0
Usage: make_model_fixtures.py FOLDER [NAME...]
Each folder holds config.json, model.safetensors (bf16; one is sharded) and
golden.safetensors: input_ids [96] i64, logits [96, vocab] f32 of the bf16 weights
run in f32 with eager attention, greedy [48] i64, the greedy continuation.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM,
                          Qwen3MoeConfig, Qwen3MoeForCausalLM)

COMMON = dict(initializer_range=0.08, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0)

MODELS = {
    # Odd sizes, biases everywhere, a tied head, linear scaling, 5 query heads a key head.
    "llama-bias-linear": (LlamaForCausalLM, LlamaConfig(
        vocab_size=301, hidden_size=60, intermediate_size=100, num_hidden_layers=2, num_attention_heads=10, num_key_value_heads=2, head_dim=22,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, **COMMON)),
    "llama-yarn": (LlamaForCausalLM, LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=144, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, head_dim=32,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
                                            "beta_fast": 8.0, "beta_slow": 1.0}, **COMMON)),
    # Sliding window in the upper layers, an untied head, biases.
    "qwen3-window": (Qwen3ForCausalLM, Qwen3Config(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, head_dim=48,
        attention_bias=True, tie_word_embeddings=False, use_sliding_window=True, sliding_window=20, max_window_layers=2,
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON)),
    # The keys of transformers 4 and sharded weights.
    "llama-old-sharded": (LlamaForCausalLM, LlamaConfig(
        vocab_size=200, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64}, **COMMON)),
    # A dense layer among the sparse ones, experts of an odd width, weights that do not add up to 1.
    "qwen3-moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(
        vocab_size=288, hidden_size=72, intermediate_size=100, moe_intermediate_size=44, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, num_experts=11, num_experts_per_tok=3, norm_topk_prob=False, mlp_only_layers=[1],
        rms_norm_eps=1e-6, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **COMMON)),
    # Expert groups, two shared experts, full-rank queries with biases, odd sizes, rotation by halves, YaRN's temperature.
    "glm4-groups": (Glm4MoeLiteForCausalLM, Glm4MoeLiteConfig(
        vocab_size=272, hidden_size=68, intermediate_size=90, moe_intermediate_size=36, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=3, q_lora_rank=None, kv_lora_rank=52, qk_nope_head_dim=20, qk_rope_head_dim=12, v_head_dim=22,
        n_routed_experts=12, num_experts_per_tok=4, n_shared_experts=2, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5,
        mlp_layer_types=["dense", "sparse", "sparse"], attention_bias=True, rope_interleave=False, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 8.0,
                         "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 0.9}, **COMMON)),
}


def old_keys(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("head_dim", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def greedy(model, ids, count):
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -count:]


for index, (name, (kind, config)) in enumerate(MODELS.items()):
    if len(sys.argv) > 2 and name not in sys.argv[2:]:
        continue
    folder = pathlib.Path(sys.argv[1]) / name
    torch.manual_seed(100 + index)
    config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(0, 0.2)
            elif parameter_name.endswith("mlp.gate.weight"):
                parameter.normal_(0, 0.3)
            elif "norm" in parameter_name:
                parameter.normal_(1, 0.2)
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.uniform_(0.1, 0.4)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="60KB" if name == "llama-old-sharded" else "1GB")
    if name == "llama-old-sharded":
        old_keys(folder / "config.json")
    # Loaded anew: a conversion would round the rotary frequencies to bf16 too.
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, config.vocab_size, (1, 96))
    with torch.no_grad():
        save_file({"input_ids": ids[0], "logits": model(ids).logits[0].contiguous(), "greedy": greedy(model, ids, 48)},
                  folder / "golden.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(name, sum(p.numel() for p in model.parameters()))
