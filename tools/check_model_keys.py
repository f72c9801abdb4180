#!/usr/bin/env python3
"""Drops, retypes and changes each key of a small GGUF file, those of an architecture in a file of each, those of
quantized folders' configurations, and what bitsandbytes keeps in tensors, and looks at what the program makes of it: no
crash, no internal error, an error that names the key, or a model that is another one. A key
that changes nothing must be one of those below, with the reason.

Needs: numpy==2.4.6 gguf==0.19.0
Usage: check_model_keys.py PROGRAM [--seed N] [--changes N] [--only gguf|architectures|folders|bitsandbytes]
"""
import argparse
import concurrent.futures
import copy
import hashlib
import json
import math
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np

DATA = pathlib.Path(__file__).parent.parent / "tests/data"
INTERNAL = 9  # the exit status of an error of the program's own

# ARCH: of any architecture. What may be there or not, or say something else, and the model is the same.
HARMLESS = {
    "general.name": "a name", "general.file_type": "how most tensors are stored, which each tensor says itself",
    "general.quantization_version": "of the blocks, which have been the same since there are these types",
    "ARCH.context_length": "rotations without a scale do not go by it",
    "ARCH.vocab_size": "the rows of token_embd.weight, which it must equal",
    "ARCH.rope.dimension_count": "the size of heads, which it must equal",
    "ARCH.attention.key_length": "the size of heads, which follows from others", "ARCH.attention.value_length": "the same",
    "ARCH.rope.scaling.finetuned": "how the model was trained",
    "tokenizer.ggml.bos_token_id": "not added here", "tokenizer.ggml.eos_token_id": "not added here, ends an answer",
    "tokenizer.ggml.padding_token_id": "nothing is padded", "tokenizer.ggml.eot_token_id": "ends an answer",
    "tokenizer.ggml.fim_pad_token_id": "ends an answer", "tokenizer.ggml.unknown_token_id": "BPE of bytes knows all",
    "tokenizer.ggml.add_eos_token": "false is what is left out", "tokenizer.ggml.add_bos_token": "false is what is left out",
    "tokenizer.ggml.scores": "of SentencePiece", "tokenizer.ggml.token_type": "of tokens that a text does not have",
    "tokenizer.ggml.pre": "texts without what the kinds cut otherwise",
    "tokenizer.chat_template": "of conversations",
    "ARCH.rope.scaling.type": "linear is what is left out, and factors in tensors say it too",
    "ARCH.rope.scaling.yarn_beta_fast": "32 is what is left out", "ARCH.rope.scaling.yarn_beta_slow": "1 is what is left out",
    "ARCH.rope.scaling.original_context_length": "YaRN rounds what follows from it; more than the text has is all the same",
    "ARCH.attention.temperature_scale": "counts beyond the original context",
    "ARCH.rope.freq_base_swa": "that of the other layers is what is left out",
    "tokenizer.ggml.merges": "the first of equal ones counts",
    "deepseek2.attention.head_count_kv": "latents are of one head, or of all, as files are new or old",
    "deepseek2.expert_gating_func": "what is left out follows from whether there are biases",
    "glm4moe.expert_gating_func": "sigmoids are what is left out",
    # Of configurations of quantized folders, without what they lie in.
    "quant_method": "of GPTQ's own file", "quantization_status": "how far another program is", "version": "of the writer",
    "kv_cache_scheme": "how others keep the cache", "input_activations": "how others round activations",
    "output_activations": "the same", "activation_scheme": "the same", "dynamic": "the same, or rules for no module",
    "format": "the tensors tell", "checkpoint_format": "gptq is what is left out", "fmt": "what is left out",
    "strategy": "follows from group_size", "type": "int is what is left out", "symmetric": "true is what is left out",
    "sym": "the same", "zero_point": "true is AWQ's, where it is left out", "bits": "of a module, what all have",
    "num_bits": "of activations", "group_size": "where scales are the row's or the tensor's", "actorder": "none",
    "transform_config": "none", "sparsity_config": "none", "moe_sparsity_config": "none",
    "global_compression_ratio": "a report", "observer": "how scales were searched", "damp_percent": "the same",
    "desc_act": "g_idx tells", "static_groups": "the same", "true_sequential": "how it was made",
    "modules_to_not_convert": "those are not packed, which the tensors tell", "ignore": "the same", "lm_head": "the same",
    "weight_block_size": "what the scales' shape gives", "scale_dtype": "the scales have a type", "zp_dtype": "zeros too",
    "requires_grad": "of training", "randomize": "false is what is left out", "precision": "of the rotation elsewhere",
    "targets": "twice the same",
    # Of bitsandbytes: tensors have their types, tables and blocks beside them.
    "load_in_4bit": "the tensors tell", "load_in_8bit": "the same", "_load_in_4bit": "the same", "_load_in_8bit": "the same",
    "bnb_4bit_quant_type": "each tensor's state tells", "bnb_4bit_use_double_quant": "the same",
    "bnb_4bit_blocksize": "the same", "bnb_4bit_compute_dtype": "how others compute",
    "bnb_4bit_quant_storage": "the bytes are the same", "llm_int8_threshold": "which activations others do not round",
    "llm_int8_enable_fp32_cpu_offload": "where others compute", "llm_int8_has_fp16_weight": "of training",
    "llm_int8_skip_modules": "those are not packed, which the tensors tell",
    "dtype": "of what comes out elsewhere", "nested_dtype": "the same",
}


