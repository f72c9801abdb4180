#include "io/compressed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/round_up.h"
#include "io/fp8_blocks.h"
#include "io/group_order.h"
#include "io/module_pattern.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

using Names = std::span<const std::string_view>;

// How others round activations, keep the cache or have searched scales changes no weight.
constexpr std::array<std::string_view, 12> kTopKeys{"quant_method",
                                                    "format",
                                                    "config_groups",
                                                    "ignore",
                                                    "kv_cache_scheme",
                                                    "quantization_status",
                                                    "sparsity_config",
                                                    "transform_config",
                                                    "version",
                                                    "run_compressed",
                                                    "global_compression_ratio",
                                                    "observer"};
constexpr std::array<std::string_view, 5> kGroupKeys{"targets", "weights", "input_activations", "output_activations",
                                                     "format"};
constexpr std::array<std::string_view, 13> kWeightKeys{
    "num_bits", "type",        "symmetric", "group_size", "strategy", "block_structure", "dynamic",
    "actorder", "scale_dtype", "zp_dtype",  "observer",   "is_mx",    "observer_kwargs"};
constexpr std::array<std::string_view, 9> kCompressedFormats{
    "dense",           "int-quantized",        "float-quantized",      "naive-quantized", "pack-quantized",
    "mixed-precision", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized"};
constexpr std::array<std::string_view, 2> kTransformKeys{"config_groups", "type"};
constexpr std::array<std::string_view, 7> kSchemeKeys{"type",     "apply",     "randomize", "requires_grad",
                                                      "head_dim", "precision", "block_size"};

// The parts of a module beside its codes. Those for activations are not used.
constexpr std::array<std::string_view, 10> kParts{
    ".weight_scale",       ".weight_zero_point", ".weight_global_scale", ".weight_shape",      ".weight_g_idx",
    ".input_global_scale", ".input_scale",       ".input_zero_point",    ".output_zero_point", ".output_scale"};

struct Group {
  FormatSpec spec;
  std::string format;     // how the codes lie; empty or mixed-precision: the tensors tell
  Shape block;            // of FP8 that is scaled by blocks
  bool in_order = false;  // groups are of neighbours, whatever the order was in which they were rounded
};

Format integer_format(int bits, bool symmetric, const JsonObject& weights) {
  struct Formats {
    int bits;
    Format symmetric;
    Format asymmetric;
  };
  constexpr std::array<Formats, 6> kFormatsOf{{{2, Format::kInt2, Format::kU2},
                                               {3, Format::kInt3, Format::kU3},
                                               {4, Format::kS4, Format::kU4},
                                               {5, Format::kInt5, Format::kU5},
                                               {6, Format::kInt6, Format::kU6},
                                               {8, Format::kInt8, Format::kU8}}};
  for (const Formats& formats : kFormatsOf) {
    if (formats.bits == bits) return symmetric ? formats.symmetric : formats.asymmetric;
  }
  weights.wrong("num_bits", "2, 3, 4, 5, 6 or 8");
}

// Whether actorder says that groups are of neighbours. true and false stand for group and none.
bool is_in_order(const JsonObject& weights) {
  if (!weights.has("actorder")) return false;
  if (weights.at("actorder").is_boolean()) return !weights.boolean("actorder");
  const std::string order = weights.string("actorder");
  if (order == "group" || order == "dynamic") return false;
  if (order != "weight" && order != "static") weights.wrong("actorder", "group, dynamic, weight or static");
  return true;
}

// How codes lie, by this part of the configuration; empty where it does not say. \throws Error (kUnsupported) naming
// one that is not read, used or not.
std::string stored_format(const JsonObject& json) {
  if (!json.has("format")) return "";
  std::string format = json.string("format");
  if (std::find(kCompressedFormats.begin(), kCompressedFormats.end(), format) == kCompressedFormats.end())
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: format {} is not one that we read", json.where(), format));
  return format;
}

Group parse_config_group(const JsonObject& item, const std::string& overall) {
  item.only(kGroupKeys);
  const JsonObject weights = item.object("weights");
  weights.only(kWeightKeys);
  const std::string own = stored_format(item);
  const std::string& format = own.empty() ? overall : own;
  const std::string type = weights.string_or("type", "int");
  const auto bits = static_cast<int>(weights.bounded("num_bits", 1, 16));
  const bool grouped = weights.has("group_size") && weights.integer("group_size") != -1;
  const std::string strategy = weights.string_or("strategy", grouped ? "group" : "channel");
  const bool symmetric = weights.boolean_or("symmetric", true);
  Group group;
  group.format = format;
  group.spec.zero = symmetric ? ZeroKind::kNone : ZeroKind::kInteger;
  group.spec.group = strategy == "group" || strategy == "tensor_group"
                         ? static_cast<int>(weights.bounded("group_size", 1, 1 << 20))
                         : 0;
  if (type == "int") {
    group.spec.format = integer_format(bits, symmetric, weights);
  } else if (type == "float" && bits == 8 && symmetric) {
    group.spec.format = Format::kFp8E4M3;
  } else if (type == "float" && bits == 4 && symmetric) {
    group.spec = default_spec(format == "mxfp4-pack-quantized" ? Format::kMxfp4 : Format::kNvfp4);
  } else {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}{}, {}symmetric, is not one that we read", item.where(),
                                                     type, bits, symmetric ? "" : "a"));
  }
  group.in_order = is_in_order(weights);
  if (strategy == "block") {
    if (group.spec.format != Format::kFp8E4M3) weights.wrong("strategy", "block with 8-bit floats alone");
    group.block = block_shape(weights, "block_structure");
  } else if (strategy != "group" && strategy != "tensor_group" && strategy != "channel" && strategy != "tensor") {
    weights.wrong("strategy", "tensor, channel, group, tensor_group or block");
  }
  return group;
}

