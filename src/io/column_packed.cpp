#include "io/column_packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/regex.h"
#include "io/group_order.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// What these say beside the layout tells how the weights were found, or how other programs run them.
constexpr std::array<std::string_view, 47> kColumnPackedKeys{"quant_method",
                                                             "bits",
                                                             "group_size",
                                                             "sym",
                                                             "zero_point",
                                                             "version",
                                                             "checkpoint_format",
                                                             "format",
                                                             "dynamic",
                                                             "desc_act",
                                                             "w_bit",
                                                             "q_group_size",
                                                             "damp_percent",
                                                             "damp_auto_increment",
                                                             "static_groups",
                                                             "act_group_aware",
                                                             "true_sequential",
                                                             "lm_head",
                                                             "meta",
                                                             "pack_dtype",
                                                             "model_name_or_path",
                                                             "model_file_base_name",
                                                             "dataset",
                                                             "tokenizer",
                                                             "backend",
                                                             "batch_size",
                                                             "cache_block_outputs",
                                                             "block_name_to_quantize",
                                                             "exllama_config",
                                                             "use_exllama",
                                                             "use_cuda_fp16",
                                                             "disable_exllama",
                                                             "max_input_length",
                                                             "model_seqlen",
                                                             "pad_token_id",
                                                             "module_name_preceding_first_block",
                                                             "hyb_act",
                                                             "modules_in_block_to_quantize",
                                                             "mse",
                                                             "modules_to_not_convert",
                                                             "do_fuse",
                                                             "fuse_max_seq_len",
                                                             "modules_to_fuse",
                                                             "offload_to_disk",
                                                             "offload_to_disk_path",
                                                             "gptaq",
                                                             "vram_strategy"};
constexpr std::array<std::string_view, 8> kRuleKeys{"bits", "group_size",   "sym",           "desc_act",
                                                    "mse",  "damp_percent", "static_groups", "act_group_aware"};

enum class Layout : std::uint8_t {
  kGptq,    // zeros less one
  kGptqV2,  // zeros as they are
  kAwq,
};

// AWQ's order of eight outputs in a word, from its lowest bits on.
constexpr std::array<std::int64_t, 8> kAwqOrder{0, 2, 4, 6, 1, 3, 5, 7};

Format format_of(std::int64_t bits, bool symmetric, const JsonObject& json, const char* key) {
  switch (bits) {
    case 2: return symmetric ? Format::kInt2 : Format::kU2;
    case 3: return symmetric ? Format::kInt3 : Format::kU3;
    case 4: return symmetric ? Format::kS4 : Format::kU4;
    case 8: return symmetric ? Format::kInt8 : Format::kU8;
    default: json.wrong(key, "2, 3, 4 or 8");
  }
}

class ColumnPacked {
 public:
  ColumnPacked(const SafetensorsFolder& folder, Layout layout, std::string module, const FormatSpec& described)
      : folder_(folder),
        layout_(layout),
        module_(std::move(module)),
        spec_(described),
        bits_(format_info(spec_.format).bits),
        codes_(words_of(".qweight")),
        zeros_(words_of(".qzeros")),
        scales_(matrix(".scales")) {
    rows_ = scales_.shape[1];
    const bool awq = layout == Layout::kAwq;
    cols_ = awq ? codes_.shape[0] : codes_.shape[0] * 32 / bits_;
    if (rows_ == 0 || cols_ == 0) wrong(".qweight", codes_, "a matrix that is not empty");
    expect(".qweight", codes_, awq ? Shape{cols_, words(rows_)} : Shape{words(cols_), rows_});
    const auto type = scale_type_of(scales_.dtype);
    if (!type || *type == ScaleType::kE4m3 || *type == ScaleType::kE8m0)
      wrong(".scales", scales_, fmt::format("F16, BF16 or F32 {}", shape_text(scales_.shape)));
    spec_.scale_type = *type;
    expect(".scales", scales_, {spec_.groups(cols_), rows_});
    expect(".qzeros", zeros_, {spec_.groups(cols_), words(rows_)});
  }

  [[nodiscard]] StoredWeight weight() const {
    return grouped_weight(folder_, module_ + ".g_idx", module_, spec_, rows_, cols_,
                          {module_ + ".qweight", module_ + ".qzeros", module_ + ".scales"},
                          [self = *this] { return self.load(); });
  }

