// Folders of MLX (mlx.core.quantize and mlx-lm's convert): codes as little-endian streams of bits in words of 32,
// which is how our formats have them; weight = scale * code + bias, or one of three formats of small floats.
#include <fmt/format.h>

#include <array>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "formats/small_floats.h"
#include "io/stored_weights.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

struct MlxMode {
  std::string_view name;
  int group;
  int bits;
};
constexpr std::array<MlxMode, 4> kModes{{{"affine", 64, 4}, {"mxfp4", 32, 4}, {"nvfp4", 16, 4}, {"mxfp8", 32, 8}}};

constexpr std::array<std::string_view, 4> kMlxKeys{"group_size", "bits", "mode", "quant_method"};
constexpr std::string_view kStackedExperts = ".switch_mlp.";

// A module's mode, group and bits: what stands under its name, else what stands for all.
MlxMode mode_of(const JsonObject& quantization, const std::string& module) {
  const bool own = quantization.has(module.c_str()) && quantization.at(module.c_str()).is_object();
  const JsonObject json = own ? quantization.object(module.c_str()) : quantization;
  const std::string name = json.string_or("mode", "affine");
  for (const MlxMode& known : kModes) {
    if (known.name != name) continue;
    MlxMode mode = known;
    if (json.has("group_size")) mode.group = static_cast<int>(json.bounded("group_size", 1, 1 << 20));
    if (json.has("bits")) mode.bits = static_cast<int>(json.bounded("bits", 1, 8));
    if (name != "affine" && (mode.group != known.group || mode.bits != known.bits))
      json.wrong("group_size", fmt::format("{} of {} bits in mode {}", known.group, known.bits, name));
    return mode;
  }
  json.wrong("mode", "affine, mxfp4, nvfp4 or mxfp8");
}

FormatSpec spec_of(const SafetensorsFolder& folder, const MlxMode& mode, const std::string& module,
                   const DenseView& scales) {
  if (mode.name == "mxfp4") return default_spec(Format::kMxfp4);
  if (mode.name == "nvfp4") return default_spec(Format::kNvfp4);
  if (mode.name == "mxfp8") return {Format::kFp8E4M3, mode.group, ScaleType::kBf16};  // which holds powers of two
  const auto type = scale_type_of(scales.dtype);
  if (!type || scales.dtype == DType::kF8E4M3 || scales.dtype == DType::kF8E8M0)
    bad_part(folder, module + ".scales", scales, "F16, BF16 or F32");
  constexpr std::array<Format, 9> kByBits{Format::kU8, Format::kU8, Format::kU2, Format::kU3, Format::kU4,
                                          Format::kU5, Format::kU6, Format::kU8, Format::kU8};
  if (mode.bits < 2 || mode.bits == 7)
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {}.weight: {} bits, expected 2, 3, 4, 5, 6 or 8",
                                                     folder.where(module + ".weight"), module, mode.bits));
  return {kByBits.at(static_cast<std::size_t>(mode.bits)), mode.group, *type, ZeroKind::kMinimum};
}

// One of the matrices of a module: all of it, or an expert's.
std::span<const std::byte> item_of(const DenseView& view, std::int64_t item, std::int64_t items) {
  const std::size_t size = view.bytes.size() / static_cast<std::size_t>(items);
  return view.bytes.subspan(static_cast<std::size_t>(item) * size, size);
}

