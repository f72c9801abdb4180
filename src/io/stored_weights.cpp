#include "io/stored_weights.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "formats/small_floats.h"
#include "io/module_pattern.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

FormatSpec usable_spec(const FormatSpec& spec, std::int64_t cols, const std::string& module) {
  FormatSpec out = spec;
  for (const int group : {128, 64, 32, 16}) {
    if (spec.group == group) return spec;
  }
  if (spec.group == 0 || spec.group >= cols) {
    out.group = 0;
    return out;
  }
  for (const int group : {128, 64, 32, 16}) {
    if (spec.group % group != 0) continue;
    out.group = group;
    return out;
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("tensor {}.weight: groups of {}, expected a multiple of 16 or the row", module, spec.group));
}

LoadedPack with_usable_groups(LoadedPack pack, const std::string& module) {
  const PackedView& from = pack.view;
  const FormatSpec spec = usable_spec(from.spec, from.cols, module);
  if (spec.group == from.spec.group) return pack;
  if (spec.groups(from.cols) == from.spec.groups(from.cols)) {  // one group, by another name
    pack.view.spec = spec;
    return pack;
  }
  struct Regrouped {
    PackedMatrix matrix;
    std::shared_ptr<const void> source;
  };
  auto owner = std::make_shared<Regrouped>();
  PackedMatrix& to = owner->matrix;
  owner->source = pack.owner;
  const PackedLayout layout(spec, from.rows, from.cols);
  to.spec = spec;
  to.rows = from.rows;
  to.cols = from.cols;
  to.scales.resize(layout.scale_bytes);
  to.zeros.resize(layout.zero_bytes);
  for (std::int64_t row = 0; row < from.rows; ++row) {
    for (std::int64_t group = 0; group < spec.groups(from.cols); ++group) {
      const std::int64_t source = group * spec.group / from.spec.group;
      to.set_scale(row, group, from.scale(row, source));
      if (spec.zero == ZeroKind::kMinimum) to.set_minimum(row, group, from.minimum(row, source));
      if (spec.zero == ZeroKind::kInteger) to.set_zero(row, group, from.zero(row, source));
    }
  }
  PackedView view = from;
  view.spec = spec;
  view.scales = to.scales;
  view.zeros = to.zeros;
  return {view, std::move(owner)};
}

StoredWeight packed_weight(const std::string& module, const FormatSpec& spec, std::int64_t rows, std::int64_t cols,
                           std::vector<std::string> parts, std::function<LoadedPack()> load) {
  StoredWeight out;
  const FormatSpec usable = usable_spec(spec, cols, module);
  out.info = {module + ".weight",  {rows, cols}, DType::kU8, usable, PackedLayout(usable, rows, cols).total_bytes(),
              format_label(usable)};
  out.parts = std::move(parts);
  out.load = [module, load = std::move(load)](ThreadPool&) -> Weight {
    LoadedPack pack = with_usable_groups(load(), module);
    pack.view.check_sizes(module + ".weight");
    return {pack.view, std::move(pack.owner)};
  };
  return out;
}

StoredWeight decoded_weight(const std::string& module, std::int64_t rows, std::int64_t cols, std::string stored_as,
                            std::vector<std::string> parts, std::function<RowReader()> reader) {
  StoredWeight out;
  out.info = {module + ".weight",  {rows, cols}, DType::kF16, std::nullopt, static_cast<std::size_t>(rows * cols) * 2,
              std::move(stored_as)};
  out.parts = std::move(parts);
  out.load = [rows, cols, reader = std::move(reader)](ThreadPool& pool) -> Weight {
    const RowReader read = reader();
    const auto width = static_cast<std::size_t>(cols);
    auto owner = std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(rows) * width);
    pool.parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> values(width);
      for (std::int64_t row = begin; row < end; ++row) {
        read(row, values.data());
        for (std::size_t i = 0; i < width; ++i)
          (*owner)[static_cast<std::size_t>(row) * width + i] = f32_to_f16(values[i]);
      }
    });
    return {DenseView{DType::kF16, {rows, cols}, std::as_bytes(std::span(*owner))}, owner};
  };
  return out;
}

void refuse_left_out(const JsonObject& quantization, const char* key, const std::vector<StoredWeight>& weights) {
  for (const std::string& name : names_of(quantization, key)) {
    const Regex pattern(fmt::format(R"(^(?:{})(?:(?<=\.)|(?=\.|$)))", name), quantization.where() + ": " + key);
    for (const StoredWeight& weight : weights) {
      const std::string module = module_of(weight.info.name);
      if (pattern.search(module) || module.ends_with(name)) packed_left_out(quantization, key, module);
    }
  }
}

void refuse_unlisted(const JsonObject& quantization, const char* key, const std::vector<StoredWeight>& weights) {
  if (!quantization.has(key)) return;
  std::vector<std::string> listed;
  const auto add = [&](const auto& self, const Json& json, int depth) -> void {
    if (json.is_string()) {
      listed.push_back(json.get<std::string>());
    } else if (json.is_array() && depth < 2) {
      for (const Json& entry : json) self(self, entry, depth + 1);
    } else {
      quantization.wrong(key, "names of modules, or lists of them");
    }
  };
  add(add, quantization.at(key), 0);
  if (listed.empty()) return;
  for (const StoredWeight& weight : weights) {
    const std::string module = module_of(weight.info.name);
    const auto is_named = [&](const std::string& name) { return module.ends_with(name); };
    if (module == "lm_head" || std::any_of(listed.begin(), listed.end(), is_named)) continue;
    packed_left_out(quantization, key, module);
  }
}

void packed_left_out(const JsonObject& quantization, const char* key, const std::string& module) {
  throw Error(ErrorCode::kCorruptFile,
              fmt::format("{}: field {} says that {} is not quantized, but its tensors are packed",
                          quantization.where(), key, module));
}

const DenseView& part(const SafetensorsFolder& folder, const std::string& name) {
  const DenseView* const view = folder.find(name);
  if (view == nullptr)
    throw Error(ErrorCode::kNotFound, fmt::format("{}: tensor {} is missing", folder.where(name), name));
  return *view;
}

void bad_part(const SafetensorsFolder& folder, const std::string& name, const DenseView& view,
              const std::string& expected) {
  throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: found {} {}, expected {}", folder.where(name), name,
                                                   dtype_name(view.dtype), shape_text(view.shape), expected));
}

const DenseView& typed_part(const SafetensorsFolder& folder, const std::string& name, DType dtype, const Shape& shape) {
  const DenseView& view = part(folder, name);
  if (view.dtype != dtype || view.shape != shape)
    bad_part(folder, name, view, fmt::format("{} {}", dtype_name(dtype), shape_text(shape)));
  return view;
}

std::optional<ScaleType> scale_type_of(DType dtype) {
  switch (dtype) {
    case DType::kF16: return ScaleType::kF16;
    case DType::kBf16: return ScaleType::kBf16;
    case DType::kF32: return ScaleType::kF32;
    case DType::kF8E4M3: return ScaleType::kE4m3;
    case DType::kF8E8M0: return ScaleType::kE8m0;
    default: return std::nullopt;
  }
}

std::string module_of(const std::string& entry) {
  const std::size_t dot = entry.rfind('.');
  return dot == std::string::npos ? entry : entry.substr(0, dot);
}

}  // namespace metal_marlin
