#!/usr/bin/env python3
"""Runs MLX's kernels compiled by our toolchain beside those that Apple's compiler made of the same text, on the
host executor, over random shapes and data, and compares the results.

The wheel mlx-metal holds both Apple's library and the headers; kernels whose templates are in MLX's .metal files
need a checkout of MLX (METAL_MARLIN_MLX) too. Exit codes: 0 no difference, 1 differences, 2 wrong usage.
"""
import argparse
import dataclasses
import multiprocessing
import multiprocessing.pool
import os
import sys
import tempfile
import zlib

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import families  # noqa: E402,F401
import planted  # noqa: E402
from formats import TYPES, close, distances  # noqa: E402
from host import Fault, Runner, load  # noqa: E402
from registry import FAMILIES, text_of  # noqa: E402
from sides import NotBuilt, Sides  # noqa: E402


@dataclasses.dataclass
class Result:
    family: str
    kernel: str
    runs: int = 0
    elements: int = 0
    ulp: int = 0       # the largest distance
    allowed: int = 0
    near: float = 0
    message: str = ""  # what went wrong, empty for nothing
    broken: bool = False  # it was not built, or not run


def first_difference(apple, ours, name, distance):
    at = int(np.argmax(distance))
    shown = {"bfloat16": np.uint16, "complex64": np.float32}.get(name, TYPES[name][1])
    return f"element {at} is {apple.view(shown)[at]!r} by Apple's compiler, {ours.view(shown)[at]!r} by ours"


def compare_run(result, case, apple, ours):
    for index, name in case.outputs.items():
        distance = distances(apple[index], ours[index], name)
        if result.near:
            is_close = close(apple[index], ours[index], name, result.near)
            distance = np.where(is_close, np.minimum(distance, result.allowed), distance)
        result.elements += len(distance)
        worst = int(distance.max(initial=0))
        result.ulp = max(result.ulp, worst)
        if worst > result.allowed and not result.message:
            wrong = int((distance > result.allowed).sum())
            result.message = (f"run {result.runs}, shape {case.shape}, grid {case.grid}, buffer {index}: {wrong} of "
                              f"{len(distance)} differ, "
                              f"{first_difference(apple[index], ours[index], name, distance)}")


def run_kernel(runner, kernel, libraries, result, runs, seed):
    for run in range(runs):
        rng = np.random.default_rng([seed, run, zlib.crc32(kernel.name.encode())])
        case = kernel.make(rng)
        outputs = []
        for side, library in libraries.items():
            try:
                outputs.append(runner.run(library, kernel.name, case))
            except Fault as fault:
                result.message = f"{side}, run {run}, shape {case.shape}, grid {case.grid}: {fault}"
                return
        if len(outputs) == 2:
            compare_run(result, case, *outputs)
        result.runs += 1


def job(family, kernel, paths, runs, seed, connection):
    """In a process of its own, since a kernel may end it."""
    result = Result(family, kernel.name, allowed=kernel.ulp, near=kernel.near)
    try:
        runner = Runner(paths["runner"])
        libraries = {side: load(paths[side]) for side in ("Apple's", "ours") if side in paths}
        run_kernel(runner, kernel, libraries, result, runs, seed)
    except Exception as e:  # the harness's own fault is a result too
        result.message, result.broken = f"{type(e).__name__}: {e}", True
    connection.send(result)
    os._exit(0)  # Python's own end waits for its streams, which another thread may have held when this process began


def run_apart(family, kernel, paths, runs, seed):
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=job, args=(family, kernel, paths, runs, seed, there))
    process.start()
    there.close()
    try:
        result = here.recv() if here.poll(120) else None
    except EOFError:
        result = None
    if result is None:
        process.kill()
    process.join()
    return result or Result(family, kernel.name, message=f"the kernel's process ended by signal {-process.exitcode}")


def chosen(family, words, most):
    """The kernels that the words name, or `most` by lot, the same each time: those that lie evenly would share what
    takes turns in a family's list."""
    if words:
        return [k for k in family.kernels if any(w in k.name for w in words)]
    drawn = set(sorted((k.name for k in family.kernels), key=lambda name: zlib.crc32(name.encode()))[:most])
    return [k for k in family.kernels if k.name in drawn]


def first_error(exception):
    lines = [line for line in str(exception).strip().split("\n") if line]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no word why")


def lower(sides, names):
    """For each kernel its library of Apple's side, or what kept it from being lowered: all in one, or one by one."""
    try:
        return dict.fromkeys(names, (sides.apple(names), ""))
    except NotBuilt as e:
        if len(names) == 1:
            return {names[0]: (None, f"Apple's kernel is not lowered: {first_error(e)}")}
    return {name: row for one in names for name, row in lower(sides, [one]).items()}


def build(sides, family, kernels, arguments):
    """For each kernel the paths of its libraries, or what kept one from being built."""
    text = text_of(family, kernels, arguments.mlx)
    try:
        ours = {"runner": sides.runner(), "ours": sides.ours(text)}
    except NotBuilt as e:
        return [(k, None, f"our toolchain does not compile the text: {first_error(e)}") for k in kernels]
    if arguments.ours_only:
        return [(k, ours, "") for k in kernels]
    apple = lower(sides, [k.name for k in kernels])
    return [(k, {**ours, "Apple's": apple[k.name][0]} if apple[k.name][0] else None, apple[k.name][1]) for k in kernels]


