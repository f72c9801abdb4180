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
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<std::string_view, 9> kSideParts{".weight_scale",     ".weight_min",          ".weight_zero_point",
                                                     ".weight_positions", ".weight_global_scale", ".weight_shape",
                                                     ".weight_g_idx",     ".input_global_scale",  ".input_scale"};

constexpr std::array<std::string_view, 3> kColumnParts{".qzeros", ".scales", ".g_idx"};

bool stored_as_float8(PackScheme scheme, const FormatSpec& spec) {
  return scheme == PackScheme::kCompressedTensors && spec.format == Format::kFp8E4M3;
}

bool integer_pack(Format format) {
  return format == Format::kS4 || format == Format::kU4 || format == Format::kInt8;
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

std::optional<ScaleType> scale_type_of(DType dtype) {
  switch (dtype) {
    case DType::kF16: return ScaleType::kF16;
    case DType::kBf16: return ScaleType::kBf16;
    case DType::kF32: return ScaleType::kF32;
    case DType::kF8E4M3: return ScaleType::kE4m3;
    default: return std::nullopt;
  }
}

Json spec_json(const PackedModule& module) {
  Json out = {{"format", format_info(module.spec.format).name},
              {"group", module.spec.group == 0 ? Json("row") : Json(module.spec.group)},
              {"scale_type", scale_type_name(module.spec.scale_type)},
              {"zero", zero_kind_name(module.spec.zero)},
              {"shape", {module.rows, module.cols}}};
  if (module.spec.sparse) out["sparsity"] = "2:4";
  if (module.spec.rotation != 0) out["rotation"] = module.spec.rotation;
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

// compressed-tensors takes names as they are or, after "re:", as patterns that
// are anchored at the beginning only.
bool matches(const std::string& pattern, const std::string& module, const std::string& where) {
  if (!pattern.starts_with("re:")) return pattern == module;
  return Regex("^(?:" + pattern.substr(3) + ")", where).search(module);
}

}  // namespace

std::vector<std::int32_t> group_order(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                                      const PackedModule& packed) {
  const std::string name = module + (is_column_packed(scheme) ? ".g_idx" : ".weight_g_idx");
  const DenseView* const view = folder.find(name);
  if (view == nullptr || scheme == PackScheme::kMetalMarlin) return {};
  if (view->dtype != DType::kI32 || view->shape != Shape{packed.cols})
    bad_part(folder, name, *view, fmt::format("I32 [{}]", packed.cols));
  std::vector<std::int32_t> groups(static_cast<std::size_t>(packed.cols));
  std::memcpy(groups.data(), view->bytes.data(), view->bytes.size());
  bool neighbours = true;
  for (std::int64_t col = 0; col < packed.cols; ++col) {
    const std::int32_t group = groups[static_cast<std::size_t>(col)];
    if (group == -1 && !is_column_packed(scheme)) return {};  // compressed-tensors' way to say that there is no order
    if (group < 0 || group >= packed.spec.groups(packed.cols)) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: tensor {}: input {} is in group {}, expected one of {}", folder.where(name), name,
                              col, group, packed.spec.groups(packed.cols)));
    }
    neighbours = neighbours && group == col / packed.spec.group_size(packed.cols);
  }
  return neighbours ? std::vector<std::int32_t>{} : groups;
}

std::vector<std::byte> decode_ordered(const PackedView& packed, std::span<const std::int32_t> groups,
                                      ThreadPool& pool) {
  const auto cols = static_cast<std::size_t>(packed.cols);
  const std::span<const float> table = decode_table(packed.spec.format);
  std::vector<std::byte> out(static_cast<std::size_t>(packed.rows) * cols * 2);
  pool.parallel_for(packed.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> codes(cols);
    std::vector<std::uint16_t> halves(cols);
    for (std::int64_t row = begin; row < end; ++row) {
      packed.unpack_row(row, codes.data());
      for (std::size_t k = 0; k < cols; ++k) {
        const float scale = effective_scale(packed.spec, packed.scale(row, groups[k]), packed.global_scale);
        halves[k] = f32_to_f16(scale * (table[codes[k]] - static_cast<float>(packed.zero(row, groups[k]))));
      }
      std::memcpy(out.data() + static_cast<std::size_t>(row) * cols * 2, halves.data(), cols * 2);
    }
  });
  return out;
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