 private:
  [[nodiscard]] LoadedPack load() const {
    auto matrix = std::make_shared<PackedMatrix>(spec_, rows_, cols_);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_));
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t col = 0; col < cols_; ++col) codes[static_cast<std::size_t>(col)] = code(row, col);
      matrix->set_codes(row, codes);
      for (std::int64_t group = 0; group < spec_.groups(cols_); ++group) {
        const auto at = static_cast<std::size_t>(group * rows_ + row);
        matrix->set_scale(row, group, load_scale(spec_.scale_type, scales_.bytes, at));
        put_zero(*matrix, row, group);
      }
    }
    return {matrix->view(), matrix};
  }

  // Words that hold n codes, which may lie across the ends of words.
  [[nodiscard]] std::int64_t words(std::int64_t n) const { return (n * bits_ + 31) / 32; }

  [[nodiscard]] const DenseView& matrix(const char* suffix) const {
    const DenseView& view = part(folder_, module_ + suffix);
    if (view.shape.size() != 2) wrong(suffix, view, "a matrix");
    return view;
  }
  [[nodiscard]] const DenseView& words_of(const char* suffix) const {
    const DenseView& view = matrix(suffix);
    if (view.dtype != DType::kI32) wrong(suffix, view, fmt::format("I32 {}", shape_text(view.shape)));
    return view;
  }
  void expect(const char* suffix, const DenseView& view, const Shape& shape) const {
    if (view.shape != shape) wrong(suffix, view, fmt::format("{} {}", dtype_name(view.dtype), shape_text(shape)));
  }
  [[noreturn]] void wrong(const char* suffix, const DenseView& view, const std::string& expected) const {
    bad_part(folder_, module_ + suffix, view, expected);
  }

  [[nodiscard]] static std::uint32_t word(const DenseView& view, std::int64_t index) {
    std::uint32_t out = 0;
    std::memcpy(&out, view.bytes.data() + static_cast<std::size_t>(index) * sizeof(out), sizeof(out));
    return out;
  }
  // Code `place` of a stream of bits whose words are word_at(0), word_at(1), ...
  template <typename WordAt>
  [[nodiscard]] unsigned field(std::int64_t place, const WordAt& word_at) const {
    const std::int64_t bit = place * bits_;
    std::uint64_t window = word_at(bit / 32);
    if (bit % 32 + bits_ > 32) window |= std::uint64_t{word_at(bit / 32 + 1)} << 32;
    return static_cast<unsigned>(window >> (bit % 32)) & ((1U << bits_) - 1);
  }
  // Where an output lies among those that are packed across.
  [[nodiscard]] std::int64_t place_across(std::int64_t row) const {
    if (layout_ != Layout::kAwq) return row;
    const auto found = std::find(kAwqOrder.begin(), kAwqOrder.end(), row % 8);
    return row / 8 * 8 + (found - kAwqOrder.begin());
  }

  [[nodiscard]] std::uint8_t code(std::int64_t row, std::int64_t col) const {
    if (layout_ == Layout::kAwq) {
      return static_cast<std::uint8_t>(
          field(place_across(row), [&](std::int64_t i) { return word(codes_, col * words(rows_) + i); }));
    }
    return static_cast<std::uint8_t>(field(col, [&](std::int64_t i) { return word(codes_, i * rows_ + row); }));
  }

  // The first form of GPTQ's files has zeros less one: one was taken from every field of a word at once.
  [[nodiscard]] std::uint32_t added_to_zeros() const {
    if (layout_ != Layout::kGptq || 32 % bits_ != 0) return 0;
    return 0xFFFFFFFFU / ((1U << bits_) - 1);
  }

  void put_zero(PackedMatrix& matrix, std::int64_t row, std::int64_t group) const {
    const auto stored = [&](std::uint32_t added) {
      return field(place_across(row), [&](std::int64_t i) { return word(zeros_, group * words(rows_) + i) + added; });
    };
    const unsigned limit = 1U << bits_;
    unsigned zero = stored(added_to_zeros());
    if (layout_ == Layout::kGptq && 32 % bits_ != 0) zero = (zero + 1) % limit;
    if (spec_.zero == ZeroKind::kInteger) {
      matrix.set_zero(row, group, static_cast<int>(zero));
      return;
    }
    // Symmetric codes have one zero, whichever form the file says that it is in.
    const unsigned middle = limit / 2;
    if (zero == middle || stored(0) == middle) return;
    const std::string name = module_ + ".qzeros";
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: the zero of output {}, group {} is {}, expected {} of symmetric codes",
                            folder_.where(name), name, row, group, zero, middle));
  }

  const SafetensorsFolder& folder_;
  Layout layout_;
  std::string module_;
  FormatSpec spec_;
  int bits_;
  const DenseView& codes_;
  const DenseView& zeros_;
  const DenseView& scales_;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

int group_of(const JsonObject& json, const char* key) {
  const std::int64_t group = json.integer(key);
  if (group != -1 && (group < 1 || group > 1 << 20)) json.wrong(key, "-1, or from 1 to 2^20");
  return group == -1 ? 0 : static_cast<int>(group);
}

// One of GPTQModel's rules: modules that a pattern matches from their beginning on have another spec, or none.
struct Rule {
  Regex pattern;
  bool dense;
  std::optional<std::int64_t> bits;
  std::optional<int> group;
  std::optional<bool> symmetric;
};

