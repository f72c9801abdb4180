#!/usr/bin/env python3
"""Makes tiny random models with golden logits from Hugging Face transformers.

Needs: torch==2.11.0 transformers==5.24.0 safetensors==0.8.0
Usage: make_model_fixtures.py FOLDER [NAME...]
Each folder holds config.json, model.safetensors (bf16; one is sharded) and
golden.safetensors: input_ids [96] i64, logits [96, vocab] f32 of the bf16 weights
run in f32 with eager attention, greedy [48] i64, the greedy continuation.

Of a model with a layer for the next tokens (num_nextn_predict_layers), which transformers leaves out, also, in f64:
prediction [95, vocab], what the layer makes of each token's hidden state and the token after it, and
prediction_next [vocab], what it makes of its last hidden state and the likeliest token of the last row. Its decoder
layer is the module of transformers; what is around it is prediction_states() below (arXiv 2412.19437, section 2.2).
What the model says depends most on the last token's embedding, which the layer passes on: of random layers, none would
ever be right about another.
"""
import json
import pathlib
import sys
import zlib

import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoConfig, AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration, Gemma4Config,
                          Gemma4ForConditionalGeneration, Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, LlamaConfig, LlamaForCausalLM,
                          Mistral3Config, Mistral3ForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

from mxfp4_experts import to_mxfp4
from random_weights import randomize

COMMON = dict(initializer_range=0.08, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0)

