"""Numbers of AIR's types by their bits, rounded exactly; and the files in which kernels take them."""
import math
import struct
from fractions import Fraction

from air_module import BITS


def f32(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def number(kind, bits):
    """What the bits of a type say; of integers an unsigned number."""
    if kind == "f32":
        return struct.unpack("<f", struct.pack("<I", bits))[0]
    if kind == "f16":
        return struct.unpack("<e", struct.pack("<H", bits))[0]
    if kind == "bf16":
        return struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    return bits


def signed(bits, width):
    return bits - (1 << width) if bits >> (width - 1) else bits


FORMATS = {"f32": (24, -126, 127), "f16": (11, -14, 15), "bf16": (8, -126, 127)}


def rounded(kind, x):
    """The bits of the format's number nearest to a fraction, ties to even."""
    precision, least, greatest = FORMATS[kind]
    sign = int(x < 0) << (BITS[kind] - 1)
    x = abs(Fraction(x))
    if x == 0:
        return sign
    exponent = max(x.numerator.bit_length() - x.denominator.bit_length() - 1, least)
    while x >= Fraction(2) ** (exponent + 1):
        exponent += 1
    steps = round(x / Fraction(2) ** (exponent - precision + 1))  # Python's rounds ties to even
    infinite = (greatest - least + 2) << (precision - 1)
    bits = steps if exponent == least else steps + ((exponent - least) << (precision - 1))
    return sign | min(bits, infinite)


def is_nan(kind, bits):
    return math.isnan(number(kind, bits))


def write_npy(path, values, kind="u8"):
    codes = {"u8": "Q", "u4": "I", "f4": "f"}
    header = f"{{'descr': '<{kind}', 'fortran_order': False, 'shape': ({len(values)},), }}"
    header = header.ljust(64 - 10 - 1 + (64 if len(header) > 53 else 0)) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        f.write(struct.pack(f"<{len(values)}{codes[kind]}", *values))


def read_npy(path, code):
    with open(path, "rb") as f:
        data = f.read()
    start = 10 + struct.unpack_from("<H", data, 8)[0]
    count = (len(data) - start) // struct.calcsize(code)
    return list(struct.unpack_from(f"<{count}{code}", data, start))