// Rotations of what modules read, which their weights were rotated for.
class Transforms {
 public:
  explicit Transforms(const JsonObject& quantization) {
    if (!quantization.has("transform_config")) return;
    const JsonObject config = quantization.object("transform_config");
    config.only(kTransformKeys);
    if (!config.has("config_groups")) return;
    const JsonObject groups = config.object("config_groups");
    for (const auto& [name, value] : groups.json().items()) add({value, groups.where() + ": " + name});
  }

  // The block of a module's rotation; 0: none.
  [[nodiscard]] int rotation_of(const std::string& module, std::int64_t cols) const {
    int block = 0;
    for (const Input& input : inputs_) {
      if (input.targets.match(module) == ModuleTargets::Match::kNone) continue;
      if (input.ignore.match(module) != ModuleTargets::Match::kNone) continue;
      if (block != 0) refuse(input.where, "a second rotation of " + module + "'s input");
      const std::int64_t size = input.size == 0 ? cols : input.size;
      if (!std::has_single_bit(static_cast<std::uint64_t>(size)) || cols % size != 0 || size < 2 || size > 1 << 20)
        refuse(input.where, fmt::format("a Hadamard matrix of {} for {}, which reads {} elements", size, module, cols));
      block = static_cast<int>(size);
    }
    return block;
  }

 private:
  struct Input {
    ModuleTargets targets;
    ModuleTargets ignore;
    std::int64_t size;  // 0: the whole input
    std::string where;
  };

  [[noreturn]] static void refuse(const std::string& where, const std::string& what) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} is not one that we apply", where, what));
  }

  void add(const JsonObject& scheme) {
    scheme.only(kSchemeKeys);
    const std::string type = scheme.string("type");
    const Json& applied = scheme.at("apply");
    if (!applied.is_array()) scheme.wrong("apply", "a list");
    for (const Json& entry : applied) {
      const JsonObject apply(entry, scheme.where() + ": apply");
      const std::string location = apply.string("location");
      if (location == "weight_input" || location == "weight_output") continue;  // the stored weights have it
      if (location != "input") refuse(apply.where(), "location " + location);
      if (type != "hadamard" || scheme.boolean_or("randomize", false))
        refuse(scheme.where(), fmt::format("type {}{}", type, type == "hadamard" ? " that is randomized" : ""));
      const char* const size = scheme.has("head_dim") ? "head_dim" : "block_size";
      inputs_.push_back({ModuleTargets(names_of(apply, "targets")), ModuleTargets(names_of(apply, "ignore")),
                         scheme.has(size) ? scheme.bounded(size, 1, 1 << 20) : 0, apply.where()});
    }
  }

  std::vector<Input> inputs_;
};