SMALL = dict(initializer_range=0.08, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0, vocab_size=160,
             hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA3 = dict(SMALL, num_hidden_layers=4, head_dim=20, query_pre_attn_scalar=28, sliding_window=16,
              layer_types=[SLIDING, SLIDING, FULL, SLIDING], rope_parameters={
                  SLIDING: {"rope_type": "default", "rope_theta": 1000.0},
                  FULL: {"rope_type": "linear", "rope_theta": 100000.0, "factor": 8.0}})

GPT_OSS = dict(hidden_size=64, intermediate_size=32, head_dim=20, num_local_experts=6, num_experts_per_tok=3, sliding_window=16,
               swiglu_limit=0.6, rope_parameters={"rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0, "truncate": False,
                                                  "original_max_position_embeddings": 32, "beta_fast": 8.0, "beta_slow": 1.0})


def auto(kind, **fields):
    return AutoModelForCausalLM, AutoConfig.for_model(kind, **dict(SMALL, **fields))


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
    # A layer for the next tokens behind the others.
    "glm4-mtp": (Glm4MoeLiteForCausalLM, Glm4MoeLiteConfig(
        vocab_size=256, hidden_size=64, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
        n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.5,
        mlp_layer_types=["dense", "sparse"], num_nextn_predict_layers=1, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **COMMON)),
    # Biases of q, k and v alone, a window in the upper layer.
    "qwen2": auto("qwen2", rope_parameters=PLAIN, use_sliding_window=True, sliding_window=20, max_window_layers=1),
    # A window in all layers, heads that are not the width over their number.
    "mistral": auto("mistral", rope_parameters=PLAIN, head_dim=20, sliding_window=20),
    # Queries that grow with their positions.
    "ministral3": auto("ministral3", head_dim=16, rope_parameters={
        "type": "yarn", "rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 24,
        "max_position_embeddings": 4096, "beta_fast": 8.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.4}),
    # Projections stored as one, a rotation of a part of each head by factors.
    "phi3": auto("phi3", hidden_size=64, original_max_position_embeddings=256, sliding_window=30, rope_parameters={
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 2.5], "long_factor": [1.0, 2.0, 4.0, 8.0, 12.0, 16.0]}),
    # Soft caps that are felt, norms before and after.
    "gemma2": auto("gemma2", head_dim=20, query_pre_attn_scalar=28, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                   sliding_window=16, rope_parameters=PLAIN),
    # A rotation for each type of layer.
    "gemma3": (AutoModelForCausalLM, AutoConfig.for_model("gemma3_text", **GEMMA3)),
    # The same inside of a model of images.
    "gemma3-images": (Gemma3ForConditionalGeneration, Gemma3Config(
        text_config=dict(GEMMA3, num_hidden_layers=2, layer_types=[SLIDING, FULL]), mm_tokens_per_image=4, vision_config=dict(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14),
        boi_token_index=150, eoi_token_index=151, image_token_index=152, eos_token_id=2)),
    # Norms after the parts alone, and over whole projections.
    "olmo2": auto("olmo2", rope_parameters=PLAIN),
    "olmo3": auto("olmo3", num_hidden_layers=4, sliding_window=16, rope_parameters={
        SLIDING: PLAIN, FULL: {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
                               "beta_fast": 8.0, "beta_slow": 1.0}}),
    # Layers without a rotation, which here have a window too.
    "smollm3": auto("smollm3", num_hidden_layers=4, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=20,
                    rope_parameters=PLAIN),
    # Factors everywhere.
    "granite": auto("granite", rope_parameters=PLAIN, embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.3,
                    logits_scaling=0.5, tie_word_embeddings=True),
    # Rotation of the first half of each head by neighbours, gate and up stored as one, biases of q, k and v.
    "glm4": auto("glm4", head_dim=24, rope_parameters=dict(PLAIN, partial_rotary_factor=0.5)),
    # Norms of heads, norms after the parts, rotations in layers with a window alone.
    "exaone4": auto("exaone4", num_hidden_layers=4, sliding_window=16, layer_types=[SLIDING, SLIDING, FULL, SLIDING],
                    rope_parameters=PLAIN),
    # GELU by the error function.
    "seed-oss": auto("seed_oss", head_dim=20, hidden_act="gelu", rope_parameters=PLAIN),
    # Both parts read the same norm, of mean and deviation.
    "cohere2": auto("cohere2", num_hidden_layers=4, sliding_window=16, layer_types=[SLIDING, SLIDING, FULL, SLIDING],
                    logit_scale=0.4, rope_parameters=PLAIN),
    # A Mistral inside of a model of images.
    "mistral3-images": (Mistral3ForConditionalGeneration, Mistral3Config(
        text_config=dict(SMALL, model_type="mistral", head_dim=20, sliding_window=None, rope_parameters=PLAIN), vision_config=dict(
            model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=14), image_token_index=152, tie_word_embeddings=False, eos_token_id=2)),
    # Heads of two sizes, inputs of each layer, keys and values that the last three layers read again, wider there.
    "gemma4": (AutoModelForCausalLM, AutoConfig.for_model("gemma4_text", **dict(
        SMALL, num_hidden_layers=6, head_dim=12, global_head_dim=20, sliding_window=16,
        layer_types=[SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL], num_kv_shared_layers=3,
        hidden_size_per_layer_input=10, vocab_size_per_layer_input=160, use_double_wide_mlp=True, final_logit_softcapping=3.0))),
    # Keys that are values, of fewer heads, where layers have no window; no inputs of layers.
    "gemma4-keys": (AutoModelForCausalLM, AutoConfig.for_model("gemma4_text", **dict(
        SMALL, num_hidden_layers=4, head_dim=12, global_head_dim=20, num_global_key_value_heads=1, attention_k_eq_v=True,
        sliding_window=16, layer_types=[SLIDING, FULL, SLIDING, FULL], hidden_size_per_layer_input=0))),
    "gemma4-images": (Gemma4ForConditionalGeneration, Gemma4Config(
        text_config=dict(SMALL, num_hidden_layers=3, head_dim=12, global_head_dim=20, sliding_window=16, num_kv_shared_layers=1,
                         layer_types=[SLIDING, FULL, FULL], hidden_size_per_layer_input=16, vocab_size_per_layer_input=160),
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                           head_dim=8, global_head_dim=8, patch_size=4, position_embedding_size=16, pooling_kernel_size=1),
        boi_token_id=1000, eoi_token_id=1001, image_token_id=1002, video_token_id=1003, boa_token_id=1004, eoa_token_index=1005,
        audio_token_id=1006, eos_token_id=2)),  # none of which is ever said
    # An expert for every token behind a gate, biases of q, k and v, a dense layer, a window in every other layer.
    "qwen2-moe": auto("qwen2_moe", num_hidden_layers=3, moe_intermediate_size=28, shared_expert_intermediate_size=40, num_experts=7,
                      num_experts_per_tok=3, mlp_only_layers=[1], use_sliding_window=True, sliding_window=20, rope_parameters=PLAIN),
    # Names of its own, a window in all layers.
    "mixtral": auto("mixtral", intermediate_size=40, num_local_experts=5, num_experts_per_tok=2, sliding_window=20, rope_parameters=PLAIN),
    # Norms over whole projections, before the parts.
    "olmoe": auto("olmoe", intermediate_size=40, num_experts=6, num_experts_per_tok=3, rope_parameters=PLAIN),
    # A rotation of a part of each head, as its files say it, a bias of the router's choice, names of its own.
    "minimax-m2": auto("minimax_m2", intermediate_size=40, head_dim=20, num_local_experts=6, num_experts_per_tok=3,
                       rope_parameters=dict(PLAIN, partial_rotary_factor=0.5)),
    # Sinks, a window in the lower layer, biases everywhere, gates that are clamped often.
    "gpt-oss": auto("gpt_oss", **GPT_OSS),
    # The same kind as it is published: experts in MXFP4.
    "gpt-oss-mxfp4": auto("gpt_oss", **GPT_OSS),
    # Experts of GELU beside the dense part, a factor on each; what layers have behind them.
    "gemma4-experts": (AutoModelForCausalLM, AutoConfig.for_model("gemma4_text", **dict(
        SMALL, head_dim=12, global_head_dim=20, sliding_window=16, layer_types=[SLIDING, FULL], enable_moe_block=True, num_experts=7,
        top_k_experts=3, moe_intermediate_size=36, hidden_size_per_layer_input=10, vocab_size_per_layer_input=160))),
    # Norms of heads and biases beside experts in groups, a rotation of a half of each head, a layer for the next tokens.
    "glm4-moe": auto("glm4_moe", vocab_size=256, hidden_size=64, head_dim=24, attention_bias=True, use_qk_norm=True, moe_intermediate_size=20,
                     n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, n_group=2, topk_group=1, routed_scaling_factor=1.5,
                     first_k_dense_replace=1, num_mtp_layers=1, rms_norm_eps=1e-5, rope_parameters=dict(PLAIN, partial_rotary_factor=0.5)),
    # Low-rank queries, groups by their two best, whose scores are below zero here, YaRN's temperature twice.
    "deepseek-v3": auto("deepseek_v3", num_key_value_heads=4, q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8,
                        v_head_dim=10, moe_intermediate_size=20, n_routed_experts=12, num_experts_per_tok=3, n_shared_experts=1,
                        n_group=4, topk_group=2, first_k_dense_replace=1, num_mtp_layers=0, rope_parameters={
                            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
                            "beta_fast": 8.0, "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 1.0}),
    # Groups by their best alone, of a softmax whose weights are scaled, not normalised; queries of full rank.
    "deepseek-v2": auto("deepseek_v2", num_key_value_heads=4, q_lora_rank=None, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8,
                        v_head_dim=10, moe_intermediate_size=20, n_routed_experts=12, num_experts_per_tok=3, n_shared_experts=2,
                        n_group=4, topk_group=2, topk_method="group_limited_greedy", routed_scaling_factor=4.0, first_k_dense_replace=1,
                        rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
                                         "beta_fast": 8.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}),
}


