#!/usr/bin/env python3
"""Mutation check of the Metal device: each mutant, a plausible mistake, must break one of Metal's rules
(tests/backends/msl/metal_stub/rules.h) in the device's tests, and that rule. Needs the built tests.

  check_metal_mutants.py [--build DIR]
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile

# (file, what stands there, what the mutant has, the rule that it breaks)
MUTANTS = [
    ("metal_commands.cpp", "  if (launch.waits) encoder->memoryBarrier(MTL::BarrierScopeBuffers);\n", "", "barrier"),
    ("metal_commands.cpp", "argument.read_only == 0", "false", "barrier"),
    ("metal_commands.cpp", "begin + buffer.size()", "begin + bound->offset + 1", "barrier"),
    ("barriers.cpp", "a.writes || b.writes", "a.writes && b.writes", "barrier"),
    ("barriers.cpp", "a.begin < b.end && b.begin < a.end", "a.begin == b.begin", "barrier"),
    ("barriers.cpp", "  if (waits) begun_.clear();\n", "  begun_.clear();\n", "barrier"),
    ("metal_commands.cpp", "    if (queue_->fence_updated) encoder->waitForFence(queue_->fence.get());\n", "", "fence"),
    ("metal_commands.cpp", "    encoder->updateFence(queue_->fence.get());\n", "", "fence"),
    ("metal_commands.cpp", "  ~Encoder() { encoder_->endEncoding(); }\n", "", "encoder's life"),
    ("metal_commands.cpp", "for (const Running& running : running_) running.buffer->waitUntilCompleted();", "", "freed in flight"),
    ("metal_commands.cpp", "encoder_(NS::RetainPtr(", "encoder_(NS::TransferPtr(", "released too often"),
    ("metal_commands.cpp", "return NS::RetainPtr(buffer);", "return NS::TransferPtr(buffer);", "use after release"),
    ("metal_commands.cpp", "  const auto pool = scoped_pool();\n  const std::lock_guard", "  const std::lock_guard", "autorelease pool"),
    ("metal_commands.cpp", "setRetainedReferences(false)", "setRetainedReferences(true)", "command buffer's life"),
    ("metal_commands.cpp", "  if (memory > most)\n", "  if (memory > 2 * most)\n", "threadgroup memory"),
    ("metal_commands.cpp", "setThreadgroupMemoryLength(round_up_16(bytes), index)", "setThreadgroupMemoryLength(bytes, index)",
     "threadgroup memory"),
    ("metal_commands.cpp", "threads > state.maxTotalThreadsPerThreadgroup()", "threads > 1024", "threads of a threadgroup"),
    ("metal_commands.cpp", "bytes.size() <= kInlineBytes", "bytes.size() <= 2 * kInlineBytes", "bytes by value"),
    ("metal_commands.cpp", "launches_.empty() || work_ + work > limit", "launches_.empty()", "work of a command buffer"),
    ("metal_commands.cpp", "    if (kernel.arguments[i].kind == kMslBuffer) bind(", "    if (i != 1) bind(", "argument"),
    ("metal_memory.cpp", "kAlignment = 256", "kAlignment = 1", "offset's alignment"),
    ("metal_memory.cpp", "free_.emplace(begin + bytes, end)", "free_.emplace(begin + bytes / 2, end)", "freed in flight"),
    ("metal_memory.cpp", "  residency_->add(*buffer_.get());\n", "", "residency"),
    ("metal_memory.cpp", "  residency_->remove(*buffer_.get());\n", "", "residency"),
    ("metal_memory.cpp", "  if (!macos_at_least(15)) return;\n", "", "availability"),
    ("metal_memory.cpp", "buffer = NS::TransferPtr(device_->newBuffer", "buffer = NS::RetainPtr(device_->newBuffer", "leak"),
    ("metal_memory.cpp", "bytes > device_->maxBufferLength()", "false", "memory"),
    ("metal_memory.cpp", "bytes > available()", "false", "memory"),
    ("metal_library.cpp", "    out->setConstantValue(", "    if (constants.contains(constant.index)) out->setConstantValue(",
     "function constant"),
    ("metal_library.cpp", "MTL::MathModeSafe", "MTL::MathModeFast", "compilation"),
    ("metal_library.cpp", "if (macos_at_least(15))", "if (true)", "availability"),
    ("gpu_cores.cpp", "  CFRelease(value);\n", "", "leak"),
]


def linking(build):
    """The command that links the tests."""
    commands = subprocess.run(["ninja", "-C", build, "-t", "commands", "tests/metal_marlin_tests"], check=True,
                              capture_output=True, text=True).stdout
    last = commands.strip().split("\n")[-1]
    return shlex.split(next(part for part in last.split(" && ") if " -o tests/metal_marlin_tests" in part))


class Build:
    def __init__(self, root, build, folder):
        self.root, self.build, self.folder = root, build, folder
        with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
            self.compiling = {os.path.realpath(os.path.join(c["directory"], c["file"])): c for c in json.load(f)}
        self.link = linking(build)

    def tests_of(self, name, text):
        """What the device's tests say when this is the file's text."""
        mutant = os.path.join(self.folder, name)
        with open(mutant, "w", encoding="utf-8") as f:
            f.write(text)
        entry = self.compiling[os.path.join(self.root, "src/backends/msl/metal", name)]
        command = shlex.split(entry["command"])
        source, output = command.index("-c") + 1, command.index("-o") + 1
        made, program = mutant + ".o", os.path.join(self.folder, "tests")
        linking_it = [made if part == command[output] else part for part in self.link]
        linking_it[linking_it.index("-o") + 1] = program
        command[source], command[output] = mutant, made
        for step in (command + ["-Wno-error"], linking_it):
            result = subprocess.run(step, cwd=self.build, capture_output=True, text=True)
            if result.returncode != 0:
                sys.exit(f"{name}: the mutant does not build\n{result.stderr}")
        result = subprocess.run([program, "--gtest_filter=MetalDevice.*"], capture_output=True, text=True, timeout=300)
        return result.returncode, result.stdout + result.stderr


def main():
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), ".."))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(root, "build/release"))
    arguments = parser.parse_args()
    escaped = 0
    with tempfile.TemporaryDirectory() as folder:
        build = Build(root, arguments.build, folder)
        for name, old, new, rule in MUTANTS:
            with open(os.path.join(root, "src/backends/msl/metal", name), encoding="utf-8") as f:
                text = f.read()
            if text.count(old) != 1:
                sys.exit(f"{name}: {text.count(old)} places have {old!r}, expected 1")
            status, said = build.tests_of(name, text.replace(old, new))
            caught = status != 0 and f"Metal's rules, {rule}: " in said
            escaped += not caught
            print("caught " if caught else "ESCAPED", f"{name}: {old.strip()[:70]!r}, by: {rule}", flush=True)
    print(f"{len(MUTANTS) - escaped} of {len(MUTANTS)} mutants of the Metal device caught by the rule they break")
    sys.exit(1 if escaped else 0)


if __name__ == "__main__":
    main()