// ".weight_zero_point": packed along the rows, a stream of bits a group, or a byte each.
void read_zeros(const SafetensorsFolder& folder, const std::string& module, PackedMatrix& matrix) {
  const std::string name = module + ".weight_zero_point";
  const DenseView& zeros = part(folder, name);
  const FormatSpec& spec = matrix.spec;
  const std::int64_t groups = spec.groups(matrix.cols);
  const int bits = format_info(spec.format).bits;
  const std::int64_t words = (matrix.rows * bits + 31) / 32;
  const bool bytes = zeros.dtype == DType::kI8;
  const auto expected = static_cast<std::size_t>(bytes ? matrix.rows * groups : words * groups * 4);
  if ((!bytes && zeros.dtype != DType::kI32) || zeros.bytes.size() != expected)
    bad_part(folder, name, zeros, fmt::format("I32 [{}, {}], or I8 [{}, {}]", words, groups, matrix.rows, groups));
  const auto word = [&](std::int64_t row, std::int64_t group) {
    std::uint32_t value = 0;
    if (row < words) std::memcpy(&value, zeros.bytes.data() + static_cast<std::size_t>(row * groups + group) * 4, 4);
    return std::uint64_t{value};
  };
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t group = 0; group < groups; ++group) {
      unsigned zero = 0;
      if (bytes) {
        const auto value = std::to_integer<std::uint8_t>(zeros.bytes[static_cast<std::size_t>(row * groups + group)]);
        zero = static_cast<unsigned>(static_cast<std::int8_t>(value) + (1 << (bits - 1)));
      } else {
        const std::int64_t bit = row * bits;
        zero = static_cast<unsigned>((word(bit / 32, group) | word(bit / 32 + 1, group) << 32) >> (bit % 32));
      }
      matrix.set_zero(row, group, static_cast<int>(zero & ((1U << bits) - 1)));
    }
  }
}

// The format says in which tensor codes lie. \throws Error (kCorruptFile) naming the field and a tensor that it rules
// out.
void check_format(const SafetensorsFolder& folder, const JsonObject& quantization, const std::string& format,
                  const std::string& codes) {
  if (format.empty() || format == "mixed-precision") return;
  const bool packed = format.ends_with("pack-quantized");
  if (format != "dense" && packed == codes.ends_with(".weight_packed")) return;
  throw Error(ErrorCode::kCorruptFile, fmt::format("{}: field format is {}, whose codes are not in {} of {}",
                                                   quantization.where(), format, codes, folder.where(codes)));
}

// Symmetric codes may have zeros beside them that change nothing. \throws Error (kCorruptFile) naming others.
void check_no_zeros(const SafetensorsFolder& folder, const std::string& module, const FormatSpec& spec) {
  const std::string name = module + ".weight_zero_point";
  const DenseView* const zeros = folder.find(name);
  if (spec.zero != ZeroKind::kNone || zeros == nullptr) return;
  const int bits = format_info(spec.format).bits;
  const std::int64_t count = static_cast<std::int64_t>(zeros->bytes.size()) * 8 / bits;
  for (std::int64_t i = 0; i < count; ++i) {
    unsigned window = 0;
    const auto bit = static_cast<std::size_t>(i * bits);
    std::memcpy(&window, zeros->bytes.data() + bit / 8, std::min<std::size_t>(2, zeros->bytes.size() - bit / 8));
    const unsigned zero = (window >> (bit % 8)) & ((1U << bits) - 1);
    // Packed ones are codes, the middle of which is 0; the last word may have places for rows that there are not.
    if (zero == 0 || (zeros->dtype == DType::kI32 && zero == 1U << (bits - 1))) continue;
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: zeros that are not 0, but the configuration says symmetric",
                            folder.where(name), name));
  }
}

