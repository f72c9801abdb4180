#!/usr/bin/env python3
"""Writes what offgrid_model made of a Llama GGUF file as an f32 GGUF file, for programs that read no other
form: the metadata of the first, the weights of the folder.

Usage: benchmarks/offgrid_gguf.py SOURCE.gguf offgrid OUT.gguf
"""
import argparse
import json
import os
import struct
import sys

ALIGNMENT = 32
SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes by type
STRING, ARRAY = 8, 9
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def skip_string(self):
        size = self.number("Q")
        self.at += size

    def skip_value(self, kind):
        if kind == STRING:
            self.skip_string()
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in SCALARS:
                self.at += SCALARS[inner] * count
            else:
                for _ in range(count):
                    self.skip_value(inner)
        else:
            self.at += SCALARS[kind]


def metadata_of(path):
    """The number of key-values and their bytes."""
    with open(path, "rb") as f:
        reader = Reader(f.read(64 << 20))
    if reader.data[:4] != b"GGUF":
        sys.exit(f"{path}: not a GGUF file")
    reader.at = 16
    count = reader.number("Q")
    begin = reader.at
    for _ in range(count):
        reader.skip_string()
        reader.skip_value(reader.number("I"))
    return count, reader.data[begin:reader.at]


def gguf_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def interleaved(data, rows, head_dim):
    """Rows of each head's halves in turn, as GGUF has q and k of this architecture."""
    size = len(data) // rows
    order = [head + half * (head_dim // 2) + i for head in range(0, rows, head_dim) for i in range(head_dim // 2) for half in range(2)]
    return b"".join(data[r * size:(r + 1) * size] for r in order)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("folder")
    parser.add_argument("out")
    options = parser.parse_args()
    count, values = metadata_of(options.source)
    with open(os.path.join(options.folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    with open(os.path.join(options.folder, "model.safetensors"), "rb") as f, open(options.out + ".partial", "wb") as out:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        base = f.tell()
        tensors = sorted((n, t) for n, t in header.items() if n != "__metadata__")
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + values)
        offset = 0
        for name, tensor in tensors:
            raw, shape = gguf_name(name).encode(), tensor["shape"]
            out.write(struct.pack("<Q", len(raw)) + raw + struct.pack("<I", len(shape)))
            out.write(struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", 0, offset))
            begin, end = tensor["data_offsets"]
            offset += (end - begin + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        for name, tensor in tensors:
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            begin, end = tensor["data_offsets"]
            f.seek(base + begin)
            data = f.read(end - begin)
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                data = interleaved(data, tensor["shape"][0], head_dim)
            out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(options.out + ".partial", options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
