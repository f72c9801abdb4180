"""Elements of buffers: random ones, and how far two results lie apart."""
import numpy as np

# name in MLX: (type in its kernels, numpy's type of the same width)
TYPES = {
    "bool_": ("bool", np.bool_), "uint8": ("uint8_t", np.uint8), "uint16": ("uint16_t", np.uint16),
    "uint32": ("uint32_t", np.uint32), "uint64": ("uint64_t", np.uint64), "int8": ("int8_t", np.int8),
    "int16": ("int16_t", np.int16), "int32": ("int32_t", np.int32), "int64": ("int64_t", np.int64),
    "float16": ("half", np.float16), "float32": ("float", np.float32), "bfloat16": ("bfloat16_t", np.uint16),
    "complex64": ("complex64_t", np.complex64),
}
FLOATS = {"float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23)}  # bits of exponent and fraction


def raw(array):
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def bfloat16(x):
    """The nearest, ties to even, as the bits of uint16."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(np.asarray(x, np.float32)), np.uint16(0x7FC0), rounded)


def floats(x, name):
    """Values as elements of a format of floats."""
    return bfloat16(x) if name == "bfloat16" else np.asarray(x, TYPES[name][1])


def normal(rng, name, count, scale=1.0):
    """Elements as networks have them: normal, or small integers."""
    kind = TYPES[name][1]
    if name in FLOATS:
        return floats(rng.standard_normal(count, np.float32) * np.float32(scale), name)
    if name == "complex64":
        return (rng.standard_normal(count) + 1j * rng.standard_normal(count)).astype(np.complex64) * np.float32(scale)
    if name == "bool_":
        return rng.integers(0, 2, count).astype(np.bool_)
    low = 0 if np.iinfo(kind).min == 0 else -8
    return rng.integers(low, 9, count).astype(kind)


def any_bits(rng, name, count):
    """Elements of any value, with infinities, NaN, subnormals, zeros and extremes among them."""
    kind = TYPES[name][1]
    if name == "bool_":
        return rng.integers(0, 2, count).astype(np.bool_)
    if name == "complex64":
        return any_bits(rng, "float32", 2 * count).view(np.complex64)
    bits = rng.integers(0, 256, count * np.dtype(kind).itemsize, np.uint8).view(kind).copy()
    edges = edge_values(name)
    places = rng.random(count)
    out = np.where(places < 0.35, rng.choice(edges, count), bits)
    if name in FLOATS:
        out = np.where(places > 0.6, normal(rng, name, count, 3.0), out)
    return out.astype(kind)


def edge_values(name):
    kind = TYPES[name][1]
    if name in FLOATS:
        exponent, fraction = FLOATS[name]
        top = ((1 << exponent) - 1) << fraction
        one = ((1 << (exponent - 1)) - 1) << fraction
        bits = [0, 1, (1 << fraction) - 1, 1 << fraction, one, one + 1,
                       one - 1, top - 1, top, top | 1 << (fraction - 1)]
        sign = 1 << (exponent + fraction)
        word = np.uint32 if name == "float32" else np.uint16
        return np.array(bits + [b | sign for b in bits], word).view(kind)
    info = np.iinfo(kind)
    return np.array([info.min, info.min + 1, 0, 1, 2, 7, info.max - 1, info.max], kind)


def distances(a, b, name):
    """Units in the last place between the elements of two buffers; two NaN are the same."""
    if name == "complex64":
        name = "float32"
    if name not in FLOATS:
        kind = np.dtype(TYPES[name][1])
        unsigned = np.dtype(f"u{kind.itemsize}")
        return np.where(a.view(unsigned) == b.view(unsigned), 0, np.iinfo(np.int64).max)
    exponent, fraction = FLOATS[name]
    word = np.uint32 if name == "float32" else np.uint16
    sign = 1 << (exponent + fraction)

    def ordered(x):
        bits = x.view(word).astype(np.int64)
        return np.where(bits >= sign, sign - bits, bits), (bits & (sign - 1)) > ((1 << exponent) - 1) << fraction

    (x, x_nan), (y, y_nan) = ordered(a), ordered(b)
    # A zero and its negative lie one apart, so that they are told from each other.
    apart = np.abs(x - y) + ((a.view(word).astype(np.int64) ^ b.view(word).astype(np.int64)) == sign) * (np.abs(x) == 0)
    return np.where(x_nan & y_nan, 0, np.where(x_nan | y_nan, np.iinfo(np.int64).max, apart))


def wide(bits, name):
    """Elements of a format of floats as doubles."""
    if name == "bfloat16":
        return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(np.float32 if name == "complex64" else TYPES[name][1]).astype(np.float64)


def close(a, b, name, part):
    """Where two results lie within a part of the largest finite one."""
    x, y = wide(a, name), wide(b, name)
    largest = np.abs(np.where(np.isfinite(x), x, 0)).max(initial=0)
    with np.errstate(invalid="ignore"):
        return np.abs(x - y) <= part * largest
