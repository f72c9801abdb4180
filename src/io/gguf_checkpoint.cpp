#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "formats/small_floats.h"
#include "io/checkpoint_kinds.h"
#include "io/gguf.h"
#include "io/gguf_blocks.h"
#include "io/gguf_byte_order.h"
#include "io/gguf_latent.h"
#include "io/gguf_model.h"
#include "io/gguf_tokenizer.h"
#include "io/mapped_file.h"
#include "io/model_folder.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// A file of a model, of which it may be a part.
struct Part {
  explicit Part(const std::filesystem::path& path) : file(path) {
    const std::string where = path.string();
    if (is_big_endian_gguf(file.bytes())) turned = little_endian_gguf(file.bytes(), where);
    gguf = parse_gguf(turned.empty() ? file.bytes() : turned, where);
  }
  MappedFile file;
  std::vector<std::byte> turned;  // of a big-endian file
  Gguf gguf;
};

// All parts of the model that `path` is a part of, in order.
std::vector<std::unique_ptr<Part>> open_parts(const std::filesystem::path& path) {
  std::vector<std::unique_ptr<Part>> parts;
  parts.push_back(std::make_unique<Part>(path));
  constexpr std::int64_t kMostParts = 65535;
  const std::int64_t count = parts[0]->gguf.integer("split.count").value_or(1);
  if (count < 0 || count > kMostParts)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key split.count is {}, expected an integer from 0 to {}",
                                                     path.string(), count, kMostParts));
  if (count <= 1) return parts;
  const std::string name = path.filename().string();
  const std::vector<std::string> names = numbered_parts(name);
  if (static_cast<std::int64_t>(names.size()) != count) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: key split.count is {}, expected a name such as {}-00001-of-{:05}.gguf", path.string(),
                            count, path.stem().string(), count));
  }
  std::vector<std::unique_ptr<Part>> all;
  std::int64_t tensors = 0;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
    if (names[i] != name && !has_file(folder, names[i])) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("{}: part {} of {}, {}, is missing", path.string(), i + 1, count, names[i]));
    }
    all.push_back(names[i] == name ? std::move(parts[0]) : std::make_unique<Part>(file_in(folder, names[i])));
    const Gguf& gguf = all.back()->gguf;
    if (gguf.integer("split.count") != count || gguf.integer("split.no") != static_cast<std::int64_t>(i)) {
      throw Error(
          ErrorCode::kCorruptFile,
          fmt::format("{}: keys split.no and split.count are not those of part {} of {}", gguf.where, i + 1, count));
    }
    tensors += static_cast<std::int64_t>(gguf.tensors.size());
  }
  const std::int64_t expected = all[0]->gguf.integer("split.tensors.count").value_or(tensors);
  if (tensors != expected)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: {} tensors in all parts, key split.tensors.count is {}",
                                                     path.string(), tensors, expected));
  return all;
}

class GgufCheckpoint final : public Checkpoint {
 public:
  GgufCheckpoint(const std::filesystem::path& path, const CheckpointOptions& options)
      : parts_(open_parts(path)), gguf_(parts_[0]->gguf), kind_(gguf_architecture(gguf_)), options_(options) {
    // Tensors of all parts count for what the model is; the others' metadata is but their number.
    for (const auto& part : parts_) {
      for (const auto& [name, tensor] : part->gguf.tensors) {
        if (part != parts_[0] && !gguf_.tensors.emplace(name, tensor).second)
          throw Error(ErrorCode::kCorruptFile,
                      fmt::format("{}: tensor {} is in {} too", part->gguf.where, name, files_.at(name)));
        files_[name] = part->gguf.where;
      }
    }
    config_ = gguf_config_json(gguf_, options_.notice);
    std::size_t lossy = 0;
    for (const auto& [name, tensor] : gguf_.tensors) {
      const auto hf_name = gguf_tensor_name(kind_, name);
      if (!hf_name && is_gguf_side_tensor(name)) continue;
      if (!hf_name)
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: tensor {} is not one that the architecture has", files_[name], name));
      if (gguf_is_unread(config_, *hf_name)) continue;
      if (is_of_expansion(*hf_name, tensor, files_[name])) continue;
      for (auto& [weight, part] : gguf_weights(gguf_, name, *hf_name, tensor)) {
        weights_.push_back(describe(weight, part, name));
        if (!sources_.emplace(weight, Source{std::move(part), files_[name]}).second)
          throw Error(ErrorCode::kUnsupported,
                      fmt::format("{}: tensor {} is what another of its layer is too", files_[name], name));
      }
      lossy += !gguf_dense_type(tensor.type) && !gguf_packed_spec(tensor.type) ? 1 : 0;
    }
    for (const auto& [name, expansion] : expansions_) {
      if (sources_.contains(name))
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: attn_kv_b beside attn_k_b and attn_v_b of {}", expansion.file, name));
      weights_.push_back(expansion.describe(name));
    }
    add_zero_biases();
    std::sort(weights_.begin(), weights_.end(),
              [](const WeightInfo& a, const WeightInfo& b) { return a.name < b.name; });
    if (lossy > 0 && options_.notice) {
      options_.notice(fmt::format("{}: {} tensors in K-quant or IQ4_XS form become {}", gguf_.where, lossy,
                                  options_.gguf_to_f16 ? "f16" : "int8 group 32"));
    }
  }