class Gguf:
    """A file's keys as (kind, value), and its tensors."""

    architecture = "llama"

    def __init__(self, rng):
        texts = [chr(c) if 33 <= c < 127 else f"<{c}>" for c in range(256)] + ["<s>", "</s>", "ab"]
        self.keys = {
            "general.name": ("string", "made"), "general.file_type": ("uint32", 1), "general.quantization_version": ("uint32", 2),
            "ARCH.context_length": ("uint32", 64), "llama.embedding_length": ("uint32", 32), "llama.block_count": ("uint32", 1),
            "llama.feed_forward_length": ("uint32", 64), "ARCH.vocab_size": ("uint32", 259),
            "llama.attention.head_count": ("uint32", 4), "llama.attention.head_count_kv": ("uint32", 2),
            "ARCH.attention.key_length": ("uint32", 8), "ARCH.attention.value_length": ("uint32", 8),
            "llama.attention.layer_norm_rms_epsilon": ("float32", 1e-5), "ARCH.rope.dimension_count": ("uint32", 8),
            "llama.rope.freq_base": ("float32", 500.0), "ARCH.rope.scaling.type": ("string", "linear"),
            "llama.rope.scaling.factor": ("float32", 2.0), "ARCH.rope.scaling.finetuned": ("bool", True),
            "tokenizer.ggml.model": ("string", "gpt2"), "tokenizer.ggml.pre": ("string", "gpt-2"),
            "tokenizer.ggml.tokens": ("array", texts), "tokenizer.ggml.token_type": ("array", [1] * 256 + [3, 3, 1]),
            "tokenizer.ggml.merges": ("array", ["a b"]), "tokenizer.ggml.bos_token_id": ("uint32", 256),
            "tokenizer.ggml.eos_token_id": ("uint32", 257), "tokenizer.ggml.padding_token_id": ("uint32", 0),
            "tokenizer.ggml.eot_token_id": ("uint32", 257), "tokenizer.ggml.add_bos_token": ("bool", True),
            "tokenizer.ggml.add_eos_token": ("bool", False), "tokenizer.ggml.scores": ("array", [0.0] * 259),
            "tokenizer.ggml.fim_pad_token_id": ("uint32", 255), "tokenizer.ggml.unknown_token_id": ("uint32", 254),
            "tokenizer.chat_template": ("string", "{{ messages }}")}
        shapes = {"token_embd.weight": (259, 32), "output_norm.weight": (32,), "output.weight": (259, 32),
                  "blk.0.attn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32), "blk.0.attn_k.weight": (16, 32),
                  "blk.0.attn_v.weight": (16, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_norm.weight": (32,),
                  "blk.0.ffn_gate.weight": (64, 32), "blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_down.weight": (32, 64)}
        self.tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    def write(self, path, keys):
        writer = gguf.GGUFWriter(path, self.architecture)
        for name, (kind, value) in keys.items():
            if kind == "array":
                writer.add_array(name, value)
            else:
                getattr(writer, "add_" + kind)(name, value)
        for name, tensor in self.tensors.items():
            self.add_tensor(writer, name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    @staticmethod
    def add_tensor(writer, name, tensor):
        writer.add_tensor(name, tensor)


class ReadGguf(Gguf):
    """The same of a file."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.architecture = reader.fields["general.architecture"].contents()
        self.keys = {}
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue
            kind = field.types[0].name.lower()
            self.keys[field.name] = (kind, field.contents())
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    @staticmethod
    def add_tensor(writer, name, tensor):
        writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)


class Bitsandbytes:
    """A folder of a small llama in one of the package's forms: "nf4", "nested" (its scales quantized too), "fp4" or
    "int8"."""
    LINEAR = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
              "self_attn.o_proj": (32, 32), "mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64)}
    NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
           -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
           0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    FP4 = [sign * level / 12 for sign in (1, -1) for level in (0, 0.0625, 8, 12, 4, 6, 2, 3)]

    def __init__(self, form, rng):
        self.form, self.rng = form, rng
        quantization = {"quant_method": "bitsandbytes", "llm_int8_threshold": 6.0, "llm_int8_skip_modules": ["lm_head"],
                        "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_has_fp16_weight": False,
                        "load_in_8bit": form == "int8", "load_in_4bit": form != "int8", "_load_in_8bit": form == "int8",
                        "_load_in_4bit": form != "int8", "bnb_4bit_compute_dtype": "bfloat16",
                        "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "fp4" if form == "fp4" else "nf4",
                        "bnb_4bit_use_double_quant": form == "nested"}
        self.config = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64,
                       "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
                       "max_position_embeddings": 64, "quantization_config": quantization}
        self.state = {"quant_type": quantization["bnb_4bit_quant_type"], "blocksize": 32, "dtype": "bfloat16", "shape": [32, 32]}
        if form == "nested":
            self.state |= {"nested_blocksize": 16, "nested_dtype": "float32", "nested_offset": 0.75}
        dense = {"model.embed_tokens.weight": (64, 32), "lm_head.weight": (64, 32), "model.norm.weight": (32,),
                 "model.layers.0.input_layernorm.weight": (32,), "model.layers.0.post_attention_layernorm.weight": (32,)}
        self.tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in dense.items()}
        for name, shape in self.LINEAR.items():
            self.add(f"model.layers.0.{name}.weight", shape)

    def add(self, name, shape):
        rng, count = self.rng, shape[0] * shape[1]
        if self.form == "int8":
            self.tensors[name] = rng.integers(-127, 128, shape).astype(np.int8)
            self.tensors[name.replace("weight", "SCB")] = rng.uniform(0.5, 2, shape[0]).astype(np.float32)
            return
        self.tensors[name] = rng.integers(0, 256, (count // 2, 1)).astype(np.uint8)
        self.tensors[name + ".quant_map"] = np.array(self.FP4 if self.form == "fp4" else self.NF4, np.float32)
        if self.form == "nested":
            self.tensors[name + ".absmax"] = rng.integers(0, 256, count // 32).astype(np.uint8)
            self.tensors[name + ".nested_quant_map"] = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
            self.tensors[name + ".nested_absmax"] = rng.uniform(0.1, 1, -(-count // 32 // 16)).astype(np.float32)
        else:
            self.tensors[name + ".absmax"] = rng.uniform(0.5, 2, count // 32).astype(np.float32)

    def write(self, folder, config, state):
        """state: of the query projection; of the others as it was."""
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        tensors = dict(self.tensors)
        for name, shape in self.LINEAR.items() if self.form != "int8" else ():
            own = state if name.endswith("q_proj") else {**self.state, "shape": shape}
            key = f"model.layers.0.{name}.weight.quant_state.bitsandbytes__{self.state['quant_type']}"
            tensors[key] = np.frombuffer(json.dumps(own).encode(), np.uint8)
        write_safetensors(folder / "model.safetensors", tensors)
        return folder


def write_safetensors(path, tensors):
    types = {"float32": "F32", "uint8": "U8", "int8": "I8"}
    header, data = {}, b""
    for name, array in tensors.items():
        blob = array.tobytes()
        header[name] = {"dtype": types[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def other_values(value, rng):
    """Values of the same and of other types."""
    texts = ["", "x", "\x1b[31mred", "a" * 5000, "é\u202e"]
    numbers = [0, 1, -1, 3, 2 ** 31, 2 ** 32, 2 ** 63 - 1]
    out = [*rng.sample(texts, 2), *rng.sample(numbers, 3), rng.choice([0.5, -1.0, math.inf, 1e300]), rng.random() < 0.5]
    if isinstance(value, bool):
        out.append(not value)
    elif isinstance(value, (int, float)):
        out += [value * 2, value + 1]
    elif isinstance(value, list):
        out += [value[:len(value) // 2], value * 2, [rng.choice(numbers)] * len(value), ["x"] * len(value)]
    return out


def gguf_value(value):
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return ("int64" if value < 0 else "uint64" if value >= 2 ** 31 else rng_kind(value)), value
    if isinstance(value, float):
        return "float64", value
    return ("array", value) if isinstance(value, list) else ("string", value)


def rng_kind(value):
    return "uint32" if value % 2 else "int32"


def run(program, model, folder, is_folder):
    """The exit status, the errors, and a hash of what the model gives."""
    ids = folder / "ids.json"
    ids.write_text(json.dumps([1 + 7 * i % 29 for i in range(48)]))  # more than a window
    text = folder / "text.txt"
    text.write_text("ab <s> 12 don't")
    out = folder / "out.safetensors"
    out.unlink(missing_ok=True)
    commands = [["logits", model, "--ids", ids, "-o", out, "--exact", "--threads", "1"]]
    if not is_folder:
        commands.append(["tokenize", model, "--json", "-f", text])
    digest = hashlib.sha256()
    errors = ""
    for command in commands:
        done = subprocess.run([program, *map(str, command)], capture_output=True, timeout=120)
        errors += done.stderr.decode(errors="replace")
        if done.returncode:
            return done.returncode, errors, None
        digest.update(done.stdout)
    digest.update(out.read_bytes())
    return 0, errors, digest.hexdigest()


def judge(key, found, usual):
    """What is wrong with it. A shape or a code that does not fit is named by its tensor, not by the key."""
    status, errors, digest = found
    if status < 0 or status >= 128 or status == INTERNAL:
        return f"status {status}: {errors[-200:]!r}"
    if any(ord(c) < 32 and c not in "\n\t" for c in errors):
        return f"control characters in {errors!r}"
    last = key.rsplit(".", 1)[-1]
    if status and last not in errors and not any(word in errors for word in ("tensor ", "field ", "quantization_config", "JSON")):
        return f"an error that does not name the key: {errors.strip()[-200:]}"
    names = {key, last, "ARCH." + key.split(".", 1)[-1]}
    if status == 0 and digest == usual and not names & HARMLESS.keys() and last not in errors:
        return "used silently, or not at all"
    return None


# What files of some architectures have, and those of others may not have unread.
ADDED = {"attention.sliding_window": ("uint32", 8), "attention.sliding_window_pattern": ("uint32", 3), "attention.scale": ("float32", 0.7),
         "attention.temperature_scale": ("float32", 0.3), "logit_scale": ("float32", 0.3), "embedding_scale": ("float32", 3.0),
         "residual_scale": ("float32", 0.4), "attn_logit_softcapping": ("float32", 1.5), "final_logit_softcapping": ("float32", 1.5),
         "rope.freq_base_swa": ("float32", 77.0), "rope.dimension_count": ("uint32", 4), "rope.dimension_sections": ("array", [2, 1, 1, 0]),
         "rope.scaling.yarn_log_multiplier": ("float32", 0.5), "nextn_predict_layers": ("uint32", 1), "expert_count": ("uint32", 4),
         "attention.causal": ("bool", False), "attention.layer_norm_epsilon": ("float32", 0.5), "rope.scaling.finetuned": ("bool", False),
         "attention.layer_norm_rms_epsilon": ("float32", 0.5), "pooling_type": ("uint32", 1), "attention.shared_kv_layers": ("uint32", 1)}


def gguf_changes(rng, count, model, prefix=""):
    """Of the keys with a prefix."""
    cases = [(None, "as it is", dict(model.keys))]
    for key, (kind, value) in ADDED.items() if prefix else ():
        if prefix + key not in model.keys:
            cases.append((prefix + key, "added", {**model.keys, prefix + key: (kind, value)}))
    for key, (kind, value) in model.keys.items():
        if not key.startswith(prefix):
            continue
        cases.append((key, "dropped", {k: v for k, v in model.keys.items() if k != key}))
        others = [v for v in other_values(value, rng) if not (isinstance(v, list) and not v)]
        for other in rng.sample(others, min(count, len(others))):
            cases.append((key, repr(other)[:40], {**model.keys, key: gguf_value(other)}))
    return [(key, what, lambda folder, keys=keys: (model.write(folder / "m.gguf", keys), folder / "m.gguf")[1], False)
            for key, what, keys in cases]


def places(config, path=()):
    """All keys within a configuration."""
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changes_within(config, rng, count):
    """(key, what, changed configuration): each of its keys dropped, and with other values."""
    for place in places(config):
        owner = config
        for key in place[:-1]:
            owner = owner[key]
        value = owner[place[-1]]
        for other in [None, *rng.sample(other_values(value, rng), count)]:
            changed = copy.deepcopy(config)
            target = changed
            for key in place[:-1]:
                target = target[key]
            if other is None:
                del target[place[-1]]
            else:
                target[place[-1]] = other
            yield place[-1], "dropped" if other is None else repr(other)[:40], changed


def bitsandbytes_changes(form, rng, count):
    model = Bitsandbytes(form, np.random.default_rng(rng.randrange(1 << 30)))
    cases = [(None, "as it is", model.config, model.state)]
    for key, what, changed in changes_within(model.config["quantization_config"], rng, count):
        cases.append((key, what, {**model.config, "quantization_config": changed}, model.state))
    for key, what, changed in changes_within(model.state, rng, count) if form != "int8" else ():
        cases.append((key, what, model.config, changed))
    return [(key, what, lambda folder, config=config, state=state: model.write(folder / "m", config, state), True)
            for key, what, config, state in cases]


def folder_changes(source, rng, count):
    name = "config.json"
    config = json.loads((source / name).read_text())
    field = "quantization_config" if "quantization_config" in config else "quantization"
    if field not in config:
        return []
    cases = [(None, "as it is", config)]
    for key, what, changed in changes_within(config[field], rng, count):
        cases.append((key, what, {**config, field: changed}))

    def make(folder, changed):
        shutil.copytree(source, folder / "m")
        (folder / "m" / name).write_text(json.dumps(changed))
        return folder / "m"
    return [(key, what, lambda folder, changed=changed: make(folder, changed), True) for key, what, changed in cases]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--changes", type=int, default=4, help="of a key, besides dropping it")
    parser.add_argument("--only", choices=["gguf", "architectures", "folders", "bitsandbytes"])
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    groups = []
    if arguments.only in (None, "gguf"):
        groups.append(("GGUF", gguf_changes(rng, arguments.changes, Gguf(np.random.default_rng(rng.randrange(1 << 30))))))
    if arguments.only in (None, "architectures"):
        for path in sorted(DATA.glob("gguf/*/model.gguf")):
            model = ReadGguf(path)
            groups.append((path.parent.name, gguf_changes(rng, arguments.changes, model, model.architecture + ".")))
    if arguments.only in (None, "bitsandbytes"):
        groups += [("bitsandbytes " + form, bitsandbytes_changes(form, rng, arguments.changes)) for form in ("nf4", "nested", "fp4", "int8")]
    if arguments.only in (None, "folders"):
        for source in sorted(path.parent for glob in ("compressed_tensors/*/config.json", "field/*/m/config.json") for path in DATA.glob(glob)):
            groups.append((str(source.relative_to(DATA)), folder_changes(source, rng, arguments.changes)))
    wrong = total = 0

    def try_case(case):
        with tempfile.TemporaryDirectory() as folder:
            return run(arguments.program, case[2](pathlib.Path(folder)), pathlib.Path(folder), case[3])
    for name, cases in groups:
        if not cases:
            continue
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(try_case, cases))
        if results[0][0]:
            print(f"{name}: does not run as it is: {results[0][1].strip()[-150:]}")
            wrong += 1
            continue
        for (key, what, _, _), found in zip(cases[1:], results[1:]):
            total += 1
            complaint = judge(key, found, results[0][2])
            if complaint:
                wrong += 1
                print(f"{name}: {key} {what}: {complaint}")
    print(f"{total} changes, {wrong} to look at")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
