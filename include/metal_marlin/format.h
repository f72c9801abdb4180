/// \file
/// Names and parameters of the low-bit number formats.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace metal_marlin {

/// Element type of a quantized matrix. Sources: E2M1, E8M0 and MXFP4 from the
/// OCP Microscaling Formats specification v1.0; E4M3 (fn) and E5M2 from the OCP
/// 8-bit Floating Point specification v1.0; NF4 from the QLoRA paper
/// (arXiv 2305.14314); NVFP4 as the `nvfp4-pack-quantized` scheme stores it.
enum class Format : std::uint8_t {
  kFp4,      ///< E2M1 with a floating-point scale per group.
  kMxfp4,    ///< E2M1, E8M0 scale per 32 elements.
  kNvfp4,    ///< E2M1, E4M3 scale per 16 elements, one f32 per tensor.
  kU4,       ///< Unsigned 4-bit integer with a minimum or an integer zero point.
  kS4,       ///< Signed 4-bit integer, [-8, 7].
  kNf4,      ///< 16 quantiles of the normal distribution.
  kNf3,      ///< 8 quantiles.
  kNf2,      ///< 4 quantiles.
  kInt2,     ///< [-2, 1].
  kInt3,     ///< [-4, 3].
  kInt5,     ///< [-16, 15].
  kInt6,     ///< [-32, 31].
  kInt8,     ///< [-128, 127]; the quantizer uses [-127, 127].
  kFp8E4M3,  ///< E4M3fn, largest value 448.
  kFp8E5M2,  ///< E5M2, largest finite value 57344.
  kU5,       ///< Unsigned 5-bit integer with a minimum (GGUF Q5_1, MLX); load only.
  kIq4Nl,    ///< The 16 integer levels of GGUF's IQ4_NL; load only.
  kU2,       ///< Unsigned integers with a minimum or an integer zero (MLX, GPTQ); load only.
  kU3,       ///< As kU2, of 3 bits.
  kU6,       ///< As kU2, of 6 bits.
  kU8,       ///< As kU2, of 8 bits.
};

/// How the scale of a group is stored.
enum class ScaleType : std::uint8_t { kF16, kBf16, kF32, kE8m0, kE4m3 };

/// What, besides the scale, maps a code to a value.
enum class ZeroKind : std::uint8_t {
  kNone,     ///< value = scale * element
  kMinimum,  ///< value = scale * element + minimum, the minimum in the scale's type
  kInteger,  ///< value = scale * (element - zero), the zero packed like a code
};

/// The integers of groups in scales of two levels (GGUF's K-quants), unsigned or signed.
enum class SubScale : std::uint8_t { kNone, kU4, kU6, kS6, kS8 };

/// Inputs of a super-block.
constexpr std::int64_t kSuperBlock = 256;

/// A format with every parameter that the layout of a matrix depends on.
struct FormatSpec {
  Format format = Format::kFp4;
  int group = 32;  ///< Input elements that share a scale; 0 means the whole row.
  ScaleType scale_type = ScaleType::kF16;
  ZeroKind zero = ZeroKind::kNone;
  /// Blocks of inputs that are rotated by a Hadamard matrix over its root, the stored weights with
  /// them: 16, 32, 64 or 128; 0: none. Who multiplies rotates the activations.
  int rotation = 0;
  /// 2:4: of each four neighbours in a row two at most are not zero, and two are stored, with their
  /// positions (arXiv 2104.08378).
  bool sparse = false;
  /// Other than kNone: groups of 16 or 32 have not a scale (and minimum) each but an integer to multiply their
  /// super-block's by; load only.
  SubScale sub_scale = SubScale::kNone;

  bool operator==(const FormatSpec&) const = default;

  /// Elements a group holds in a row of `cols` (the last one may be shorter).
  [[nodiscard]] std::int64_t group_size(std::int64_t cols) const { return group == 0 ? cols : group; }
  /// Groups in a row of `cols`.
  [[nodiscard]] std::int64_t groups(std::int64_t cols) const {
    return cols == 0 ? 0 : (cols + group_size(cols) - 1) / group_size(cols);
  }
  /// Scales of scale_type in a row of `cols`: the groups', or the super-blocks'.
  [[nodiscard]] std::int64_t scales(std::int64_t cols) const {
    return sub_scale == SubScale::kNone ? groups(cols) : (cols + kSuperBlock - 1) / kSuperBlock;
  }
};

/// What is fixed about a format.
struct FormatInfo {
  Format format;
  std::string_view name;   ///< As in `--format` and in files.
  int bits;                ///< Bits of one code.
  bool selectable;         ///< Whether the quantizer offers it.
  std::string_view about;  ///< One line for people.
};

/// All formats, the primary one first.
std::span<const FormatInfo> all_formats();
const FormatInfo& format_info(Format format);

/// \throws Error (kInvalidArgument) naming the known formats.
Format parse_format(std::string_view name);
/// Parses "16", "32", "64", "128" or "row".
int parse_group(std::string_view text);
ScaleType parse_scale_type(std::string_view name);
ZeroKind parse_zero_kind(std::string_view name);
std::string_view scale_type_name(ScaleType type);
std::string_view zero_kind_name(ZeroKind kind);
/// "fp4", "fp4 2:4" of a sparse one, or "u4, scales of two levels".
std::string format_label(const FormatSpec& spec);
/// "row" or the number.
std::string group_name(int group);

/// Whether codes are the integers themselves, so that groups need a minimum or a zero.
bool is_unsigned(Format format);
/// The default parameters of `format`: group 32, f16 scales, but what MXFP4,
/// NVFP4 and the asymmetric formats fix.
FormatSpec default_spec(Format format);
/// \throws Error (kInvalidArgument) when the combination is not one that the
/// format allows, saying which is.
void validate(const FormatSpec& spec);

/// Stored bits per weight of a [rows, cols] matrix: codes, positions, scales, zeros.
double bits_per_weight(const FormatSpec& spec, std::int64_t rows, std::int64_t cols);

}  // namespace metal_marlin