bool fits_compressed_tensors(const std::map<std::string, PackedModule>& modules) {
  if (modules.empty()) return false;
  const FormatSpec& spec = modules.begin()->second.spec;
  const bool integer = integer_pack(spec.format) && spec.zero != ZeroKind::kMinimum;
  const bool fp8 = spec.format == Format::kFp8E4M3 && spec.group == 0;
  if ((!integer && !fp8 && spec.format != Format::kNvfp4) || spec.rotation != 0 || spec.sparse) return false;
  return std::all_of(modules.begin(), modules.end(), [&](const auto& entry) {
    const auto& [name, module] = entry;
    const std::int64_t words = 32 / format_info(spec.format).bits;
    return module.spec == spec && name.starts_with("model.layers.") &&
           module.cols % module.spec.group_size(module.cols) == 0 && module.cols % words == 0;
  });
}

Json quantization_config(PackScheme scheme, const std::map<std::string, PackedModule>& modules,
                         const std::vector<std::string>& ignored) {
  if (scheme == PackScheme::kMetalMarlin) {
    Json tensors = Json::object();
    for (const auto& [name, module] : modules) tensors[name] = spec_json(module);
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

std::string codes_entry(PackScheme scheme, const std::string& module, const FormatSpec& spec) {
  if (is_column_packed(scheme)) return module + ".qweight";
  return module + (stored_as_float8(scheme, spec) ? ".weight" : ".weight_packed");
}

bool is_side_entry(PackScheme scheme, const std::string& name) {
  const auto ends = [&](std::string_view suffix) { return name.ends_with(suffix); };
  if (is_column_packed(scheme)) return std::any_of(kColumnParts.begin(), kColumnParts.end(), ends);
  return std::any_of(kSideParts.begin(), kSideParts.end(), ends);
}

std::vector<TensorPlan> packed_tensor_plans(PackScheme scheme, const std::string& module, const PackedModule& packed) {
  const FormatSpec& spec = packed.spec;
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

QuantizationConfig::QuantizationConfig(const Json& json, const std::string& where) {
  const JsonObject config(json, where + ": quantization_config");
  const std::string method = config.string("quant_method");
  if (method == "metal-marlin") {
    parse_marlin(config);
  } else if (method == "compressed-tensors") {
    parse_compressed(config);
  } else if (method == "gptq" || method == "awq") {
    parse_column_packed(config, method == "awq");
  } else {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: field quant_method is '{}', expected metal-marlin, compressed-tensors, gptq or awq",
                            config.where(), method));
  }
}

void QuantizationConfig::parse_column_packed(const JsonObject& json, bool awq) {
  const std::string form = json.string_or(awq ? "version" : "checkpoint_format", awq ? "gemm" : "gptq");
  if (awq && form != "gemm") json.wrong("version", "gemm");
  if (!awq && form != "gptq" && form != "gptq_v2") json.wrong("checkpoint_format", "gptq or gptq_v2");
  scheme_ = awq ? PackScheme::kAwq : form == "gptq_v2" ? PackScheme::kGptqV2 : PackScheme::kGptq;
  const std::int64_t bits = json.integer("bits");
  const bool symmetric = awq ? !json.boolean_or("zero_point", true) : json.boolean_or("sym", true);
  FormatSpec spec;
  if (bits == 4) {
    spec.format = symmetric ? Format::kS4 : Format::kU4;
  } else if (!awq && symmetric && (bits == 8 || bits == 2)) {
    spec.format = bits == 8 ? Format::kInt8 : Format::kInt2;
  } else {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} bits, {}symmetric, is not one that we read", json.where(),
                                                     bits, symmetric ? "" : "a"));
  }
  spec.zero = symmetric ? ZeroKind::kNone : ZeroKind::kInteger;
  const std::int64_t group = json.integer("group_size");
  if (group != -1 && (group < 1 || group > 1 << 20)) json.wrong("group_size", "-1, or from 1 to 2^20");
  spec.group = group == -1 ? 0 : static_cast<int>(group);
  groups_.push_back({{"Linear"}, spec});
}