class MlxModule {
 public:
  MlxModule(const SafetensorsFolder& folder, const JsonObject& quantization, std::string module)
      : module_(std::move(module)),
        mode_(mode_of(quantization, module_)),
        codes_(part(folder, module_ + ".weight")),
        scales_(part(folder, module_ + ".scales")),
        spec_(spec_of(folder, mode_, module_, scales_)) {
    const std::size_t rank = codes_.shape.size();
    if (codes_.dtype != DType::kU32 || (rank != 2 && rank != 3) || element_count(codes_.shape).value_or(0) == 0)
      bad_part(folder, module_ + ".weight", codes_, "U32 [rows, words], or of several experts");
    stacked_ = rank == 3;
    items_ = stacked_ ? codes_.shape[0] : 1;
    rows_ = codes_.shape[rank - 2];
    const std::int64_t bits = codes_.shape[rank - 1] * 32;
    cols_ = bits / mode_.bits;
    if (bits % mode_.bits != 0 || cols_ % mode_.group != 0)
      bad_part(folder, module_ + ".weight", codes_, fmt::format("groups of {} in {} bits", mode_.group, mode_.bits));
    Shape groups = codes_.shape;
    groups.back() = cols_ / mode_.group;
    typed_part(folder, module_ + ".scales", mode_.name == "affine" ? scales_.dtype : DType::kU8, groups);
    if (mode_.name == "affine") biases_ = &typed_part(folder, module_ + ".biases", scales_.dtype, groups);
  }

  [[nodiscard]] std::vector<StoredWeight> weights() const {
    std::vector<std::string> parts{module_ + ".weight", module_ + ".scales"};
    if (biases_ != nullptr) parts.push_back(module_ + ".biases");
    std::vector<StoredWeight> out;
    for (std::int64_t item = 0; item < items_; ++item)
      out.push_back(
          packed_weight(name_of(item), spec_, rows_, cols_, parts, [self = *this, item] { return self.load(item); }));
    return out;
  }

 private:
  // "…mlp.switch_mlp.up_proj" holds what "…mlp.experts.7.up_proj" and the others are.
  [[nodiscard]] std::string name_of(std::int64_t item) const {
    const std::size_t at = module_.find(kStackedExperts);
    if (!stacked_ || at == std::string::npos) return module_;
    return fmt::format("{}.experts.{}.{}", module_.substr(0, at), item, module_.substr(at + kStackedExperts.size()));
  }

  [[nodiscard]] LoadedPack load(std::int64_t item) const {
    LoadedPack out;
    out.view = {spec_, rows_, cols_, 1, item_of(codes_, item, items_), item_of(scales_, item, items_), {}};
    if (biases_ != nullptr) out.view.zeros = item_of(*biases_, item, items_);
    if (mode_.name != "mxfp8") return out;
    const auto scales = std::make_shared<std::vector<std::byte>>(out.view.scales.size() * 2);
    for (std::size_t i = 0; i < out.view.scales.size(); ++i)
      store_scale(ScaleType::kBf16, *scales, i, load_scale(ScaleType::kE8m0, out.view.scales, i));
    out.view.scales = *scales;
    out.owner = scales;
    return out;
  }

  std::string module_;
  MlxMode mode_;
  const DenseView& codes_;
  const DenseView& scales_;
  const DenseView* biases_ = nullptr;
  FormatSpec spec_;
  bool stacked_ = false;
  std::int64_t items_ = 1;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

}  // namespace

std::vector<StoredWeight> mlx_weights(const SafetensorsFolder& folder, const JsonObject& quantization) {
  for (const auto& [key, value] : quantization.json().items()) {
    const bool module = value.is_object() || value.is_boolean();  // false: it is not quantized
    if (value.is_object()) quantization.object(key.c_str()).only(kMlxKeys);
    if (!module) quantization.only_key(key, kMlxKeys);
  }
  std::vector<StoredWeight> out;
  for (const auto& [name, view] : folder.tensors()) {
    const std::string module = module_of(name);
    if (!name.ends_with(".scales") || folder.find(module + ".weight") == nullptr) continue;
    if (quantization.has(module.c_str()) && quantization.at(module.c_str()) == false)
      packed_left_out(quantization, module.c_str(), module);
    for (StoredWeight& weight : MlxModule(folder, quantization, module).weights()) out.push_back(std::move(weight));
  }
  return out;
}

}  // namespace metal_marlin