std::vector<Rule> parse_rules(const std::vector<ModuleRule>& rules, const std::string& where) {
  std::vector<Rule> out;
  for (const auto& [key, value] : rules) {
    const bool marked = key.starts_with("-:") || key.starts_with("+:");
    const std::string place = fmt::format("{}: dynamic: {}", where, key);
    Rule rule{Regex(fmt::format("^(?:{})", key.substr(marked ? 2 : 0)), place), key.starts_with("-:"), {}, {}, {}};
    if (!rule.dense) {
      const JsonObject json(value, place);
      json.only(kRuleKeys);
      if (json.has("bits")) rule.bits = json.integer("bits");
      if (json.has("group_size")) rule.group = group_of(json, "group_size");
      if (json.has("sym")) rule.symmetric = json.boolean_or("sym", true);
    }
    out.push_back(std::move(rule));
  }
  return out;
}

bool is_symmetric(const JsonObject& json, bool fallback) {
  if (!json.has("zero_point")) return json.boolean_or("sym", fallback);
  const bool symmetric = !json.boolean("zero_point");
  if (json.boolean_or("sym", symmetric) != symmetric) json.wrong("zero_point", "the opposite of sym");
  return symmetric;
}

template <typename SpecOf>
std::vector<StoredWeight> weights_of(const SafetensorsFolder& folder, Layout layout, const SpecOf& spec_of) {
  std::vector<StoredWeight> out;
  for (const auto& [name, view] : folder.tensors()) {
    if (!name.ends_with(".qweight")) continue;
    const std::optional<FormatSpec> spec = spec_of(module_of(name));
    if (spec) out.push_back(ColumnPacked(folder, layout, module_of(name), *spec).weight());
  }
  return out;
}

FormatSpec spec_of_bits(Format format, int group) {
  return {format, group, ScaleType::kF16, is_unsigned(format) ? ZeroKind::kInteger : ZeroKind::kNone};
}

}  // namespace

std::vector<StoredWeight> gptq_weights(const SafetensorsFolder& folder, const JsonObject& json,
                                       const std::vector<ModuleRule>& dynamic) {
  json.only(kColumnPackedKeys);
  const char* const key = json.either("checkpoint_format", "format");
  const std::string form = json.string_or(key, "gptq");
  if (form != "gptq" && form != "gptq_v2") json.wrong(key, "gptq or gptq_v2");
  if (json.string_or("pack_dtype", "int32") != "int32") json.wrong("pack_dtype", "int32");
  const std::vector<Rule> rules = parse_rules(dynamic, json.where());
  const char* const bits_key = json.either("bits", "w_bit");
  const std::int64_t bits = json.integer(bits_key);
  const int group = group_of(json, json.either("group_size", "q_group_size"));
  const bool symmetric = is_symmetric(json, true);
  static_cast<void>(format_of(bits, symmetric, json, bits_key));
  std::vector<StoredWeight> out = weights_of(
      folder, form == "gptq" ? Layout::kGptq : Layout::kGptqV2,
      [&](const std::string& module) -> std::optional<FormatSpec> {
        for (const Rule& rule : rules) {
          if (!rule.pattern.search(module)) continue;
          if (rule.dense) return std::nullopt;
          return spec_of_bits(format_of(rule.bits.value_or(bits), rule.symmetric.value_or(symmetric), json, "dynamic"),
                              rule.group.value_or(group));
        }
        return spec_of_bits(format_of(bits, symmetric, json, bits_key), group);
      });
  refuse_left_out(json, "modules_to_not_convert", out);
  refuse_unlisted(json, "modules_in_block_to_quantize", out);
  for (const StoredWeight& weight : out) {
    if (weight.info.name == "lm_head.weight" && !json.boolean_or("lm_head", true))
      packed_left_out(json, "lm_head", "lm_head");
  }
  return out;
}

std::vector<StoredWeight> awq_weights(const SafetensorsFolder& folder, const JsonObject& json) {
  json.only(kColumnPackedKeys);
  for (const char* const key : {"version", "checkpoint_format", "format"}) {
    std::string form = json.string_or(key, "gemm");
    std::transform(form.begin(), form.end(), form.begin(), [](unsigned char c) { return std::tolower(c); });
    if (form != "gemm") json.wrong(key, "gemm");
  }
  const char* const bits = json.either("bits", "w_bit");
  if (json.integer(bits) != 4) json.wrong(bits, "4");
  const FormatSpec spec = spec_of_bits(is_symmetric(json, false) ? Format::kS4 : Format::kU4,
                                       group_of(json, json.either("group_size", "q_group_size")));
  std::vector<StoredWeight> out =
      weights_of(folder, Layout::kAwq, [&](const std::string&) { return std::optional(spec); });
  refuse_left_out(json, "modules_to_not_convert", out);
  return out;
}

}  // namespace metal_marlin