def work(task):
    """Builds and runs some kernels of one family."""
    arguments, name, names = task
    sides = Sides(arguments.cache, arguments.headers, arguments.metallib, arguments.air, arguments.msl)
    family = FAMILIES[name]
    results = []
    for kernel, paths, message in build(sides, family, [k for k in family.kernels if k.name in names], arguments):
        results.append(Result(name, kernel.name, allowed=kernel.ulp, message=message, broken=True) if paths is None else
                       run_apart(name, kernel, paths, arguments.runs, arguments.seed))
    return results


def tasks(arguments):
    for name, family in FAMILIES.items():
        if arguments.family and name not in arguments.family:
            continue
        if family.metal and not arguments.mlx:
            print(f"{name}: skipped, since {family.metal} is only in a checkout of MLX (METAL_MARLIN_MLX)")
            continue
        names = [k.name for k in chosen(family, arguments.kernel, arguments.most)]
        for begin in range(0, len(names), 12):
            yield arguments, name, names[begin:begin + 12]


def report(results, verbose):
    """A line for each family, and for each kernel that differs."""
    print(f"{'family':20} kernels  runs  elements  largest ulp  differ")
    for name in dict.fromkeys(r.family for r in results):
        rows = [r for r in results if r.family == name]
        bad = [r for r in rows if r.message]
        ulp = max((r.ulp for r in rows if not r.message), default="-")
        print(f"{name:20} {len(rows):7} {sum(r.runs for r in rows):5} {sum(r.elements for r in rows):9} {ulp:>12} "
              f"{len(bad):7}")
        for r in rows if verbose else bad:
            print(f"  {r.kernel}: {r.message[:1500] or f'{r.ulp} ulp'}")
        if any(r.ulp for r in rows) and FAMILIES[name].why:
            print(f"  {FAMILIES[name].why}")
    differ = sum(bool(r.message) for r in results)
    print(f"{len(results)} kernels, {sum(r.runs for r in results)} runs: " +
          (f"{differ} differ" if differ else "no difference but what is stated"))
    return differ


def run_all(arguments, all_tasks):
    results = []
    with multiprocessing.pool.ThreadPool(arguments.jobs) as pool:
        for part in pool.imap_unordered(work, all_tasks):
            results += part
            for r in part:
                said = r.message[:200] or f"{r.runs} runs, {r.ulp} ulp"
                print(f"{r.family} {r.kernel}: {said}", file=sys.stderr, flush=True)
    return sorted(results, key=lambda r: list(FAMILIES).index(r.family))


def run_planted(arguments):
    """For each planted fault whether some kernel's results tell it; the number of faults that none tells, and of their
    kernels that differ without one."""
    def results_with(msl, words):
        changed = argparse.Namespace(**{**vars(arguments), "msl": msl, "kernel": words, "family": None})
        results = run_all(changed, tasks(changed))
        if not results:
            raise ValueError(f"no kernel's name has any of {words}")
        return results

    control = results_with(arguments.msl, [word for fault in planted.FAULTS for word in fault.kernels])
    differ, missed = report(control, arguments.verbose), 0
    for fault in planted.FAULTS:
        with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
            results = results_with(planted.plant(fault, arguments.msl, folder), fault.kernels)
        found = planted.telling(results, control)
        missed += not found
        print(f"{'found' if found else 'MISSED'}: {fault.what} ({len(found)} of {len(results)} kernels differ"
              f"{', such as ' + found[0].kernel if found else ''})")
        if found:
            print(f"  {found[0].message[:300]}")
    print(f"{len(planted.FAULTS) - missed} of {len(planted.FAULTS)} planted faults found; without them "
          f"{len(control) - differ} of their {len(control)} kernels agree")
    return missed + differ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", required=True, help="the unpacked wheel of mlx-metal")
    parser.add_argument("--mlx", default=os.environ.get("METAL_MARLIN_MLX"), help="a checkout of MLX")
    parser.add_argument("--air", help="the program metal-marlin-air")
    parser.add_argument("--ours-only", action="store_true", help="run our side alone")
    parser.add_argument("--family", action="append", help="only this family")
    parser.add_argument("--kernel", action="append", help="only kernels whose name has this in it")
    parser.add_argument("--most", type=int, default=24, help="kernels of a family")
    parser.add_argument("--runs", type=int, default=3, help="of each kernel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--cache", default="build/differential", help="folder of what was compiled")
    parser.add_argument(
    "--msl",
    default=os.path.join(
        os.path.dirname(
            os.path.dirname(
                os.path.abspath(__file__))),
                "msl"),
                 help="the toolchain to compare")
    parser.add_argument("--planted", action="store_true", help="show that faults planted in our toolchain are found")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    arguments.headers = os.path.join(arguments.wheel, "mlx/include")
    arguments.metallib = os.path.join(arguments.wheel, "mlx/lib/mlx.metallib")
    arguments.cache = os.path.abspath(arguments.cache)
    if not arguments.air and not arguments.ours_only:
        parser.error("--air is needed for Apple's side")
    Sides(arguments.cache, arguments.headers, arguments.metallib, arguments.air, arguments.msl).runner()
    if arguments.planted:
        return 1 if run_planted(arguments) else 0
    return 1 if report(run_all(arguments, tasks(arguments)), arguments.verbose) else 0


if __name__ == "__main__":
    sys.exit(main())
