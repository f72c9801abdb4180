#!/usr/bin/env python3
"""Quantizes a model within a limit of memory, once at a stretch and once killed several times on the way, and
compares the bytes; then writes text with the result from two processes, which must agree. Prints what it took.

Example: tools/check_large_quantize.py --binary build/release/bin/metal-marlin --model slice --calibration text.txt \\
    --memory 3GiB -- --recipe glm-4.7-flash --method gptq
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time


def peak_memory(process, peaks):
    """Bytes of resident memory at most, as the kernel counts them."""
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status", encoding="utf-8") as f:
                found = re.search(r"VmHWM:\s*(\d+) kB", f.read())
            if found:
                peaks.append(int(found.group(1)) * 1024)
        except OSError:
            return
        time.sleep(0.5)


def start(command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peaks = []
    watcher = threading.Thread(target=peak_memory, args=(process, peaks))
    watcher.start()
    return process, peaks, watcher


def digests(folder):
    out = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            with open(os.path.join(folder, name), "rb") as f:
                out[name] = hashlib.file_digest(f, "sha256").hexdigest()
    return out


def generated(options):
    """Token ids that the result writes, by itself and loaded again."""
    command = [options.binary, "generate", options.out + "-whole", "-p", "The marlin is a fish that", "-n", "16", "--ignore-eos",
               "--temperature", "0", "--json"]
    runs = []
    for _ in range(2):
        begin = time.time()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr[-2000:])
        runs.append(json.loads(done.stdout)["tokens"])
        print(f"generated 16 tokens, {time.time() - begin:.1f} s with loading", flush=True)
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--memory", default="3GiB")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="that a run at a stretch took, whose result is there")
    parser.add_argument("--out", default="quantized")
    parser.add_argument("options", nargs="*", help="of quantize, after --")
    options = parser.parse_args()
    command = [options.binary, "quantize", options.model, "--calibration", options.calibration, "--memory", options.memory, *options.options]
    if options.seconds is None:
        begin = time.time()
        process, peaks, watcher = start([*command, "-o", options.out + "-whole", "--overwrite"])
        errors = process.communicate()[1]
        watcher.join()
        if process.returncode != 0:
            sys.exit(errors[-3000:])
        options.seconds, peak = time.time() - begin, max(peaks)
        print(f"at a stretch: {options.seconds:.0f} s, {peak / 2**30:.2f} GiB resident at most, of {options.memory} allowed", flush=True)
    else:
        peak = 0
    most = [peak]
    for kill in range(options.kills + 1):
        process, peaks, watcher = start([*command, "-o", options.out + "-killed", "--overwrite"])
        begin = time.time()
        if kill < options.kills:
            try:
                process.wait(0.9 * options.seconds / options.kills)
                sys.exit(f"ended by itself with {process.returncode} before it was killed: {process.stderr.read()[-2000:]}")
            except subprocess.TimeoutExpired:
                process.kill()
        errors = process.communicate()[1]
        watcher.join()
        most.append(max(peaks))
        went_on = re.findall(r"with (\d+ of \d+ tensors) done", errors)
        print(f"run {kill + 1}: went on with {went_on[-1] if went_on else 'nothing'} done, "
              f"{'killed' if kill < options.kills else 'ended'} after {time.time() - begin:.0f} s, {max(peaks) / 2**30:.2f} GiB", flush=True)
        if kill == options.kills and process.returncode != 0:
            sys.exit(errors[-3000:])
    same = digests(options.out + "-whole") == digests(options.out + "-killed")
    print("the bytes are the same" if same else "THE BYTES DIFFER")
    limit = int(float(re.match(r"[\d.]+", options.memory).group()) * 2**30)
    fits = max(most) <= limit
    print(f"{max(most) / 2**30:.2f} GiB at most: {'within' if fits else 'MORE THAN'} {options.memory}")
    shutil.rmtree(options.out + "-killed")
    first, second = generated(options)
    reloads = first == second and len(first) > 0
    print("loaded again, it writes the same" if reloads else f"LOADED AGAIN, IT WRITES {second!r} FOR {first!r}")
    return 0 if same and fits and reloads else 1


if __name__ == "__main__":
    sys.exit(main())
