"""A kernel's dispatch, and its runs on the host executor."""
import ctypes
import dataclasses

import numpy as np

from formats import raw

GUARD = 256  # bytes behind each buffer that no kernel may write


@dataclasses.dataclass
class Case:
    """buffers: by index, arrays (numpy's, or those of formats.py); outputs: indices of the buffers that
    the kernel writes, with the format that their elements have."""
    grid: tuple  # of threads
    group: tuple
    buffers: dict
    outputs: dict
    threadgroups: dict = dataclasses.field(default_factory=dict)
    constants: dict = dataclasses.field(default_factory=dict)
    shape: str = ""


class _Bytes(ctypes.Structure):
    _fields_ = [("index", ctypes.c_uint32), ("size", ctypes.c_uint32), ("data", ctypes.c_void_p)]


class Fault(Exception):
    pass


def _bytes(arrays):
    rows = (_Bytes * max(1, len(arrays)))()
    for row, (index, (size, pointer)) in zip(rows, sorted(arrays.items())):
        row.index, row.size, row.data = index, size, pointer
    return rows, len(arrays)


def _aligned(content):
    """Memory of some bytes, aligned for any vector, and what lies behind them."""
    memory = np.full(len(content) + GUARD + 64, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64
    memory[start:start + len(content)] = content
    return memory[start:start + len(content) + GUARD]


class Runner:
    def __init__(self, path):
        self._run = ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL).differential_run
        self._run.restype = None

    def run(self, library, kernel, case):
        """The outputs' bytes after a run, by index. What must not change did not, or it is a Fault."""
        before = {i: raw(a) for i, a in case.buffers.items()}
        memory = {i: _aligned(b) for i, b in before.items()}
        constants = {i: np.frombuffer(np.asarray(v).tobytes(), np.uint8).copy() for i, v in case.constants.items()}
        buffers = _bytes({i: (len(before[i]), m.ctypes.data) for i, m in memory.items()})
        threadgroups = _bytes({i: (size, None) for i, size in case.threadgroups.items()})
        values = _bytes({i: (len(v), v.ctypes.data) for i, v in constants.items()})
        size3 = ctypes.c_uint32 * 3
        message = ctypes.create_string_buffer(1000)
        self._run(ctypes.byref(library), kernel.encode(), size3(*case.grid), size3(*case.group), *buffers,
                  *threadgroups, *values, message, ctypes.c_size_t(1000))
        if message.value:
            raise Fault(message.value.decode())
        for i, m in memory.items():
            if (m[len(before[i]):] != 0xA5).any():
                raise Fault(f"wrote behind the end of buffer {i}")
            if i not in case.outputs and (m[:len(before[i])] != before[i]).any():
                raise Fault(f"wrote buffer {i}, which it reads only")
        return {i: memory[i][:len(before[i])] for i in case.outputs}


def load(path):
    return ctypes.c_char.in_dll(ctypes.CDLL(path), "msl_library")