// weight_shape, where there is one, is that of the codes.
void check_shape(const SafetensorsFolder& folder, const std::string& module, std::int64_t rows, std::int64_t cols) {
  const std::string name = module + ".weight_shape";
  if (folder.find(name) == nullptr) return;
  const DenseView& view = typed_part(folder, name, DType::kI64, {2});
  std::array<std::int64_t, 2> found{};
  std::memcpy(found.data(), view.bytes.data(), sizeof(found));
  if (found[0] != rows || found[1] != cols)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: found the shape [{}, {}], expected [{}, {}]",
                                                     folder.where(name), name, found[0], found[1], rows, cols));
}

// Codes of a module: where they lie and what the shape of the whole is.
struct Codes {
  const DenseView* view;
  std::string name;
  std::int64_t cols;
};

Codes codes_of(const SafetensorsFolder& folder, const std::string& module, const FormatSpec& spec) {
  Codes out{folder.find(module + ".weight_packed"), module + ".weight_packed", 0};
  const int bits = format_info(spec.format).bits;
  if (out.view == nullptr) {
    out.name = module + ".weight";
    out.view = &part(folder, out.name);
    const DType type = spec.format == Format::kFp8E4M3 ? DType::kF8E4M3 : DType::kI8;
    if (out.view->shape.size() != 2 || out.view->dtype != type)
      bad_part(folder, out.name, *out.view, fmt::format("{} [rows, columns]", dtype_name(type)));
    out.cols = out.view->shape[1];
    check_shape(folder, module, out.view->shape[0], out.cols);
  } else if (out.view->shape.size() != 2 || (out.view->dtype != DType::kI32 && out.view->dtype != DType::kU8)) {
    bad_part(folder, out.name, *out.view, "I32 or U8 [rows, words]");
  } else if (const DenseView* const shape = folder.find(module + ".weight_shape"); shape != nullptr) {
    typed_part(folder, module + ".weight_shape", DType::kI64, {2});
    std::memcpy(&out.cols, shape->bytes.data() + sizeof(std::int64_t), sizeof(std::int64_t));
    check_shape(folder, module, out.view->shape[0], out.cols);
  } else {
    out.cols = out.view->shape[1] * static_cast<std::int64_t>(dtype_bytes(out.view->dtype)) * 8 / bits;
  }
  if (out.cols <= 0 || out.cols > (std::int64_t{1} << 40) || out.view->bytes.empty())
    bad_part(folder, out.name, *out.view, "a width from 1 to 2^40");
  return out;
}

FormatSpec with_scale_type(const SafetensorsFolder& folder, const std::string& module, FormatSpec spec) {
  const std::string name = module + ".weight_scale";
  const DenseView& scales = part(folder, name);
  const bool exponents = scales.dtype == DType::kU8 || scales.dtype == DType::kF8E8M0;
  auto type = scale_type_of(scales.dtype);
  if (exponents) type = spec.format == Format::kMxfp4 ? ScaleType::kE8m0 : ScaleType::kBf16;  // holds powers of two
  const bool fits = type && (!exponents || spec.format == Format::kMxfp4 || spec.format == Format::kFp8E4M3) &&
                    (spec.format == Format::kNvfp4) == (scales.dtype == DType::kF8E4M3) &&
                    (spec.format != Format::kMxfp4 || exponents);
  if (!fits) bad_part(folder, name, scales, "scales of the format");
  spec.scale_type = *type;
  return spec;
}

