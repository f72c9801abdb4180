"""A small model to talk to: a fixture's weights, a tokenizer of bytes and of terminals' escapes, a chat template."""
import json
import pathlib
import shutil

TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if think %}<think>
{% endif %}{% endif %}{# </think> #}"""


def letters_of_bytes():
    """Byte-level BPE's letter of each byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in kept}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(kept))
    return letters


def make_chat_model(fixture, folder):
    folder = pathlib.Path(folder)
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(pathlib.Path(fixture) / name, folder / name)
    letters = letters_of_bytes()
    vocabulary = {letter: byte for byte, letter in letters.items()}
    for i in range(256, 510):
        vocabulary[f"{letters[27]}[{i}m"] = i  # what a terminal must not get
    special = [{"id": 510 + i, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False} for i, text in enumerate(("<|im_start|>", "<|im_end|>"))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    (folder / "tokenizer.json").write_text(json.dumps({
        "added_tokens": special, "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        "pre_tokenizer": level}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder
