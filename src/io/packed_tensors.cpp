#include "io/packed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/regex.h"
#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/group_scale.h"
#include "formats/small_floats.h"
#include "formats/sparsity.h"
#include "io/compressed_tensors.h"
#include "io/spec_json.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<std::string_view, 3> kConfigKeys{"quant_method", "version", "tensors"};
constexpr std::array<std::string_view, 8> kModuleKeys{"format", "group",    "scale_type", "zero",
                                                      "shape",  "rotation", "sparsity",   "folded_rotation"};

bool stored_as_float8(PackScheme scheme, const FormatSpec& spec) {
  return scheme == PackScheme::kCompressedTensors && spec.format == Format::kFp8E4M3;
}

bool integer_pack(Format format) {
  return format == Format::kS4 || format == Format::kU4 || format == Format::kInt8;
}

// The entry that holds the codes of a module.
std::string codes_entry(PackScheme scheme, const std::string& module, const FormatSpec& spec) {
  return module + (stored_as_float8(scheme, spec) ? ".weight" : ".weight_packed");
}

DType scale_dtype(ScaleType type) {
  switch (type) {
    case ScaleType::kF16: return DType::kF16;
    case ScaleType::kBf16: return DType::kBf16;
    case ScaleType::kF32: return DType::kF32;
    case ScaleType::kE4m3: return DType::kF8E4M3;
    case ScaleType::kE8m0: return DType::kU8;
  }
  return DType::kU8;
}

Json module_json(const PackedModule& module) {
  Json out = spec_json(module.spec);
  out["shape"] = {module.rows, module.cols};
  if (module.folded_rotation != 0) out["folded_rotation"] = module.folded_rotation;
  return out;
}

std::string compressed_format(const FormatSpec& spec) {
  if (spec.format == Format::kNvfp4) return "nvfp4-pack-quantized";
  return spec.format == Format::kFp8E4M3 ? "float-quantized" : "pack-quantized";
}

Json compressed_weights(const FormatSpec& spec) {
  const bool nvfp4 = spec.format == Format::kNvfp4;
  Json weights = {{"num_bits", format_info(spec.format).bits},
                  {"type", integer_pack(spec.format) ? "int" : "float"},
                  {"symmetric", spec.zero == ZeroKind::kNone},
                  {"strategy", nvfp4 ? "tensor_group" : (spec.group == 0 ? "channel" : "group")},
                  {"group_size", spec.group == 0 ? Json(nullptr) : Json(spec.group)},
                  {"dynamic", false},
                  {"actorder", nullptr},
                  {"block_structure", nullptr},
                  {"observer", "minmax"},
                  {"observer_kwargs", Json::object()}};
  return weights;
}

// compressed-tensors packs zero points along the rows: eight of a column in an
// int32, [ceil(rows / 8), groups].
std::vector<std::byte> zeros_by_column(const PackedMatrix& matrix) {
  const std::int64_t groups = matrix.spec.groups(matrix.cols);
  std::vector<std::uint32_t> words(static_cast<std::size_t>((matrix.rows + 7) / 8 * groups));
  const PackedView view = matrix.view();
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t group = 0; group < groups; ++group) {
      words[static_cast<std::size_t>(row / 8 * groups + group)] |= static_cast<std::uint32_t>(view.zero(row, group))
                                                                   << (4 * (row % 8));
    }
  }
  std::vector<std::byte> bytes(words.size() * sizeof(std::uint32_t));
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

}  // namespace

bool fits_compressed_tensors(const std::map<std::string, PackedModule>& modules) {
  if (modules.empty()) return false;
  const FormatSpec& spec = modules.begin()->second.spec;
  const bool integer = integer_pack(spec.format) && spec.zero != ZeroKind::kMinimum;
  const bool fp8 = spec.format == Format::kFp8E4M3 && spec.group == 0;
  if ((!integer && !fp8 && spec.format != Format::kNvfp4) || spec.rotation != 0 || spec.sparse) return false;
  return std::all_of(modules.begin(), modules.end(), [&](const auto& entry) {
    const PackedModule& module = entry.second;
    const std::int64_t words = 32 / format_info(spec.format).bits;
    return module.spec == spec && module.cols % module.spec.group_size(module.cols) == 0 && module.cols % words == 0;
  });
}

Json quantization_config(PackScheme scheme, const std::map<std::string, PackedModule>& modules,
                         const std::vector<std::string>& ignored) {
  if (scheme == PackScheme::kMetalMarlin) {
    Json tensors = Json::object();
    for (const auto& [name, module] : modules) tensors[name] = module_json(module);
    return {{"quant_method", "metal-marlin"}, {"version", 1}, {"tensors", tensors}};
  }
  const FormatSpec& spec = modules.begin()->second.spec;
  Json ignore = Json::array({"lm_head"});
  for (const std::string& name : ignored) {
    if (name != "lm_head") ignore.push_back(name);
  }
  const Json group = {{"targets", {"Linear"}},
                      {"weights", compressed_weights(spec)},
                      {"input_activations", nullptr},
                      {"output_activations", nullptr},
                      {"format", compressed_format(spec)}};
  return {{"quant_method", "compressed-tensors"}, {"format", compressed_format(spec)},
          {"quantization_status", "compressed"},  {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},           {"ignore", ignore},
          {"config_groups", {{"group_0", group}}}};
}

std::vector<TensorPlan> packed_tensor_plans(PackScheme scheme, const std::string& module, const PackedModule& packed) {
  const FormatSpec& spec = packed.spec;
  if (spec.sub_scale != SubScale::kNone)
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}, which files do not hold", module, format_label(spec)));
  const PackedLayout layout(spec, packed.rows, packed.cols);
  const auto row_bytes = static_cast<std::int64_t>(layout.code_row_bytes);
  const bool compressed = scheme == PackScheme::kCompressedTensors;
  std::vector<TensorPlan> plans;
  const std::string codes = codes_entry(scheme, module, spec);
  if (stored_as_float8(scheme, spec)) {
    plans.push_back({codes, DType::kF8E4M3, {packed.rows, packed.cols}});
  } else if (compressed && integer_pack(spec.format)) {
    plans.push_back({codes, DType::kI32, {packed.rows, row_bytes / 4}});
  } else {
    plans.push_back({codes, DType::kU8, {packed.rows, row_bytes}});
  }
  const std::int64_t groups = spec.groups(packed.cols);
  plans.push_back({module + ".weight_scale", scale_dtype(spec.scale_type), {packed.rows, groups}});
  if (spec.zero == ZeroKind::kMinimum)
    plans.push_back({module + ".weight_min", scale_dtype(spec.scale_type), {packed.rows, groups}});
  if (spec.zero == ZeroKind::kInteger && compressed) {
    plans.push_back({module + ".weight_zero_point", DType::kI32, {(packed.rows + 7) / 8, groups}});
  } else if (spec.zero == ZeroKind::kInteger) {
    plans.push_back(
        {module + ".weight_zero_point", DType::kU8, {packed.rows, static_cast<std::int64_t>(layout.zero_row_bytes)}});
  }
  if (spec.sparse) {
    plans.push_back({module + ".weight_positions",
                     DType::kU8,
                     {packed.rows, static_cast<std::int64_t>(layout.position_row_bytes)}});
  }
  if (spec.format == Format::kNvfp4) plans.push_back({module + ".weight_global_scale", DType::kF32, {1}});
  if (compressed && integer_pack(spec.format)) plans.push_back({module + ".weight_shape", DType::kI64, {2}});
  return plans;
}

