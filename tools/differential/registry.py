"""Families of kernels: what text instantiates them, and how MLX dispatches them."""
import dataclasses

KERNELS = "mlx/backend/metal/kernels/"
FAMILIES = {}


@dataclasses.dataclass
class Kernel:
    name: str      # in the metallib
    function: str  # with its template arguments
    make: object   # a Case of random data, from numpy's generator
    ulp: int = 0   # how far elements of the results may lie apart, in units of the last place
    near: float = 0  # or as parts of the largest result, where differences of alike values are left


@dataclasses.dataclass
class Family:
    name: str
    headers: tuple  # of the wheel, in kernels/
    metal: str      # the file in kernels/ that defines the templates, if no header does
    why: str        # why results may lie apart, if they may
    kernels: list


def family(name, *headers, metal=None, why=""):
    """Registers what a function yields: its kernels."""
    def register(generate):
        FAMILIES[name] = Family(name, headers, metal, why, list(generate()))
        return generate
    return register


def _without_instances(text):
    """A .metal file without the lines that instantiate its templates."""
    out, skipping, defining = [], 0, False
    for line in text.split("\n"):
        starts = not defining and line.lstrip().startswith("instantiate_")
        defining = line.rstrip().endswith("\\") and (defining or line.lstrip().startswith("#"))
        if starts or skipping:
            skipping += line.count("(") - line.count(")")
            out.append("")
        else:
            out.append(line)
    return "\n".join(out)


def text_of(family_, kernels, mlx):
    """The text that instantiates just these kernels, or None where it needs a checkout of MLX and there is none."""
    if family_.metal:
        if not mlx:
            return None
        with open(f"{mlx}/{KERNELS}{family_.metal}", encoding="utf-8") as f:
            out = [_without_instances(f.read())]
    else:
        out = ["#include <metal_stdlib>", "#include <metal_simdgroup>", "using namespace metal;"]
        out += [f'#include "{KERNELS}{h}"' for h in family_.headers]
    for kernel in kernels:
        if "<" in kernel.function:
            out.append(f'template [[host_name("{kernel.name}")]] [[kernel]] decltype({kernel.function}) '
                       f'{kernel.function};')
    return "\n".join(out) + "\n"
