#!/usr/bin/env python3
"""Writes tests/data/formulas.safetensors: what public implementations give for RWKV-4 (transformers), RWKV-6 and
RWKV-7 (flash-linear-attention's plain forms) and differential attention (transformers' DiffLlama).

Needs: torch==2.15.0 transformers==5.24.0 flash-linear-attention==0.6.0 safetensors==0.8.0
Usage: tools/make_formula_vectors.py tests/data/formulas.safetensors
"""
import sys

import torch
from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence
from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
from safetensors.torch import save_file
from transformers.models.diffllama.configuration_diffllama import DiffLlamaConfig
from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention
from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

torch.manual_seed(1)
TOKENS, CHANNELS, HEADS, DIM = 9, 40, 3, 24
out = {}


def keep(prefix, **tensors):
    for name, tensor in tensors.items():
        out[f"{prefix}.{name}"] = tensor.detach().float().contiguous()


# The decay is kept as its logarithm, -exp of the parameter.
decay, bonus = torch.randn(CHANNELS), torch.randn(CHANNELS)
k, v = 4 * torch.randn(1, TOKENS, CHANNELS), torch.randn(1, TOKENS, CHANNELS)
y, state = rwkv_linear_attention_cpu(decay, bonus, k, v, return_state=True)
keep("wkv4", k=k[0], v=v[0], log_decay=-torch.exp(decay), bonus=bonus, y=y[0], numerator=state[0][0], denominator=state[1][0],
     largest=state[2][0])

# fla has [batch, heads, tokens, dim]; ours is [tokens, heads, dim].
r, k, v = (torch.randn(1, HEADS, TOKENS, DIM) for _ in range(3))
log_decay, bonus = -torch.exp(torch.randn(1, HEADS, TOKENS, DIM) - 1), torch.randn(HEADS, DIM)
y, state = naive_recurrent_rwkv6(r, k, v, log_decay, bonus, scale=1.0, output_final_state=True)
keep("wkv6", **{name: t[0].transpose(0, 1) for name, t in dict(r=r, k=k, v=v, decay=log_decay.exp(), y=y).items()}, bonus=bonus,
     state=state[0])

r, k, v = (torch.randn(1, HEADS, TOKENS, DIM) for _ in range(3))
unit = torch.nn.functional.normalize(torch.randn(1, HEADS, TOKENS, DIM), dim=-1)
a, b = -unit, unit * torch.rand(1, HEADS, TOKENS, DIM)
log_decay = -torch.exp(torch.randn(1, HEADS, TOKENS, DIM) - 1)
y, state = dplr_recurrence(r, k, v, a, b, log_decay, output_final_state=True)
y = y * DIM**0.5  # it scales the queries
# Its state is [dim of k][dim of v]; ours the other way.
keep("wkv7", **{name: t[0].transpose(0, 1) for name, t in dict(r=r, k=k, v=v, a=a, b=b, decay=log_decay.exp(), y=y).items()},
     state=state[0].transpose(1, 2))

# Heads come in pairs; the two of a pair lie half of all heads apart, their values side by side.
heads, kv_heads, width = 8, 4, 16
config = DiffLlamaConfig(hidden_size=64, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=width,
                         attn_implementation="eager", rms_norm_eps=1e-5)
attention = DiffLlamaAttention(config, layer_idx=3).eval()
for parameter in attention.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
attention.o_proj = torch.nn.Identity()
hidden = torch.randn(1, TOKENS, 64)
mask = torch.full((TOKENS, TOKENS), float("-inf")).triu(1)[None, None]
unturned = (torch.ones(1, TOKENS, width), torch.zeros(1, TOKENS, width))  # cos, sin
y = attention(hidden, unturned, attention_mask=mask)[0]
full = (torch.exp((attention.lambda_q1 * attention.lambda_k1).sum()) - torch.exp((attention.lambda_q2 * attention.lambda_k2).sum())
        + attention.lambda_init)


def pairs(states, count):
    """[tokens, pairs, 2 * width] of [tokens, count * width]."""
    return states[0].view(TOKENS, 2, count // 2, width).transpose(1, 2).reshape(TOKENS, count // 2, 2 * width)


keep("diff", q=pairs(attention.q_proj(hidden), heads), k=pairs(attention.k_proj(hidden), kv_heads),
     v=pairs(attention.v_proj(hidden), kv_heads), y=y[0].view(TOKENS, heads // 2, 2 * width),
     lambdas=full.expand(heads // 2), factor=torch.tensor([1 - attention.lambda_init]))
save_file(out, sys.argv[1])
for name, tensor in out.items():
    print(name, tuple(tensor.shape), float(tensor.abs().mean()))