// The rows' codes in our order, where they are a byte each, or rows end on words.
std::vector<std::byte> repack(const Codes& codes, const FormatSpec& spec, std::int64_t rows, const std::string& where) {
  const int bits = format_info(spec.format).bits;
  const int half = 1 << (bits - 1);
  const std::size_t row_bytes = PackedLayout(spec, 1, codes.cols).code_row_bytes;
  const std::size_t stored = codes.view->bytes.size() / static_cast<std::size_t>(rows);
  std::vector<std::byte> out(static_cast<std::size_t>(rows) * row_bytes);
  std::vector<std::uint8_t> unpacked(static_cast<std::size_t>(codes.cols));
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    const std::byte* const from = codes.view->bytes.data() + row * stored;
    if (codes.view->dtype == DType::kI8) {
      for (std::size_t i = 0; i < unpacked.size(); ++i) {
        const auto value = static_cast<std::int8_t>(std::to_integer<std::uint8_t>(from[i]));
        if (value < -half || value >= half)
          throw Error(ErrorCode::kCorruptFile,
                      fmt::format("{}: found code {}, expected one of num_bits {}, from {} to {}", where, value, bits,
                                  -half, half - 1));
        unpacked[i] = static_cast<std::uint8_t>(value + half);
      }
      pack_codes(bits, unpacked, out.data() + row * row_bytes);
    } else {
      std::memcpy(out.data() + row * row_bytes, from, row_bytes);
    }
  }
  return out;
}

// Words of a row hold its codes, and there is a scale for each of its groups, or one for all.
void check_layout(const SafetensorsFolder& folder, const std::string& module, const Codes& codes,
                  const DenseView& scales, const FormatSpec& spec) {
  const std::int64_t rows = codes.view->shape[0];
  const auto size = static_cast<std::int64_t>(dtype_bytes(codes.view->dtype));
  const bool plain = codes.view->dtype == DType::kI8 || codes.view->dtype == DType::kF8E4M3;
  const auto row_bytes = static_cast<std::int64_t>(PackedLayout(spec, 1, codes.cols).code_row_bytes);
  const Shape expected{rows, plain ? codes.cols : divide_up(row_bytes, size)};
  if (codes.view->shape != expected)
    bad_part(folder, codes.name, *codes.view,
             fmt::format("{} {}", dtype_name(codes.view->dtype), shape_text(expected)));
  const std::int64_t groups = spec.groups(codes.cols);
  const std::int64_t count = element_count(scales.shape).value_or(0);
  if (count != rows * groups && (count != 1 || spec.group != 0))
    bad_part(folder, module + ".weight_scale", scales,
             fmt::format("{} {}", dtype_name(scales.dtype), shape_text({rows, groups})));
}

}  // namespace

LoadedPack load_compressed(const SafetensorsFolder& folder, const std::string& module, const FormatSpec& described) {
  const FormatSpec spec = with_scale_type(folder, module, described);
  const Codes codes = codes_of(folder, module, spec);
  const std::int64_t rows = codes.view->shape[0];
  const DenseView& scales = part(folder, module + ".weight_scale");
  const PackedLayout layout(spec, rows, codes.cols);
  LoadedPack loaded;
  loaded.view = {spec, rows, codes.cols, 1, codes.view->bytes, scales.bytes, {}};
  auto owner = std::make_shared<PackedMatrix>();
  owner->spec = spec;
  owner->rows = rows;
  owner->cols = codes.cols;
  const std::size_t stored = codes.view->bytes.size() / static_cast<std::size_t>(rows);
  check_layout(folder, module, codes, scales, spec);
  if (codes.view->dtype == DType::kI8 || (stored > layout.code_row_bytes && stored - layout.code_row_bytes < 4)) {
    owner->codes = repack(codes, spec, rows, fmt::format("{}: module {}", folder.where(module + ".weight"), module));
    loaded.view.codes = owner->codes;
  }
  const bool one = element_count(scales.shape) == 1 && spec.group == 0;  // for the tensor
  const bool exponents = spec.scale_type == ScaleType::kBf16 && scales.dtype != DType::kBf16;
  if (one || exponents) {
    owner->scales.resize(layout.scale_bytes);
    const ScaleType type = exponents ? ScaleType::kE8m0 : spec.scale_type;
    const auto count = static_cast<std::size_t>(rows * spec.groups(codes.cols));
    for (std::size_t i = 0; i < count; ++i)
      store_scale(spec.scale_type, owner->scales, i, load_scale(type, scales.bytes, one ? 0 : i));
    loaded.view.scales = owner->scales;
  }
  if (spec.zero == ZeroKind::kInteger) {
    owner->zeros.resize(layout.zero_bytes);
    read_zeros(folder, module, *owner);
    loaded.view.zeros = owner->zeros;
  }
  if (spec.format == Format::kNvfp4) {
    const std::string name = module + ".weight_global_scale";
    const DenseView& global = part(folder, name);
    if (global.dtype != DType::kF32 || element_count(global.shape) != 1) bad_part(folder, name, global, "F32 [1]");
    std::memcpy(&loaded.view.global_scale, global.bytes.data(), sizeof(float));
  }
  loaded.owner = std::move(owner);
  return loaded;
}

