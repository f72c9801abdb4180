"""Shapes, strides and grids as MLX's host code makes them."""
import numpy as np


def group_of(grid, limit=256):
    """Threads of a threadgroup: a power of two in each dimension, most in the first."""
    out, left = [], limit
    for n in grid:
        size = 1
        while size < n and size * 2 <= left:
            size *= 2
        out.append(size)
        left //= size
    return tuple(out)


def ceildiv(a, b):
    return -(-a // b)


def i32(*values):
    return np.array(values, np.int32)


def i64(*values):
    return np.array(values, np.int64)


def u32(*values):
    return np.array(values, np.uint32)


def f32(*values):
    return np.array(values, np.float32)


def shape_of(rng, ndim, most=9):
    return [int(n) for n in rng.integers(1, most, ndim)]


def strides_of(rng, shape):
    """Of an array of some larger, permuted one: strides, and how many elements it has."""
    order = list(rng.permutation(len(shape)))
    strides, step = [0] * len(shape), 1
    for axis in order:
        if rng.random() < 0.15:
            continue  # broadcast
        strides[axis] = step
        step *= shape[axis] + int(rng.integers(0, 3))
    return strides, 1 + sum((n - 1) * s for n, s in zip(shape, strides))


def dense(shape):
    strides, step = [], 1
    for n in reversed(shape):
        strides.insert(0, step)
        step *= n
    return strides
