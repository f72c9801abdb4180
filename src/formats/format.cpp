#include "metal_marlin/format.h"

#include <fmt/format.h>

#include <array>

#include "formats/packed_matrix.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<FormatInfo, 21> kFormats{{
    {Format::kFp4, "fp4", 4, true, "E2M1 float, floating-point group scale"},
    {Format::kMxfp4, "mxfp4", 4, true, "E2M1 float, E8M0 scale per 32 (OCP MX)"},
    {Format::kNvfp4, "nvfp4", 4, true, "E2M1 float, E4M3 scale per 16, f32 per tensor"},
    {Format::kU4, "u4", 4, true, "unsigned integer with minimum or zero point"},
    {Format::kS4, "s4", 4, true, "signed integer"},
    {Format::kNf4, "nf4", 4, true, "16 normal quantiles (QLoRA)"},
    {Format::kNf3, "nf3", 3, true, "8 normal quantiles"},
    {Format::kNf2, "nf2", 2, true, "4 normal quantiles"},
    {Format::kInt2, "int2", 2, true, "signed integer"},
    {Format::kInt3, "int3", 3, true, "signed integer"},
    {Format::kInt5, "int5", 5, true, "signed integer"},
    {Format::kInt6, "int6", 6, true, "signed integer"},
    {Format::kInt8, "int8", 8, true, "signed integer"},
    {Format::kFp8E4M3, "fp8-e4m3", 8, true, "E4M3fn float"},
    {Format::kFp8E5M2, "fp8-e5m2", 8, true, "E5M2 float"},
    {Format::kU5, "u5", 5, false, "unsigned integer with minimum or zero point"},
    {Format::kIq4Nl, "iq4nl", 4, false, "16 integer levels (GGUF IQ4_NL)"},
    {Format::kU2, "u2", 2, false, "unsigned integer with minimum or zero point"},
    {Format::kU3, "u3", 3, false, "unsigned integer with minimum or zero point"},
    {Format::kU6, "u6", 6, false, "unsigned integer with minimum or zero point"},
    {Format::kU8, "u8", 8, false, "unsigned integer with minimum or zero point"},
}};

struct ScaleName {
  ScaleType type;
  std::string_view name;
};
constexpr std::array<ScaleName, 5> kScaleNames{{{ScaleType::kF16, "f16"},
                                                {ScaleType::kBf16, "bf16"},
                                                {ScaleType::kF32, "f32"},
                                                {ScaleType::kE8m0, "e8m0"},
                                                {ScaleType::kE4m3, "e4m3"}}};

[[noreturn]] void reject(const FormatSpec& spec, std::string_view field, std::string_view found,
                         std::string_view expected) {
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("format {}: {} is {}, expected {}", format_info(spec.format).name, field, found, expected));
}

}  // namespace

std::span<const FormatInfo> all_formats() {
  return kFormats;
}

const FormatInfo& format_info(Format format) {
  return kFormats.at(static_cast<std::size_t>(format));
}

Format parse_format(std::string_view name) {
  std::string known;
  for (const FormatInfo& info : kFormats) {
    if (info.name == name) return info.format;
    if (info.selectable) known += fmt::format("{}{}", known.empty() ? "" : ", ", info.name);
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("unknown format '{}'; known formats: {}", name, known));
}

int parse_group(std::string_view text) {
  if (text == "row") return 0;
  for (const int group : {16, 32, 64, 128}) {
    if (text == std::to_string(group)) return group;
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("group is '{}', expected 16, 32, 64, 128 or row", text));
}

ScaleType parse_scale_type(std::string_view name) {
  for (const ScaleName& entry : kScaleNames) {
    if (entry.name == name) return entry.type;
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("scale type is '{}', expected f16, bf16 or f32", name));
}

ZeroKind parse_zero_kind(std::string_view name) {
  if (name == "none") return ZeroKind::kNone;
  if (name == "min") return ZeroKind::kMinimum;
  if (name == "int") return ZeroKind::kInteger;
  throw Error(ErrorCode::kInvalidArgument, fmt::format("zero is '{}', expected min or int", name));
}