std::vector<StoredWeight> compressed_weights(const SafetensorsFolder& folder, const JsonObject& quantization) {
  quantization.only(kTopKeys);
  if (quantization.has("sparsity_config")) {
    const JsonObject sparsity = quantization.object("sparsity_config");
    if (sparsity.string_or("format", "dense") != "dense") sparsity.wrong("format", "dense");
  }
  const ModuleTargets ignored(names_of(quantization, "ignore"));
  const Transforms transforms(quantization);
  std::vector<Group> groups;
  std::vector<ModuleTargets> targets;
  const std::string overall = stored_format(quantization);
  const JsonObject config = quantization.object("config_groups");
  for (const auto& [name, entry] : config.json().items()) {
    const JsonObject item(entry, config.where() + ": " + name);
    groups.push_back(parse_config_group(item, overall));
    targets.emplace_back(names_of(item, "targets"));
  }
  std::vector<StoredWeight> out;
  for (const auto& [name, view] : folder.tensors()) {
    const std::string module = module_of(name);
    const bool plain = name.ends_with(".weight") && (view.dtype == DType::kI8 || view.dtype == DType::kF8E4M3) &&
                       folder.find(module + ".weight_scale") != nullptr;
    if (!plain && !name.ends_with(".weight_packed")) continue;
    const int group = best_match(targets, module);
    if (group < 0) continue;
    if (ignored.match(module) < ModuleTargets::Match::kClass) packed_left_out(quantization, "ignore", module);
    const Group& described = groups[static_cast<std::size_t>(group)];
    check_format(folder, quantization, described.format, name);
    check_no_zeros(folder, module, described.spec);
    const std::string global = module + ".weight_global_scale";
    if (described.spec.format != Format::kNvfp4 && folder.find(global) != nullptr)
      bad_part(folder, global, part(folder, global), "none beside scales of one level");
    StoredWeight weight;
    if (!described.block.empty()) {
      weight = fp8_block_weight(folder, module, module + ".weight_scale", described.block);
    } else {
      FormatSpec spec = with_scale_type(folder, module, described.spec);
      const Codes codes = codes_of(folder, module, spec);
      spec.rotation = transforms.rotation_of(module, codes.cols);
      weight = grouped_weight(folder, module + ".weight_g_idx", module, spec, codes.view->shape[0], codes.cols, {name},
                              [&folder, module, spec] { return load_compressed(folder, module, spec); });
    }
    if (described.in_order && !weight.info.packed) {
      throw Error(
          ErrorCode::kCorruptFile,
          fmt::format("{}: tensor {}.weight_g_idx has groups in an order, which field actorder says that there is "
                      "not",
                      folder.where(name), module));
    }
    for (const std::string_view suffix : kParts) weight.parts.push_back(module + std::string(suffix));
    out.push_back(std::move(weight));
  }
  return out;
}

}  // namespace metal_marlin
