// Folders that bitsandbytes wrote: 4 bits (NF4, FP4) in blocks along the rows' run, perhaps with scales that are
// quantized themselves, and 8 bits by rows (LLM.int8()).
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/printable.h"
#include "base/round_up.h"
#include "formats/codec.h"
#include "io/stored_weights.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// What 8-bit and 4-bit folders say; all but the methods and what was left out tells how the program that wrote them
// computes: weights have their types and blocks beside them.
constexpr std::array<std::string_view, 16> kBitsandbytesKeys{"quant_method",
                                                             "_load_in_4bit",
                                                             "_load_in_8bit",
                                                             "load_in_4bit",
                                                             "load_in_8bit",
                                                             "bnb_4bit_compute_dtype",
                                                             "bnb_4bit_quant_storage",
                                                             "bnb_4bit_quant_type",
                                                             "bnb_4bit_use_double_quant",
                                                             "llm_int8_enable_fp32_cpu_offload",
                                                             "llm_int8_has_fp16_weight",
                                                             "llm_int8_skip_modules",
                                                             "llm_int8_threshold",
                                                             "bnb_4bit_blocksize",
                                                             "quant_type",
                                                             "modules_to_not_convert"};

constexpr std::array<float, 16> kFp4{0, 0.0625F / 12,  8.0F / 12,  1,  4.0F / 12,  0.5F,  2.0F / 12,  0.25F,
                                     0, -0.0625F / 12, -8.0F / 12, -1, -4.0F / 12, -0.5F, -2.0F / 12, -0.25F};
// A state's keys; types of what comes out are the program's.
constexpr std::array<std::string_view, 7> kStateKeys{"quant_type",       "blocksize",    "dtype",        "shape",
                                                     "nested_blocksize", "nested_dtype", "nested_offset"};

float f32_at(std::span<const std::byte> bytes, std::size_t index) {
  float value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof(value), sizeof(value));
  return value;
}

// A weight of 4 bits: codes two a byte, the first in the high half.
class Bits4 {
 public:
  Bits4(const SafetensorsFolder& folder, std::string module, const std::string& state_name)
      : folder_(folder), weight_(module + ".weight"), module_(std::move(module)), state_name_(state_name) {
    const DenseView& state = part(folder, state_name);
    const Json parsed = parse_json({reinterpret_cast<const char*>(state.bytes.data()), state.bytes.size()},
                                   folder.where(state_name) + ": tensor " + state_name);
    const JsonObject json(parsed, folder.where(state_name) + ": tensor " + state_name);
    json.only(kStateKeys);
    block_ = json.bounded("blocksize", 1, 1 << 20);
    nested_block_ = json.has("nested_blocksize") ? json.bounded("nested_blocksize", 1, 1 << 20) : 0;
    nested_offset_ = static_cast<float>(json.number_or("nested_offset", 0));
    const Json& shape = json.at("shape");
    if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_unsigned() || !shape[1].is_number_unsigned())
      json.wrong("shape", "two sizes");
    rows_ = shape[0].get<std::int64_t>();
    cols_ = shape[1].get<std::int64_t>();
    const auto count = element_count({rows_, cols_});
    codes_ = &part(folder, weight_);
    if (!count || *count == 0 || codes_->bytes.size() != static_cast<std::size_t>((*count + 1) / 2))
      bad_part(folder, weight_, *codes_, fmt::format("the 4-bit codes of {}", shape_text({rows_, cols_})));
    blocks_ = divide_up(*count, block_);
    map_ = &typed_part(folder, weight_ + ".quant_map", DType::kF32, {16});
    check_type(json.string("quant_type"));
    parts_ = {weight_, state_name, weight_ + ".quant_map", weight_ + ".absmax"};
    find_scales();
  }

  [[nodiscard]] StoredWeight weight() const {
    const bool whole = cols_ % block_ == 0 && block_ % 16 == 0;
    if (whole && is_nf4()) {
      const FormatSpec spec{Format::kNf4, static_cast<int>(block_), ScaleType::kF32};
      return packed_weight(module_, spec, rows_, cols_, parts_, [self = *this, spec] { return self.packed(spec); });
    }
    return decoded_weight(
        module_, rows_, cols_, is_nf4() ? "bitsandbytes nf4" : "bitsandbytes fp4", parts_,
        [self = *this]() -> RowReader { return [self](std::int64_t row, float* out) { self.decode(row, out); }; });
  }

 private:
  void find_scales() {
    if (nested_block_ == 0) {
      absmax_ = &typed_part(folder_, weight_ + ".absmax", DType::kF32, {blocks_});
      return;
    }
    absmax_ = &typed_part(folder_, weight_ + ".absmax", DType::kU8, {blocks_});
    nested_map_ = &typed_part(folder_, weight_ + ".nested_quant_map", DType::kF32, {256});
    const std::int64_t nested = divide_up(blocks_, nested_block_);
    nested_absmax_ = &typed_part(folder_, weight_ + ".nested_absmax", DType::kF32, {nested});
    parts_.push_back(weight_ + ".nested_quant_map");
    parts_.push_back(weight_ + ".nested_absmax");
  }

  // The package decodes by the type's own table: a name or a table that says another is a contradiction.
  void check_type(const std::string& type) {
    if (type != "nf4" && type != "fp4")
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {}: field quant_type is '{}', expected nf4 or fp4",
                                                       folder_.where(state_name_), state_name_, printable(type)));
    is_nf4_ = type == "nf4";
    const bool named = state_name_.ends_with("__" + type);
    if (!named || !has_levels(is_nf4_ ? decode_table(Format::kNf4) : std::span<const float>(kFp4)))
      throw Error(
          ErrorCode::kCorruptFile,
          fmt::format("{}: tensor {}: field quant_type is '{}', and {} is another type's", folder_.where(state_name_),
                      state_name_, type, named ? weight_ + ".quant_map" : "its name"));
  }
  // The package's tables and ours differ in the last place.
  [[nodiscard]] bool has_levels(std::span<const float> levels) const {
    for (std::size_t i = 0; i < levels.size(); ++i) {
      if (!(std::fabs(f32_at(map_->bytes, i) - levels[i]) <= 1e-6F)) return false;
    }
    return true;
  }
  [[nodiscard]] bool is_nf4() const { return is_nf4_; }
  [[nodiscard]] float scale(std::int64_t block) const {
    const auto at = static_cast<std::size_t>(block);
    if (nested_block_ == 0) return f32_at(absmax_->bytes, at);
    const float level = f32_at(nested_map_->bytes, std::to_integer<std::size_t>(absmax_->bytes[at]));
    return level * f32_at(nested_absmax_->bytes, at / static_cast<std::size_t>(nested_block_)) + nested_offset_;
  }
  [[nodiscard]] std::uint8_t code(std::int64_t index) const {
    const auto byte = std::to_integer<unsigned>(codes_->bytes[static_cast<std::size_t>(index / 2)]);
    return static_cast<std::uint8_t>(index % 2 == 0 ? byte >> 4 : byte & 15U);
  }

  [[nodiscard]] LoadedPack packed(const FormatSpec& spec) const {
    const auto matrix = std::make_shared<PackedMatrix>(spec, rows_, cols_);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_));
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t col = 0; col < cols_; ++col) codes[static_cast<std::size_t>(col)] = code(row * cols_ + col);
      matrix->set_codes(row, codes);
      for (std::int64_t group = 0; group < cols_ / block_; ++group)
        matrix->set_scale(row, group, scale(row * (cols_ / block_) + group));
    }
    return {matrix->view(), matrix};
  }
  void decode(std::int64_t row, float* out) const {
    for (std::int64_t col = 0; col < cols_; ++col) {
      const std::int64_t index = row * cols_ + col;
      out[col] = f32_at(map_->bytes, code(index)) * scale(index / block_);
    }
  }

  const SafetensorsFolder& folder_;
  std::string weight_;
  std::string module_;
  std::string state_name_;
  const DenseView* codes_ = nullptr;
  const DenseView* map_ = nullptr;
  const DenseView* absmax_ = nullptr;
  const DenseView* nested_map_ = nullptr;
  const DenseView* nested_absmax_ = nullptr;
  std::vector<std::string> parts_;
  std::int64_t block_ = 0;
  std::int64_t nested_block_ = 0;
  float nested_offset_ = 0;
  bool is_nf4_ = true;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
  std::int64_t blocks_ = 0;
};