void QuantizationConfig::parse_marlin(const JsonObject& json) {
  scheme_ = PackScheme::kMetalMarlin;
  if (json.integer("version") != 1) json.wrong("version", "1");
  const JsonObject tensors = json.object("tensors");
  for (const auto& [name, entry] : tensors.json().items()) {
    const JsonObject item(entry, tensors.where() + ": " + name);
    FormatSpec spec;
    spec.format = parse_format(item.string("format"));
    spec.group = item.at("group").is_string() ? parse_group(item.string("group"))
                                              : static_cast<int>(item.bounded("group", 1, 1 << 20));
    spec.scale_type = parse_scale_type(item.string("scale_type"));
    spec.zero = parse_zero_kind(item.string("zero"));
    spec.rotation = item.has("rotation") ? static_cast<int>(item.bounded("rotation", 16, 128)) : 0;
    if (item.has("sparsity")) {
      if (item.string("sparsity") != "2:4") item.wrong("sparsity", "2:4");
      spec.sparse = true;
    }
    validate(spec);
    const Json& shape = item.at("shape");
    if (!shape.is_array() || shape.size() != 2 || !shape[0].is_number_unsigned() || !shape[1].is_number_unsigned()) {
      item.wrong("shape", "two integers");
    }
    if (spec.sparse && shape[1].get<std::int64_t>() % kSparseGroup != 0)
      item.wrong("shape", "a width that is a multiple of 4, as 2:4 sparsity needs");
    modules_.emplace(name, PackedModule{spec, shape[0].get<std::int64_t>(), shape[1].get<std::int64_t>()});
  }
}

void QuantizationConfig::parse_compressed(const JsonObject& json) {
  scheme_ = PackScheme::kCompressedTensors;
  if (json.has("ignore")) {
    for (const Json& entry : json.at("ignore")) {
      if (!entry.is_string()) json.wrong("ignore", "a list of names");
      ignored_.push_back(entry.get<std::string>());
    }
  }
  const JsonObject groups = json.object("config_groups");
  for (const auto& [name, entry] : groups.json().items()) {
    const JsonObject item(entry, groups.where() + ": " + name);
    const JsonObject weights = item.object("weights");
    const std::string format = item.string_or("format", json.string_or("format", ""));
    const std::string type = weights.string_or("type", "int");
    const std::int64_t bits = weights.integer("num_bits");
    Group group;
    group.spec.zero = weights.boolean_or("symmetric", true) ? ZeroKind::kNone : ZeroKind::kInteger;
    const std::string strategy = weights.string_or("strategy", "channel");
    group.spec.group = strategy == "group" || strategy == "tensor_group"
                           ? static_cast<int>(weights.bounded("group_size", 1, 1 << 20))
                           : 0;
    if (format == "pack-quantized" && type == "int" && bits == 4) {
      group.spec.format = group.spec.zero == ZeroKind::kNone ? Format::kS4 : Format::kU4;
    } else if (format == "pack-quantized" && type == "int" && bits == 8 && group.spec.zero == ZeroKind::kNone) {
      group.spec.format = Format::kInt8;
    } else if (format == "float-quantized" && type == "float" && bits == 8 && strategy != "block") {
      group.spec.format = Format::kFp8E4M3;
    } else if (format == "nvfp4-pack-quantized" && bits == 4) {
      group.spec = default_spec(Format::kNvfp4);
    } else {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: {} {}{} by {}, {}symmetric, is not one that we read", item.where(), format, type,
                              bits, strategy, group.spec.zero == ZeroKind::kNone ? "" : "a"));
    }
    const Json& targets = item.at("targets");
    if (!targets.is_array()) item.wrong("targets", "a list of names");
    for (const Json& target : targets) {
      if (!target.is_string()) item.wrong("targets", "a list of names");
      group.targets.push_back(target.get<std::string>());
    }
    groups_.push_back(std::move(group));
  }
}

std::optional<PackedModule> QuantizationConfig::find(const std::string& module) const {
  const auto found = modules_.find(module);
  if (found != modules_.end()) return found->second;
  for (const std::string& pattern : ignored_) {
    if (matches(pattern, module, "quantization_config: ignore")) return std::nullopt;
  }
  for (const Group& group : groups_) {
    for (const std::string& target : group.targets) {
      if (target == "Linear" || matches(target, module, "quantization_config: targets"))
        return PackedModule{group.spec, 0, 0};
    }
  }
  return std::nullopt;
}