std::string_view scale_type_name(ScaleType type) {
  return kScaleNames.at(static_cast<std::size_t>(type)).name;
}

std::string_view zero_kind_name(ZeroKind kind) {
  constexpr std::array<std::string_view, 3> names{"none", "min", "int"};
  return names.at(static_cast<std::size_t>(kind));
}

std::string format_label(const FormatSpec& spec) {
  return fmt::format("{}{}{}", format_info(spec.format).name, spec.sparse ? " 2:4" : "",
                     spec.sub_scale == SubScale::kNone ? "" : ", scales of two levels");
}

std::string group_name(int group) {
  return group == 0 ? "row" : std::to_string(group);
}

bool is_unsigned(Format format) {
  switch (format) {
    case Format::kU2:
    case Format::kU3:
    case Format::kU4:
    case Format::kU5:
    case Format::kU6:
    case Format::kU8: return true;
    default: return false;
  }
}

FormatSpec default_spec(Format format) {
  switch (format) {
    case Format::kMxfp4: return {format, 32, ScaleType::kE8m0, ZeroKind::kNone};
    case Format::kNvfp4: return {format, 16, ScaleType::kE4m3, ZeroKind::kNone};
    default: return {format, 32, ScaleType::kF16, is_unsigned(format) ? ZeroKind::kMinimum : ZeroKind::kNone};
  }
}

void validate(const FormatSpec& spec) {
  const FormatSpec fixed = default_spec(spec.format);
  if (spec.format == Format::kMxfp4 || spec.format == Format::kNvfp4) {
    if (spec.group != fixed.group) reject(spec, "group", group_name(spec.group), group_name(fixed.group));
    if (spec.scale_type != fixed.scale_type) {
      reject(spec, "scale type", scale_type_name(spec.scale_type), scale_type_name(fixed.scale_type));
    }
  } else if (spec.scale_type == ScaleType::kE8m0 || spec.scale_type == ScaleType::kE4m3) {
    reject(spec, "scale type", scale_type_name(spec.scale_type), "f16, bf16 or f32");
  }
  if (spec.group != 0 && spec.group != 16 && spec.group != 32 && spec.group != 64 && spec.group != 128) {
    reject(spec, "group", std::to_string(spec.group), "16, 32, 64, 128 or row");
  }
  if (spec.rotation != 0 && spec.rotation != 16 && spec.rotation != 32 && spec.rotation != 64 && spec.rotation != 128)
    reject(spec, "rotation", std::to_string(spec.rotation), "0, 16, 32, 64 or 128");
  const bool sparse_format = spec.format == Format::kFp4 || spec.format == Format::kMxfp4 ||
                             spec.format == Format::kNvfp4 || spec.format == Format::kS4;
  if (spec.sparse && !sparse_format) reject(spec, "sparsity", "2:4", "none, for only fp4, mxfp4, nvfp4 and s4 have it");
  if (spec.sub_scale != SubScale::kNone &&
      ((spec.group != 16 && spec.group != 32) || spec.scale_type != ScaleType::kF16 || spec.rotation != 0 ||
       spec.sparse || spec.zero == ZeroKind::kInteger)) {
    reject(spec, "scale", "of two levels", "one level, or groups of 16 or 32, f16, no zero, rotation or sparsity");
  }
  if (is_unsigned(spec.format)) {
    if (spec.zero == ZeroKind::kNone) reject(spec, "zero", "none", "min or int");
  } else if (spec.zero != fixed.zero) {
    reject(spec, "zero", zero_kind_name(spec.zero), zero_kind_name(fixed.zero));
  }
}

double bits_per_weight(const FormatSpec& spec, std::int64_t rows, std::int64_t cols) {
  if (rows == 0 || cols == 0) return 0;
  const PackedLayout layout(spec, rows, cols);
  return 8.0 * static_cast<double>(layout.total_bytes()) / static_cast<double>(rows * cols);
}

}  // namespace metal_marlin
