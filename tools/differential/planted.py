"""Faults planted in a copy of our toolchain, each of which the differential must find."""
import dataclasses
import os
import shutil


@dataclasses.dataclass
class Fault:
    what: str
    file: str      # in tools/msl
    before: str
    after: str
    kernels: tuple  # some that it must change


FAULTS = (
    Fault("simd_shuffle_down takes a lane too far", "include/msl/simd.h", "const uint lane = msl_lane() + delta;",
          "const uint lane = msl_lane() + delta + 1;", ("argmax_float32", "gemv_float32_bm8_bn1_sm1_sn32_tm4_tn4")),
    Fault("floats become bfloat by truncation", "builtins.cpp", "__bf16 __truncsfbf2(float x) {",
          "__bf16 __truncsfbf2(float x) {\n  return __builtin_bit_cast(__bf16, static_cast<unsigned short>("
          "__builtin_bit_cast(unsigned, x) >> 16));", ("copyfloat32bfloat16", "Addbfloat16")),
    Fault("half and bfloat keep float's precision within an expression", "compile.py",
          '"-ffloat16-excess-precision=none"',
          '"-ffloat16-excess-precision=standard"', ("layer_normfloat16", "fft_mem_256_complex32_t_complex32_t")),
    Fault("rows of simdgroup matrices change places", "include/msl/simdgroup_matrix.h",
          "return (lane >> 2 & 4) + (lane >> 1 & 3);", "return (lane >> 2 & 4) + (lane >> 1 & 3 ^ 1);",
          ("steel_gemm_fused_nn_float16_float16_bm32_bn32",)),
    Fault("floats beyond an integer's range wrap", "compile.py", ', "-fno-strict-float-cast-overflow"', "",
          ("copyfloat32uint8", "copyfloat16int16", "copybfloat16uint32")),
    Fault("an inclusive prefix sum is exclusive", "include/msl/simd.h", "return msl_scan(v, T(0), msl_add(), true);",
          "return msl_scan(v, T(0), msl_add(), false);", ("inclusive_sum_int32_int32",
                                                          "inclusive_sum_float32_float32")),
    Fault("the larger of two floats is the smaller", "include/msl/integer.h", "a != a ? b : b != b ? a : a > b ? a : b",
          "a != a ? b : b != b ? a : a > b ? b : a", ("block_softmax_float32", "looped_softmax_float32")),
    Fault("a product and a sum round twice", "compile.py", 'ARITHMETIC = ["-ffp-contract=on"',
          'ARITHMETIC = ["-ffp-contract=off"',
          ("rmsfloat32", "dot_product_float32")),
    Fault("a simdgroup's sum leaves lanes out", "include/msl/simd.h",
          "for (uint step = 1; step < kCount; step *= 2) {\n"
          "      for (uint i = 0; i < kCount; i += 2 * step) values",
          "for (uint step = 1; step < kCount / 2; step *= 2) {\n"
          "      for (uint i = 0; i < kCount; i += 2 * step) values", ("rmsfloat32", "block_softmax_float32")),
    Fault("rint rounds halves away from zero", "include/msl/scalar_math.h", "return __builtin_rintf(x);",
          "return __builtin_roundf(x);", ("Roundfloat32", "Roundfloat16")),
    Fault("a shuffle that fills takes from the group's other end", "include/msl/simd.h",
          "return place < modulo ? a : b;",
          "return place < modulo ? b : a;", ("contig_scan_inclusive_max_uint8_uint8", "contig_scan_exclusive_max_")),
)


def plant(fault, msl, folder):
    """A copy of the toolchain with the fault."""
    copy = os.path.join(folder, "msl")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(msl, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = os.path.join(copy, fault.file)
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if text.count(fault.before) != 1:
        raise ValueError(f"{fault.file} has {text.count(fault.before)} times what is to be changed: {fault.before}")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace(fault.before, fault.after))
    return copy


def telling(results, control):
    """Of the results with a fault those that tell it: they differ, and the same kernel's without it do not. What did not
    run shows nothing."""
    agree = {(r.family, r.kernel) for r in control if not r.message}
    return [r for r in results if r.message and not r.broken and (r.family, r.kernel) in agree]
