// Element codecs: which real number each code of a format stands for, and
// which code is nearest to a number. Tables are exact; scales are not applied.
//
// NormalFloat (NF4, NF3, NF2), after the QLoRA paper (arXiv 2305.14314, section
// 3 and its released code): with n = 2^bits codes, the levels are quantiles of
// the standard normal distribution, taken separately for the two halves so that
// zero is a level, and divided by the largest. The outermost probability is the
// mean of the two that would cut off half a bin at n and at n - 1 levels,
//     p_max = ((1 - 1/(2n)) + (1 - 1/(2(n-1)))) / 2,
// the positive half holds Q(p) for n/2 + 1 probabilities evenly spaced from
// p_max to 1/2, the negative half -Q(p) for n/2 of them; the 1/2 of each half
// is the shared level 0. For 4 bits this gives the published NF4 table; 3 and 2
// bits follow by the same formula.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "metal_marlin/format.h"

namespace metal_marlin {

// 2^bits values, indexed by code. Integer formats use offset binary:
// code = value + 2^(bits-1), so that zero is the middle code; u4 and u5 are
// their own value. FP8 tables hold NaN and (E5M2) infinity where the format does.
std::span<const float> decode_table(Format format);

// Nearest code. Ties go to the even code of FP4, FP8 and integers and to the
// lower level of table formats. Out of range (and infinity) saturates to the
// largest finite value; NaN becomes NaN in FP8 and the code of zero elsewhere.
std::uint8_t encode(Format format, float value);

// The code whose value is zero (for u4 and u5: code 0).
std::uint8_t zero_code(Format format);

// Widths of the planes, low bits first, that kernel layouts cut codes of 3, 5 or 6
// bits into, so that each divides a word; 0: none.
std::array<int, 2> code_planes(int bits);

// Rounds every x[i] to the nearest element value of `format` (not the code),
// in a form that compilers vectorize. x must be finite.
void round_to_elements(Format format, std::span<const float> x, float* rounded);

}  // namespace metal_marlin
