// FP8 weights with a scale a block of rows and columns, or one for all: X.weight in E4M3 and X.weight_scale_inv
// (in spite of its name what elements are multiplied by). A block's scale becomes one for each of its rows.
#include "io/fp8_blocks.h"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/round_up.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Not used: activation_scheme, as activations are not rounded to FP8 here; scale_fmt, which the scales' type tells.
constexpr std::array<std::string_view, 9> kFp8BlockKeys{"quant_method",      "activation_scheme",      "fmt",
                                                        "weight_block_size", "modules_to_not_convert", "ignored_layers",
                                                        "scale_fmt",
                                                        "dequantize",  // whether to make bf16 of it when it is loaded
                                                        "modules_to_convert"};

}  // namespace

StoredWeight fp8_block_weight(const SafetensorsFolder& folder, const std::string& module, const std::string& scale_name,
                              Shape block) {
  const DenseView& codes = part(folder, module + ".weight");
  const DenseView& scales = part(folder, scale_name);
  if (codes.dtype != DType::kF8E4M3 || codes.shape.size() != 2 || element_count(codes.shape).value_or(0) == 0)
    bad_part(folder, module + ".weight", codes, "F8_E4M3 [rows, columns]");
  const std::int64_t rows = codes.shape[0];
  const std::int64_t cols = codes.shape[1];
  auto type = scale_type_of(scales.dtype);
  const bool one = element_count(scales.shape) == 1;
  if (one) block = {rows, cols};
  const Shape blocks{divide_up(rows, block[0]), divide_up(cols, block[1])};
  if (!type || scales.dtype == DType::kF8E4M3 || (!one && scales.shape != blocks))
    bad_part(folder, scale_name, scales, fmt::format("F32, BF16, F16 or F8_E8M0 {}", shape_text(blocks)));
  const ScaleType stored = *type;
  if (stored == ScaleType::kE8m0) type = ScaleType::kBf16;  // holds powers of two
  const FormatSpec spec{Format::kFp8E4M3, static_cast<int>(std::min<std::int64_t>(block[1], 1 << 20)), *type};
  return packed_weight(module, spec, rows, cols, {module + ".weight", scale_name}, [=, &codes, &scales] {
    const auto expanded = std::make_shared<PackedMatrix>();
    expanded->scales.resize(PackedLayout(spec, rows, cols).scale_bytes);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t group = 0; group < blocks[1]; ++group) {
        const auto at = static_cast<std::size_t>(row / block[0] * blocks[1] + group);
        store_scale(spec.scale_type, expanded->scales, static_cast<std::size_t>(row * blocks[1] + group),
                    load_scale(stored, scales.bytes, at));
      }
    }
    return LoadedPack{{spec, rows, cols, 1, codes.bytes, expanded->scales, {}}, expanded};
  });
}

std::vector<StoredWeight> fp8_weights(const SafetensorsFolder& folder, const JsonObject& quantization) {
  quantization.only(kFp8BlockKeys);
  // By the type's name, or by PyTorch's, as MiniMax's files have it.
  if (const std::string name = quantization.string_or("fmt", "e4m3"); name != "e4m3" && name != "float8_e4m3fn")
    quantization.wrong("fmt", "e4m3 or float8_e4m3fn");
  Shape block{128, 128};
  if (quantization.has("weight_block_size")) {
    block = block_shape(quantization, "weight_block_size");
  } else if (quantization.json().contains("weight_block_size")) {
    block = {std::int64_t{1} << 40, std::int64_t{1} << 40};  // null: a scale for the whole
  }
  std::vector<StoredWeight> out;
  for (const auto& [name, view] : folder.tensors()) {
    if (!name.ends_with(".weight") || view.dtype != DType::kF8E4M3) continue;
    const std::string module = module_of(name);
    const bool inverse = folder.find(module + ".weight_scale_inv") != nullptr;
    StoredWeight weight =
        fp8_block_weight(folder, module, module + (inverse ? ".weight_scale_inv" : ".weight_scale"), block);
    for (const char* const other : {".input_scale", ".activation_scale"}) weight.parts.push_back(module + other);
    out.push_back(std::move(weight));
  }
  for (const char* const key : {"modules_to_not_convert", "ignored_layers"}) refuse_left_out(quantization, key, out);
  refuse_unlisted(quantization, "modules_to_convert", out);
  return out;
}

Shape block_shape(const JsonObject& json, const char* key) {
  const Json& value = json.at(key);
  Shape out;
  if (value.is_array()) {
    for (const Json& size : value) {
      if (size.is_number_unsigned() && size.get<std::uint64_t>() > 0 && size.get<std::uint64_t>() <= (1U << 20))
        out.push_back(size.get<std::int64_t>());
    }
  }
  if (out.size() != 2 || value.size() != 2) json.wrong(key, "two sizes of a block, from 1 to 2^20");
  return out;
}

}  // namespace metal_marlin
