#!/usr/bin/env python3
"""Makes tests/data/vision.safetensors: what Pillow makes of an image.

Needs: pillow==11.0.0 numpy
Usage: make_vision_vectors.py FILE
"image" u8 [37, 53, 3] and "image4" u8 [9, 7, 4]; "grey" u8 [37, 53]; for each filter and size
"FILTER/HEIGHTxWIDTH" u8 [HEIGHT, WIDTH, 3].
"""
import json
import struct
import sys

import numpy
from PIL import Image

random = numpy.random.default_rng(3)
y, x = numpy.mgrid[0:37, 0:53]
waves = [127 + 120 * numpy.sin(x / a + y / b) for a, b in ((3.0, 7.0), (11.0, 2.5), (5.0, -4.0))]
image = numpy.clip(numpy.stack(waves, -1) + random.normal(0, 25, (37, 53, 3)), 0, 255).astype(numpy.uint8)
image[5:9, 10:20] = 255  # edges that cubics overshoot
image[20:24, 30:33] = 0
tensors = {"image": image, "image4": random.integers(0, 256, (9, 7, 4)).astype(numpy.uint8),
           "grey": numpy.asarray(Image.fromarray(image).convert("L"))}
for name, kind in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC), ("area", Image.BOX), ("lanczos", Image.LANCZOS)):
    for height, width in ((37, 53), (56, 84), (14, 28), (7, 100), (74, 5), (1, 1)):
        tensors[f"{name}/{height}x{width}"] = numpy.asarray(Image.fromarray(image).resize((width, height), kind))
header, at = {}, 0
for name, value in tensors.items():
    header[name] = {"dtype": "U8", "shape": list(value.shape), "data_offsets": [at, at + value.size]}
    at += value.size
text = json.dumps(header).encode()
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(value.tobytes() for value in tensors.values()))
