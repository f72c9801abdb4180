#!/usr/bin/env python3
"""Makes tiny random models in GGUF by llama.cpp's own converter, with golden logits from Hugging Face transformers.

Needs: torch==2.11.0 transformers==5.24.0 safetensors==0.8.0, and llama.cpp's source
Usage: make_gguf_models.py LLAMA_CPP [NAME...] [--server llama-server]
Each folder of tests/data/gguf holds model.gguf (matrices in bf16, as transformers has them) and golden.safetensors:
input_ids [64] i64, logits [64, vocab] f32 of the bf16 weights run in f32 with eager attention, greedy [16] i64.

With --server, llama.cpp reads the same weights in f32, and is to say what transformers says after 16 and more tokens.
Configurations are those that GGUF can say; where llama.cpp itself does not run what a file says, NOT_RUN tells why.
"""
import argparse
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedTokenizerFast

from mxfp4_experts import to_mxfp4
from random_weights import randomize

TEXTS, VOCAB, PROMPT, SAID = 257, 261, 16, 16  # of which the first are no special tokens
NEAR = 2e-3  # between logits: llama.cpp looks GELU up in a table of f16
SMALL = dict(initializer_range=0.08, max_position_embeddings=4096, bos_token_id=258, eos_token_id=259, pad_token_id=257,
             vocab_size=VOCAB, hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5)
PLAIN = {"rope_type": "default", "rope_theta": 5000.0}
SLIDING, FULL = "sliding_attention", "full_attention"
YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0}
LATENT = dict(num_key_value_heads=4, kv_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, moe_intermediate_size=20,
              n_routed_experts=8, num_experts_per_tok=3)


def auto(kind, **fields):
    common = {key: value for key, value in SMALL.items() if not (kind == "cohere2" and key == "rms_norm_eps")}
    return AutoModelForCausalLM, AutoConfig.for_model(kind, **dict(common, **fields))


