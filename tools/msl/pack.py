"""Texts that a program embeds, each compressed by itself, so that one is unpacked at a time (src/base/packed_text.h)."""
import os
import re
import struct
import subprocess
import tempfile

ZSTD = os.environ.get("METAL_MARLIN_ZSTD", "zstd")


def write(path, texts):
    """A table of the texts' places (offset, bytes), as 32-bit words after their number, then their zstd frames."""
    with tempfile.TemporaryDirectory() as folder:
        names = [os.path.join(folder, str(i)) for i in range(len(texts))]
        for name, text in zip(names, texts):
            with open(name, "w", encoding="utf-8") as f:
                f.write(text)
        subprocess.run([ZSTD, "-q", "-15", *names], check=True)
        frames = []
        for name in names:
            with open(name + ".zst", "rb") as f:
                frames.append(f.read())
    table, at = struct.pack("<I", len(frames)), 4 + 8 * len(frames)
    for frame in frames:
        table += struct.pack("<II", at, len(frame))
        at += len(frame)
    with open(path, "wb") as f:
        f.write(table + b"".join(frames))


def kernels(ptx, count):
    """The text of each entry with what all share, so that the driver compiles no more than is used."""
    # An entry ends with the brace at the start of a line.
    parts = re.split(r"(^\.visible \.entry msl_entry_\d+\(.*?^\}\n)", ptx, flags=re.MULTILINE | re.DOTALL)
    entries = {int(re.search(r"msl_entry_(\d+)", parts[i])[1]): i for i in range(1, len(parts), 2)}
    assert sorted(entries) == list(range(count)), "a kernel has no PTX"
    return ["".join(p for i, p in enumerate(parts) if i % 2 == 0 or i == entries[k]) for k in range(count)]