LoadedPack load_packed_tensors(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                               const PackedModule& described) {
  FormatSpec spec = described.spec;
  const bool compressed = scheme == PackScheme::kCompressedTensors;
  const std::string codes_name = codes_entry(scheme, module, spec);
  const DenseView& codes = part(folder, codes_name);
  const DenseView& scales = part(folder, module + ".weight_scale");
  if (codes.shape.size() != 2) bad_part(folder, codes_name, codes, "a matrix");
  if (compressed) {
    const auto type = scale_type_of(scales.dtype);
    if (!type) bad_part(folder, module + ".weight_scale", scales, "F16, BF16, F32 or F8_E4M3");
    spec.scale_type = *type;
  } else if (scales.dtype != scale_dtype(spec.scale_type)) {
    bad_part(folder, module + ".weight_scale", scales, std::string(dtype_name(scale_dtype(spec.scale_type))));
  }
  PackedModule packed{spec, codes.shape[0], 0};
  if (const DenseView* const shape = folder.find(module + ".weight_shape"); shape != nullptr && compressed) {
    if (shape->dtype != DType::kI64 || shape->shape != Shape{2})
      bad_part(folder, module + ".weight_shape", *shape, "I64 [2]");
    std::memcpy(&packed.cols, shape->bytes.data() + sizeof(std::int64_t), sizeof(std::int64_t));
  } else if (!compressed) {
    if (described.rows != packed.rows) bad_part(folder, codes_name, codes, fmt::format("{} rows", described.rows));
    packed.cols = described.cols;
  } else {
    packed.cols =
        codes.shape[1] * static_cast<std::int64_t>(dtype_bytes(codes.dtype)) * 8 / format_info(spec.format).bits;
  }
  if (packed.cols <= 0 || packed.cols > (std::int64_t{1} << 40))
    bad_part(folder, codes_name, codes, "a width from 1 to 2^40");
  LoadedPack loaded;
  loaded.view = {spec, packed.rows, packed.cols, 1, codes.bytes, scales.bytes, {}};
  auto owner = std::make_shared<PackedMatrix>();
  const std::int64_t groups = spec.groups(packed.cols);
  if (compressed && element_count(scales.shape) == 1 && spec.group == 0 &&
      packed.rows != 1) {  // one scale for the tensor
    for (std::int64_t row = 0; row < packed.rows; ++row)
      owner->scales.insert(owner->scales.end(), scales.bytes.begin(), scales.bytes.end());
    loaded.view.scales = owner->scales;
  }
  if (spec.zero == ZeroKind::kMinimum) loaded.view.zeros = part(folder, module + ".weight_min").bytes;
  if (spec.zero == ZeroKind::kInteger) {
    const DenseView& zeros = part(folder, module + ".weight_zero_point");
    loaded.view.zeros = zeros.bytes;
    if (compressed) {
      if (zeros.bytes.size() != static_cast<std::size_t>((packed.rows + 7) / 8 * groups) * 4) {
        bad_part(folder, module + ".weight_zero_point", zeros,
                 fmt::format("I32 [{}, {}]", (packed.rows + 7) / 8, groups));
      }
      owner->spec = spec;
      owner->cols = packed.cols;
      owner->zeros.resize(PackedLayout(spec, packed.rows, packed.cols).zero_bytes);
      for (std::int64_t row = 0; row < packed.rows; ++row) {
        for (std::int64_t group = 0; group < groups; ++group) {
          std::uint32_t word = 0;
          std::memcpy(&word, zeros.bytes.data() + static_cast<std::size_t>(row / 8 * groups + group) * 4, 4);
          owner->set_zero(row, group, static_cast<int>(word >> (4 * (row % 8)) & 15U));
        }
      }
      loaded.view.zeros = owner->zeros;
    }
  }
  if (spec.sparse) loaded.view.positions = part(folder, module + ".weight_positions").bytes;
  if (spec.format == Format::kNvfp4) {
    const std::string name = module + ".weight_global_scale";
    const DenseView& global = part(folder, name);
    if (global.dtype != DType::kF32 || element_count(global.shape) != 1) bad_part(folder, name, global, "F32 [1]");
    std::memcpy(&loaded.view.global_scale, global.bytes.data(), sizeof(float));
  }
  loaded.view.check_sizes(module + ".weight");
  loaded.owner = std::move(owner);
  return loaded;
}

}  // namespace metal_marlin