void write_packed_tensors(PackScheme scheme, const PackedMatrix& matrix, SafetensorsWriter& writer) {
  const bool compressed = scheme == PackScheme::kCompressedTensors;
  writer.write(matrix.codes);
  writer.write(matrix.scales);
  if (matrix.spec.zero == ZeroKind::kInteger && compressed) {
    writer.write(zeros_by_column(matrix));
  } else {
    writer.write(matrix.zeros);
  }
  if (matrix.spec.sparse) writer.write(matrix.positions);
  if (matrix.spec.format == Format::kNvfp4) writer.write(std::as_bytes(std::span(&matrix.global_scale, 1)));
  if (compressed && integer_pack(matrix.spec.format)) {
    const std::array<std::int64_t, 2> shape{matrix.rows, matrix.cols};
    writer.write(std::as_bytes(std::span(shape)));
  }
}

namespace {

// A module as `tensors` of a quantization_config has it.
PackedModule parse_packed_module(const JsonObject& item) {
  item.only(kModuleKeys);
  PackedModule module{parse_spec(item, false)};
  const Json& shape = item.at("shape");
  constexpr std::uint64_t kMost = std::uint64_t{1} << 30;
  const bool good = shape.is_array() && shape.size() == 2 && std::all_of(shape.begin(), shape.end(), [](const Json& n) {
                      return n.is_number_unsigned() && n.get<std::uint64_t>() <= kMost;
                    });
  if (!good) item.wrong("shape", "two integers up to 2^30");
  module.rows = shape[0].get<std::int64_t>();
  module.cols = shape[1].get<std::int64_t>();
  if (module.spec.sparse && module.cols % kSparseGroup != 0)
    item.wrong("shape", "a width that is a multiple of 4, as 2:4 sparsity needs");
  return module;
}

}  // namespace

std::vector<StoredWeight> marlin_weights(const SafetensorsFolder& folder, const JsonObject& json) {
  json.only(kConfigKeys);
  if (json.integer("version") != 1) json.wrong("version", "1");
  const JsonObject tensors = json.object("tensors");
  std::vector<StoredWeight> out;
  for (const auto& [name, entry] : tensors.json().items()) {
    const PackedModule module = parse_packed_module(JsonObject(entry, tensors.where() + ": " + name));
    std::vector<std::string> parts;
    for (const TensorPlan& plan : packed_tensor_plans(PackScheme::kMetalMarlin, name, module))
      parts.push_back(plan.name);
    // What the folder lacks is told now.
    load_packed_tensors(folder, PackScheme::kMetalMarlin, name, module).view.check_sizes(name + ".weight");
    out.push_back(packed_weight(
        name, module.spec, module.rows, module.cols, std::move(parts),
        [&folder, key = name, module] { return load_packed_tensors(folder, PackScheme::kMetalMarlin, key, module); }));
  }
  return out;
}

LoadedPack load_packed_tensors(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                               const PackedModule& described) {
  const FormatSpec& spec = described.spec;
  if (scheme == PackScheme::kCompressedTensors) return load_compressed(folder, module, spec);
  for (const TensorPlan& plan : packed_tensor_plans(scheme, module, described))
    typed_part(folder, plan.name, plan.dtype, plan.shape);
  const DenseView& codes = part(folder, codes_entry(scheme, module, spec));
  const DenseView& scales = part(folder, module + ".weight_scale");
  LoadedPack loaded;
  loaded.view = {spec, described.rows, described.cols, 1, codes.bytes, scales.bytes, {}};
  if (spec.zero == ZeroKind::kMinimum) loaded.view.zeros = part(folder, module + ".weight_min").bytes;
  if (spec.zero == ZeroKind::kInteger) loaded.view.zeros = part(folder, module + ".weight_zero_point").bytes;
  if (spec.sparse) loaded.view.positions = part(folder, module + ".weight_positions").bytes;
  if (spec.format == Format::kNvfp4) {
    const std::string name = module + ".weight_global_scale";
    const DenseView& global = part(folder, name);
    std::memcpy(&loaded.view.global_scale, global.bytes.data(), sizeof(float));
  }
  return loaded;
}

}  // namespace metal_marlin