  [[nodiscard]] const Json& config() const override { return config_; }
  [[nodiscard]] const Json& generation_config() const override { return generation_; }
  [[nodiscard]] std::string where() const override { return gguf_.where; }
  [[nodiscard]] std::string where(const std::string& name) const override {
    const auto found = sources_.find(name);
    return found == sources_.end() ? gguf_.where : found->second.file;
  }
  [[nodiscard]] std::string name_in_file(const std::string& name) const override { return gguf_name_of(kind_, name); }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  void release() const override {
    for (const auto& part : parts_) part->file.release();
  }
  [[nodiscard]] std::string kind() const override { return "GGUF"; }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    std::vector<std::pair<std::string, std::string>> files;
    if (!gguf_.string("tokenizer.ggml.model")) return files;
    const Json tokenizer = gguf_tokenizer_json(gguf_);
    files.emplace_back("tokenizer.json", tokenizer.dump());
    const std::vector<std::string_view> tokens = gguf_.strings("tokenizer.ggml.tokens");
    Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
    const GgufSpecialTokens special = gguf_special_tokens(gguf_);
    const Json& added = tokenizer.at("added_tokens");
    for (const auto& [name, id] :
         {std::pair("bos", special.begin), std::pair("eos", special.end), std::pair("pad", special.padding)}) {
      if (id < 0 || id >= static_cast<std::int64_t>(tokens.size())) continue;
      // What has a name here becomes special: a comma that stands in for the end of a text is none.
      const bool is_special = std::any_of(added.begin(), added.end(), [id = id](const Json& token) {
        return token.at("id") == id && token.at("special").get<bool>();
      });
      const char* const key = std::string_view(name) == "pad" ? "padding" : name;
      if (is_special || gguf_.integer(fmt::format("tokenizer.ggml.{}_token_id", key)) == id)
        config[fmt::format("{}_token", name)] = tokens[static_cast<std::size_t>(id)];
    }
    if (const auto chat = gguf_.string("tokenizer.chat_template")) config["chat_template"] = *chat;
    files.emplace_back("tokenizer_config.json", config.dump(2, ' ', false, Json::error_handler_t::replace));
    return files;
  }

 private:
  [[nodiscard]] Weight read(const std::string& name, ThreadPool& pool) const override {
    if (const auto expansion = expansions_.find(name); expansion != expansions_.end())
      return expansion->second.load(pool);
    const auto found = sources_.find(name);
    if (found == sources_.end()) return zeros(find(name)->shape);
    const GgufTensor& tensor = found->second.tensor;
    if (gguf_is_one_more(kind_, name)) return load_less_one(tensor);
    const RowMap map = gguf_row_map(kind_, config_, name);
    if (gguf_dense_type(tensor.type)) return load_dense(tensor, map);
    if (gguf_packed_spec(tensor.type)) return own(gguf_to_packed(tensor, map, pool));
    return load_decoded(tensor, map, pool);
  }

  struct Source {
    GgufTensor tensor;  // whose bytes are the file's
    std::string file;
  };

  // Keeps a tensor that is one of the two that expand a layer's latents.
  bool is_of_expansion(const std::string& hf_name, const GgufTensor& tensor, const std::string& file) {
    const bool keys = hf_name.ends_with(kGgufKeysOfLatents);
    if (!keys && !hf_name.ends_with(kGgufValuesOfLatents)) return false;
    GgufExpansion& expansion = expansions_[fmt::format("{}self_attn.kv_b_proj.weight", layer_of(hf_name))];
    (keys ? expansion.keys : expansion.values) = tensor;
    expansion.file = file;
    return true;
  }

  // Files have some of a set of biases; the configuration can only say that the model has them all.
  void add_zero_biases() {
    const auto add = [&](std::string_view flag, std::initializer_list<std::string_view> modules) {
      if (!config_.at(flag).get<bool>()) return;
      for (std::int64_t layer = 0; layer < config_.at("num_hidden_layers").get<std::int64_t>(); ++layer) {
        for (const std::string_view module : modules) {
          const std::string name = fmt::format("{}{}.{}", kLayers, layer, module);
          const auto matrix = sources_.find(name + ".weight");
          if (matrix == sources_.end() || sources_.contains(name + ".bias")) continue;
          const Shape shape{matrix->second.tensor.shape.front()};
          weights_.push_back({name + ".bias", shape, DType::kF32, std::nullopt, 0, "zeros"});
        }
      }
    };
    add("attention_bias", {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"});
    if (kind_.output_bias) add("attention_bias", {"self_attn.o_proj"});
    add("mlp_bias", {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
  }
  static Weight zeros(const Shape& shape) {
    const auto owner = std::make_shared<std::vector<float>>(static_cast<std::size_t>(shape[0]));
    return {DenseView{DType::kF32, shape, std::as_bytes(std::span(*owner))}, owner};
  }

  [[nodiscard]] WeightInfo describe(const std::string& name, const GgufTensor& tensor,
                                    const std::string& name_in_gguf) const {
    WeightInfo info{name,         tensor.shape,        DType::kF16,
                    std::nullopt, tensor.bytes.size(), std::string(gguf_type_info(tensor.type).name)};
    if (const auto dense = gguf_dense_type(tensor.type)) {
      info.dtype = gguf_is_one_more(kind_, name) ? DType::kF32 : *dense;
    } else if (tensor.shape.size() != 2) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor {}: shape {} of a quantized tensor, expected a matrix",
                              files_.at(name_in_gguf), name_in_gguf, shape_text(tensor.shape)));
    } else if (const auto spec = gguf_packed_spec(tensor.type)) {
      info.packed = spec;
    } else if (!options_.gguf_to_f16) {
      info.packed = default_spec(Format::kInt8);
    }
    return info;
  }

  static Weight own(PackedMatrix matrix) {
    auto owner = std::make_shared<PackedMatrix>(std::move(matrix));
    const PackedView view = owner->view();
    return {view, std::move(owner)};
  }

  static Weight load_dense(const GgufTensor& tensor, const RowMap& map) {
    DenseView view{*gguf_dense_type(tensor.type), tensor.shape, tensor.bytes};
    if (!map) return {view, nullptr};
    const std::int64_t rows = tensor.shape.front();
    const std::size_t row_bytes = rows == 0 ? 0 : tensor.bytes.size() / static_cast<std::size_t>(rows);
    auto owner = std::make_shared<std::vector<std::byte>>(tensor.bytes.size());
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto source = tensor.bytes.subspan(static_cast<std::size_t>(map(row)) * row_bytes, row_bytes);
      std::copy(source.begin(), source.end(),
                owner->begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * row_bytes));
    }
    view.bytes = *owner;
    return {view, std::move(owner)};
  }

  // A norm's weights, as the original has them.
  static Weight load_less_one(const GgufTensor& tensor) {
    const auto owner =
        std::make_shared<std::vector<float>>(static_cast<std::size_t>(element_count(tensor.shape).value()));
    convert_to_f32(*gguf_dense_type(tensor.type), tensor.bytes, 0, owner->size(), owner->data());
    for (float& weight : *owner) weight -= 1;
    return {DenseView{DType::kF32, tensor.shape, std::as_bytes(std::span(*owner))}, owner};
  }

  // K-quants and IQ4_XS: to int8 group 32, or f16.
  [[nodiscard]] Weight load_decoded(const GgufTensor& tensor, const RowMap& map, ThreadPool& pool) const {
    const std::int64_t rows = tensor.shape.front();
    const std::int64_t cols = tensor.shape.back();
    const std::size_t row_bytes = gguf_row_bytes(tensor.type, cols);
    const RowReader read = [&](std::int64_t row, float* out) {
      const std::int64_t source = map ? map(row) : row;
      gguf_decode_row(tensor.type, tensor.bytes.subspan(static_cast<std::size_t>(source) * row_bytes, row_bytes), cols,
                      out);
    };
    if (!options_.gguf_to_f16) return own(quantize_matrix(default_spec(Format::kInt8), rows, cols, read, 1, pool));
    auto owner = std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(rows * cols));
    pool.parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> values(static_cast<std::size_t>(cols));
      for (std::int64_t row = begin; row < end; ++row) {
        read(row, values.data());
        for (std::size_t i = 0; i < values.size(); ++i)
          (*owner)[static_cast<std::size_t>(row * cols) + i] = f32_to_f16(values[i]);
      }
    });
    const DenseView view{DType::kF16, tensor.shape, std::as_bytes(std::span(*owner))};
    return {view, std::move(owner)};
  }

  std::vector<std::unique_ptr<Part>> parts_;
  Gguf& gguf_;  // of the first part, with all tensors
  const GgufArchitecture& kind_;
  CheckpointOptions options_;
  Json config_;
  Json generation_;
  std::vector<WeightInfo> weights_;
  std::map<std::string, Source> sources_;
  std::map<std::string, GgufExpansion> expansions_;  // by the weights that they are
  std::map<std::string, std::string> files_;         // of the tensors, by their names there
};

}  // namespace

std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file, const CheckpointOptions& options) {
  return std::make_unique<GgufCheckpoint>(file, options);
}

}  // namespace metal_marlin