MODELS = {
    # Biases of q, k and v, a tied head, YaRN.
    "qwen2": auto("qwen2", rope_parameters=YARN, use_sliding_window=False, tie_word_embeddings=True),
    # Projections stored as one, a rotation of a part of each head by factors in tensors.
    "phi3": auto("phi3", hidden_size=64, original_max_position_embeddings=256, sliding_window=40, rope_parameters={
        "rope_type": "longrope", "rope_theta": 5000.0, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 256,
        "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 2.5], "long_factor": [1.0, 2.0, 4.0, 8.0, 12.0, 16.0]}),
    # No key has the rotation's base.
    "gemma2": auto("gemma2", head_dim=20, query_pre_attn_scalar=20, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
                   sliding_window=16, num_hidden_layers=3, rope_parameters=dict(PLAIN, rope_theta=10000.0)),
    # The window's pattern is in no key: the sixth layer has none.
    "gemma3": auto("gemma3_text", hidden_size=32, intermediate_size=48, num_hidden_layers=7, head_dim=20, query_pre_attn_scalar=20,
                   sliding_window=16, layer_types=[SLIDING] * 5 + [FULL, SLIDING], rope_parameters={
                       SLIDING: {"rope_type": "default", "rope_theta": 1000.0},
                       FULL: {"rope_type": "linear", "rope_theta": 100000.0, "factor": 8.0}}),
    # Keys and values that the last layers read again, inputs of each layer, heads of two sizes.
    "gemma4": auto("gemma4_text", num_hidden_layers=6, head_dim=12, global_head_dim=20, sliding_window=16,
                   layer_types=[SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL], num_kv_shared_layers=3,
                   hidden_size_per_layer_input=10, vocab_size_per_layer_input=VOCAB, use_double_wide_mlp=True,
                   final_logit_softcapping=3.0),
    # Keys that are values.
    "gemma4-keys": auto("gemma4_text", num_hidden_layers=4, head_dim=12, global_head_dim=20, num_global_key_value_heads=1,
                        attention_k_eq_v=True, sliding_window=16, layer_types=[SLIDING, FULL, SLIDING, FULL],
                        hidden_size_per_layer_input=0),
    # Experts beside the dense part.
    "gemma4-experts": auto("gemma4_text", head_dim=12, global_head_dim=20, sliding_window=16, layer_types=[SLIDING, FULL],
                           enable_moe_block=True, num_experts=6, top_k_experts=2, moe_intermediate_size=32, hidden_size_per_layer_input=0),
    "olmo2": auto("olmo2", rope_parameters=PLAIN),
    # Of the same kind in llama.cpp; YaRN in full layers alone.
    "olmo3": auto("olmo3", num_hidden_layers=4, sliding_window=16, layer_types=[SLIDING, FULL, SLIDING, SLIDING],
                  rope_parameters={SLIDING: PLAIN, FULL: YARN}),
    "smollm3": auto("smollm3", num_hidden_layers=5, no_rope_layer_interval=4, use_sliding_window=False, rope_parameters=PLAIN),
    "granite": auto("granite", rope_parameters=PLAIN, embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.3,
                    logits_scaling=0.5, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "glm4": auto("glm4", head_dim=24, rope_parameters=dict(PLAIN, partial_rotary_factor=0.5), attention_bias=True),
    "exaone4": auto("exaone4", sliding_window=None, layer_types=[FULL, FULL], rope_parameters=PLAIN),
    "exaone4-window": auto("exaone4", num_hidden_layers=4, sliding_window=16, layer_types=[SLIDING, SLIDING, FULL, SLIDING],
                           rope_parameters=PLAIN),
    "seed-oss": auto("seed_oss", head_dim=20, rope_parameters=PLAIN, attention_bias=True, attention_out_bias=False),
    # The fourth layer has no window, as no key says.
    "cohere2": auto("cohere2", num_hidden_layers=5, sliding_window=16, layer_types=[SLIDING] * 3 + [FULL, SLIDING],
                    logit_scale=0.4, layer_norm_eps=2e-5, rope_parameters=PLAIN),
    # Queries that grow with their positions.
    "ministral3": auto("ministral3", head_dim=16, rope_parameters={
        "type": "yarn", "rope_type": "yarn", "rope_theta": 5000.0, "factor": 16.0, "original_max_position_embeddings": 24,
        "max_position_embeddings": 4096, "beta_fast": 8.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.4}),
    # The text of a model of images, which is a Mistral.
    "mistral3": (Mistral3ForConditionalGeneration, Mistral3Config(
        text_config=dict(SMALL, model_type="mistral", head_dim=20, sliding_window=None, rope_parameters=PLAIN), vision_config=dict(
            model_type="pixtral", hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=14), image_token_index=260)),
    # An expert for every token behind a gate, which is a vector in the file.
    "qwen2-moe": auto("qwen2_moe", moe_intermediate_size=28, shared_expert_intermediate_size=40, num_experts=5, num_experts_per_tok=2,
                      use_sliding_window=False, rope_parameters=PLAIN),
    # A Llama with experts there.
    "mixtral": auto("mixtral", intermediate_size=32, num_local_experts=5, num_experts_per_tok=2, rope_parameters=PLAIN),
    # As many heads of keys as of queries, as llama.cpp has it.
    "olmoe": auto("olmoe", intermediate_size=32, num_key_value_heads=4, num_experts=5, num_experts_per_tok=2, rope_parameters=PLAIN),
    # A part of each head is rotated, by a key; the bias of the router's choice.
    "minimax-m2": auto("minimax_m2", intermediate_size=32, head_dim=20, num_local_experts=5, num_experts_per_tok=2,
                       rope_parameters=dict(PLAIN, partial_rotary_factor=0.5)),
    # Experts in MXFP4, whose tensors the converter writes as they are.
    "gpt-oss": auto("gpt_oss", hidden_size=64, intermediate_size=32, head_dim=20, num_local_experts=6, num_experts_per_tok=3,
                    sliding_window=16, rope_parameters=dict(YARN, truncate=False)),
    # Norms of heads, experts in groups, chosen with a bias.
    "glm4moe": auto("glm4_moe", head_dim=24, attention_bias=True, use_qk_norm=True, n_routed_experts=8, num_experts_per_tok=3,
                    moe_intermediate_size=20, n_group=2, topk_group=1, routed_scaling_factor=1.5, num_mtp_layers=0,
                    rope_parameters=dict(PLAIN, partial_rotary_factor=0.5)),
    # What expands latents is in two tensors, one of them turned.
    "deepseek2": auto("deepseek_v3", q_lora_rank=24, first_k_dense_replace=1, num_mtp_layers=0, n_group=4, topk_group=2,
                      rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=1.0), **LATENT),
    # The same without low-rank queries, of a softmax whose weights do not add up to 1.
    "deepseek2-lite": auto("deepseek_v2", q_lora_rank=None, first_k_dense_replace=1, n_shared_experts=2, topk_method="greedy", routed_scaling_factor=1.5,
                           rope_parameters=dict(YARN, mscale=0.707, mscale_all_dim=0.707), **LATENT),
}

# Seeds that were places in the list when the models were made; others come of names.
SEEDS = dict(zip([name for name in MODELS if not name.startswith("gemma4")], range(300, 319))) | {
    "gpt-oss": 315, "glm4moe": 315, "deepseek2": 316, "deepseek2-lite": 317}

# Why llama.cpp gives something else.
NOT_RUN = {"exaone4-window": "windows count in models of 64 layers alone there",
           "deepseek2-lite": "queries of full rank are in models of 26, 27 and 48 layers alone there",
           "gpt-oss": "the bounds of YaRN are rounded there, and its experts are not written in f32"}


def write_tokenizer(folder):
    """Bytes, a pair of them, and four special tokens."""
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<image>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(folder)


def add_keys(path, name):
    """What people's files have beside what transformers writes."""
    config = json.loads(path.read_text())
    if name == "cohere2":
        config["rotary_pct"] = 1.0
    if name == "minimax-m2":
        config["scoring_func"] = "sigmoid"
        config["rotary_dim"] = round(config["head_dim"] * config["rope_parameters"].pop("partial_rotary_factor"))
    if name.startswith("deepseek2"):
        config["scoring_func"] = "softmax" if name.endswith("lite") else "sigmoid"
    path.write_text(json.dumps(config, indent=2) + "\n")


def random_model(name, folder):
    kind, config = MODELS[name]
    torch.manual_seed(SEEDS.get(name, zlib.crc32(name.encode())))
    config._attn_implementation = "eager"
    model = (kind.from_config(config) if kind is AutoModelForCausalLM else kind(config)).eval()
    with torch.no_grad():
        randomize(model, name, "mlp.gate.weight", (-0.4 if name.startswith(("glm4moe", "deepseek2")) else 0.1, 0.4))
    model.to(torch.bfloat16).save_pretrained(folder)
    if name == "gpt-oss":
        to_mxfp4(folder)
    write_tokenizer(folder)
    add_keys(folder / "config.json", name)
    # Loaded anew: a conversion would round the rotary frequencies to bf16 too.
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def greedy(model, ids, count):
    """And how much likelier each is than the next. No special tokens, which llama.cpp is told to leave out too."""
    leads = []
    for _ in range(count):
        best = model(ids).logits[0, -1, :TEXTS].topk(2)
        ids = torch.cat([ids, best.indices[None, :1]], dim=1)
        leads.append(float(best.values[0] - best.values[1]))
    return ids[0, -count:], leads


CONVERT = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv.pop(1) + "/gguf-py"]
import gguf
import convert_hf_to_gguf as program
from conversion.base import ModelBase, TextModel
def classes(kind):
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in classes(below))]
load = program.get_model_class
def tokens(self):
    tokenizer = json.loads((self.dir_model / "tokenizer.json").read_text())
    texts = [*tokenizer["model"]["vocab"], *(token["content"] for token in tokenizer["added_tokens"])]
    return texts, [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * (len(texts) - 257), "gpt-2"
def get_model_class(*arguments, **named):
    found = load(*arguments, **named)
    for kind in classes(TextModel):  # which knows tokenizers by hashes, and has others made anew by the kind of model
        kind.get_vocab_base = tokens
        if "impl" not in kind.__annotations__:
            kind.set_vocab = lambda self: self._set_vocab_gpt2()
    return found
program.get_model_class = get_model_class
program.main()
"""


def convert(llama_cpp, folder, out, kind):
    done = subprocess.run([sys.executable, "-c", CONVERT, str(llama_cpp), str(folder), "--outfile", str(out), "--outtype", kind],
                          capture_output=True, text=True)
    if done.returncode or not out.exists():
        sys.exit(f"the converter failed on {folder}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def ask(port, ids):
    body = {"prompt": ids, "n_predict": 1, "temperature": 0, "return_tokens": True, "cache_prompt": False,
            "logit_bias": [[i, False] for i in range(TEXTS, VOCAB)]}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=60))["tokens"]


def said_by_server(server, path, ids, count):
    """What llama.cpp says after all but the last of the tokens, all but the last two..."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = path.with_suffix(".log")
    with open(log, "w") as out:
        process = subprocess.Popen([server, "-m", path, "--port", str(port), "-c", "256", "-np", "1", "-t", "1", "-fa", "off",
                                    "-ctk", "f32", "-ctv", "f32"], stdout=out, stderr=out)
    try:
        for _ in range(300):
            try:
                ask(port, ids[:1])
                return [ask(port, ids[:len(ids) - count + i])[0] for i in range(count)]
            except OSError:
                if process.poll() is not None:
                    break
                time.sleep(0.2)
        sys.exit(f"{server} does not answer:\n{log.read_text()[-3000:]}")
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llama_cpp", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--server")
    arguments = parser.parse_args()
    data = pathlib.Path(__file__).parent.parent / "tests/data/gguf"
    wrong = 0
    for name in MODELS:
        if arguments.names and name not in arguments.names:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary) / "m"
            model = random_model(name, folder)
            ids = torch.randint(3, TEXTS, (1, 64))
            with torch.no_grad():
                said, leads = greedy(model, ids[:, :PROMPT], SAID)
                golden = {"input_ids": ids[0], "logits": model(ids).logits[0].contiguous(), "greedy": greedy(model, ids, SAID)[0]}
            out = data / name
            out.mkdir(parents=True, exist_ok=True)
            save_file(golden, out / "golden.safetensors")
            (out / "model.gguf").unlink(missing_ok=True)
            convert(arguments.llama_cpp, folder, out / "model.gguf", "bf16")
            if arguments.server and name not in NOT_RUN:
                convert(arguments.llama_cpp, folder, pathlib.Path(temporary) / "f32.gguf", "f32")
                whole = ids[0, :PROMPT].tolist() + said.tolist()
                found = said_by_server(arguments.server, pathlib.Path(temporary) / "f32.gguf", whole, SAID)
                same = [f == s or lead < NEAR for f, s, lead in zip(found, said.tolist(), leads)]
                wrong += not all(same)
                print(name, f"llama.cpp says the same {sum(same)} of {SAID} times")
            else:
                print(name, NOT_RUN.get(name, ""))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