// LLM.int8(): a row's scale is its largest magnitude over 127.
StoredWeight int8_weight(const SafetensorsFolder& folder, const std::string& module) {
  const std::string weight = module + ".weight";
  const DenseView& codes = part(folder, weight);
  if (codes.dtype != DType::kI8 || codes.shape.size() != 2 || element_count(codes.shape).value_or(0) == 0)
    bad_part(folder, weight, codes, "I8 [rows, columns]");
  const std::int64_t rows = codes.shape[0];
  const std::int64_t cols = codes.shape[1];
  const DenseView& tops = typed_part(folder, module + ".SCB", DType::kF32, {rows});
  const FormatSpec spec{Format::kInt8, 0, ScaleType::kF32};
  const DenseView* const order = folder.find(module + ".weight_format");
  if (order != nullptr && order->bytes.size() == 1 && order->bytes[0] != std::byte{0}) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{}: tensor {}.weight_format: an order of codes other than by rows", folder.where(weight), module));
  }
  return packed_weight(module, spec, rows, cols, {weight, module + ".SCB", module + ".weight_format"},
                       [=, &codes, &tops] {
                         const auto matrix = std::make_shared<PackedMatrix>(spec, rows, cols);
                         for (std::size_t i = 0; i < codes.bytes.size(); ++i)
                           matrix->codes[i] = codes.bytes[i] ^ std::byte{0x80};
                         for (std::int64_t row = 0; row < rows; ++row)
                           matrix->set_scale(row, 0, f32_at(tops.bytes, static_cast<std::size_t>(row)) / 127.0F);
                         return LoadedPack{matrix->view(), matrix};
                       });
}

}  // namespace

std::vector<StoredWeight> bitsandbytes_weights(const SafetensorsFolder& folder, const JsonObject& quantization) {
  constexpr std::string_view kState = ".weight.quant_state.bitsandbytes__";
  quantization.only(kBitsandbytesKeys);
  std::vector<StoredWeight> out;
  for (const auto& [name, view] : folder.tensors()) {
    const std::size_t state = name.find(kState);
    if (state != std::string::npos) out.push_back(Bits4(folder, name.substr(0, state), name).weight());
    if (name.ends_with(".SCB")) out.push_back(int8_weight(folder, module_of(name)));
  }
  for (const char* const key : {"llm_int8_skip_modules", "modules_to_not_convert"})
    refuse_left_out(quantization, key, out);
  return out;
}

}  // namespace metal_marlin