def old_keys(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("head_dim", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def minimax_keys(path):
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rotary_dim"] = round(config["head_dim"] * rope["partial_rotary_factor"])
    path.write_text(json.dumps(config, indent=2) + "\n")


def greedy(model, ids, count):
    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -count:]


class Prediction(torch.nn.Module):
    """A layer for the next tokens, by the names of its weights in a checkpoint."""

    def __init__(self, model, config):
        super().__init__()
        more = {**config.to_dict(), "num_hidden_layers": config.num_hidden_layers + 1}
        if "mlp_layer_types" in more:
            more["mlp_layer_types"] = config.mlp_layer_types + ["sparse"]
        more = type(config)(**more)
        more._attn_implementation = more._experts_implementation = "eager"
        self.layer = type(model.model.layers[0])(more, config.num_hidden_layers)
        self.enorm, self.hnorm, self.norm = (type(model.model.norm)(config.hidden_size, config.rms_norm_eps) for _ in range(3))
        self.eh_proj = torch.nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)

    def name_of(self, key, number):
        for own, stored in (("layer.", ""), ("norm.", "shared_head.norm.")):
            if key.startswith(own):
                return f"model.layers.{number}.{stored}{key[len(own):]}"
        return f"model.layers.{number}.{key}"

    # hidden: the model's, behind its final norm, of all tokens but the last; following: the tokens after them.
    def prediction_states(self, model, hidden, following):
        both = torch.cat([self.enorm(model.model.embed_tokens(following)), self.hnorm(hidden)], dim=-1)
        count = both.shape[1]
        positions = torch.arange(count)[None]
        mask = torch.full((count, count), torch.finfo(both.dtype).min, dtype=both.dtype).triu(1)[None, None]
        states = self.layer(self.eh_proj(both), attention_mask=mask, position_ids=positions,
                            position_embeddings=model.model.rotary_emb(both, positions))
        return self.norm(states)


def add_prediction(folder, model, config):
    torch.manual_seed(99)
    prediction = Prediction(model, config)
    with torch.no_grad():
        for name, parameter in prediction.named_parameters():
            parameter.normal_(1, 0.1) if "norm" in name else parameter.normal_(0, 0.02)
        for name, buffer in prediction.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.uniform_(0.1, 0.4)
        prediction.eh_proj.weight[:, :config.hidden_size] += torch.eye(config.hidden_size)
        prediction.norm.weight.mul_(model.model.norm.weight)
    tensors = load_file(folder / "model.safetensors")
    for key, value in prediction.state_dict().items():
        name = prediction.name_of(key, config.num_hidden_layers)
        if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            split_experts(tensors, name, value)
        else:
            tensors[name] = value.to(torch.bfloat16 if "e_score" not in name else tensor_type(tensors))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    with torch.no_grad():
        for parameter in prediction.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return prediction.double()


def tensor_type(tensors):
    return next(value.dtype for name, value in tensors.items() if "e_score" in name)


# As the files have them: a matrix for each expert.
def split_experts(tensors, name, value):
    prefix, kind = name.rsplit(".", 1)
    for expert, matrix in enumerate(value.to(torch.bfloat16)):
        if kind == "down_proj":
            tensors[f"{prefix}.{expert}.down_proj.weight"] = matrix
        else:
            for part, half in zip(("gate_proj", "up_proj"), matrix.chunk(2)):
                tensors[f"{prefix}.{expert}.{part}.weight"] = half


def prediction_golden(prediction, model, ids):
    model = model.double()
    model.config._experts_implementation = "eager"  # others take no f64
    hidden = model.model(ids).last_hidden_state
    following = ids[:, 1:]
    states = prediction.prediction_states(model, hidden[:, :-1], following)
    said = model.lm_head(states)
    following = torch.cat([following, said[:, -1:].argmax(-1)], dim=1)
    more = torch.cat([hidden[:, :-1], states[:, -1:]], dim=1)
    after = model.lm_head(prediction.prediction_states(model, more, following))
    return {"prediction": said[0].float().contiguous(), "prediction_next": after[0, -1].float().contiguous()}


# Seeds that were places in the list when the models were made; others come of names.
SEEDS = dict(zip(MODELS, range(100, 130))) | {"gpt-oss": 126, "gpt-oss-mxfp4": 127, "glm4-moe": 126, "deepseek-v3": 127, "deepseek-v2": 128}

for name, (kind, config) in MODELS.items():
    if len(sys.argv) > 2 and name not in sys.argv[2:]:
        continue
    folder = pathlib.Path(sys.argv[1]) / name
    torch.manual_seed(SEEDS.get(name, zlib.crc32(name.encode())))
    config._attn_implementation = "eager"
    model = (kind.from_config(config) if kind is AutoModelForCausalLM else kind(config)).eval()
    with torch.no_grad():
        randomize(model, name, ("mlp.gate.weight", "mlp.router.weight"), (-1.3, -1) if name == "deepseek-v3" else (0.1, 0.4))
        if getattr(config, "num_nextn_predict_layers", 0):  # num_mtp_layers, which is an attribute by this name, too
            model.model.embed_tokens.weight.mul_(24)
            model.lm_head.weight.mul_(3)
    model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="60KB" if name == "llama-old-sharded" else "1GB")
    if name == "llama-old-sharded":
        old_keys(folder / "config.json")
    if name == "minimax-m2":
        minimax_keys(folder / "config.json")
    if name.endswith("-mxfp4"):
        to_mxfp4(folder)
    # Loaded anew: a conversion would round the rotary frequencies to bf16 too.
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, min(config.get_text_config().vocab_size, 150), (1, 96)) if name.endswith("-images") else torch.randint(
        3, config.vocab_size, (1, 96))
    prediction = add_prediction(folder, model, config) if getattr(config, "num_nextn_predict_layers", 0) else None
    with torch.no_grad():
        golden = {"input_ids": ids[0], "logits": model(ids).logits[0].contiguous(), "greedy": greedy(model, ids, 48)}
        if prediction is not None:
            golden |= prediction_golden(prediction, model, ids)
    save_file(golden, folder / "golden.safetensors")
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(name, sum(p.numel() for p in model.parameters()))
