// What files of sentence-transformers say: https://sbert.net, "Saving and loading".
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "io/gguf.h"
#include "io/gguf_byte_order.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_folder.h"
#include "metal_marlin/embed.h"
#include "runtime/embedding_files.h"

namespace metal_marlin {
namespace {

// A kind of module, whatever package of the library it lay in when the folder was written.
std::string_view kind_of_module(std::string_view type) {
  return type.substr(type.rfind('.') + 1);  // npos + 1 is 0
}

std::string_view pooling_mode(const JsonObject& config) {
  constexpr std::array<std::pair<const char*, std::string_view>, 6> kOld = {
      {{"pooling_mode_cls_token", "cls"},
       {"pooling_mode_max_tokens", "max"},
       {"pooling_mode_mean_tokens", "mean"},
       {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
       {"pooling_mode_weightedmean_tokens", "weightedmean"},
       {"pooling_mode_lasttoken", "lasttoken"}}};
  std::vector<std::string_view> modes;
  if (config.has("pooling_mode")) {
    const Json& mode = config.at("pooling_mode");
    const bool one = mode.is_array() && mode.size() == 1 && mode[0].is_string();
    if (!mode.is_string() && !one) config.wrong("pooling_mode", "one way of pooling: vectors are not put side by side");
    return (one ? mode[0] : mode).get_ref<const std::string&>();
  }
  for (const auto& [key, mode] : kOld) {
    if (config.boolean_or(key, false)) modes.push_back(mode);
  }
  if (modes.size() > 1) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: pools in {} ways ({}), expected one: vectors are not put side "
                            "by side",
                            config.where(), modes.size(), fmt::join(modes, ", ")));
  }
  return modes.empty() ? "mean" : modes.front();
}

void read_pooling(const JsonObject& config, EmbeddingConfig& out) {
  const std::string_view mode = pooling_mode(config);
  constexpr std::array<std::pair<std::string_view, Pooling>, 3> kModes = {
      {{"mean", Pooling::kMean}, {"lasttoken", Pooling::kLast}, {"cls", Pooling::kCls}}};
  const auto found = std::find_if(kModes.begin(), kModes.end(), [&](const auto& each) { return each.first == mode; });
  if (found == kModes.end()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: pooling {} is not there, expected mean, lasttoken or cls", config.where(), mode));
  }
  out.pooling = found->second;
  out.include_prompt = config.boolean_or("include_prompt", true);
  out.is_described = true;
}

void read_relevance(const JsonObject& config, EmbeddingConfig& out) {
  RelevanceTokens tokens;
  tokens.yes = static_cast<TokenId>(config.bounded("true_token_id", 0, INT32_MAX));
  if (config.has("false_token_id")) tokens.no = static_cast<TokenId>(config.bounded("false_token_id", 0, INT32_MAX));
  out.relevance = tokens;
}

void read_modules(const std::filesystem::path& folder, EmbeddingConfig& out) {
  const std::filesystem::path file = file_in(folder, "modules.json");
  const Json modules = read_json_file(file);
  if (!modules.is_array()) throw Error(ErrorCode::kCorruptFile, file.string() + ": expected a list of modules");
  out.normalize = false;  // unless a module does
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const JsonObject module(modules[i], fmt::format("{}[{}]", file.string(), i));
    const std::string type = module.string("type");
    const std::string path = module.string_or("path", "");
    const std::string_view kind = kind_of_module(type);
    const auto config = [&](const auto& read) {
      const std::filesystem::path at = file_in(file_in(folder, path), "config.json");
      const Json json = read_json_file(at);
      read(JsonObject(json, at.string()), out);
    };
    if (kind == "Transformer" && i == 0) continue;
    if (kind == "Pooling") {
      config(read_pooling);
    } else if (kind == "Normalize") {
      out.normalize = true;
    } else if (kind == "LogitScore") {
      config(read_relevance);
    } else {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: a module of type {} is not there, expected Transformer, Pooling, Normalize or "
                              "LogitScore",
                              module.where(), type));
    }
  }
}

void read_prompts(const std::filesystem::path& folder, EmbeddingConfig& out) {
  const std::filesystem::path file = file_in(folder, "config_sentence_transformers.json");
  const Json json = read_json_file(file);
  const JsonObject config(json, file.string());
  if (config.has("prompts")) {
    const JsonObject prompts = config.object("prompts");
    for (const auto& [name, text] : prompts.json().items())
      out.prompts.emplace_back(name, prompts.string(name.c_str()));
  }
  out.default_prompt = config.string_or("default_prompt_name", "");
  if (!out.default_prompt.empty()) static_cast<void>(out.prompt(""));
}

// As llama.cpp numbers them.
void read_gguf_pooling(const std::filesystem::path& model, EmbeddingConfig& out) {
  const MappedFile file(first_part(model));
  std::vector<std::byte> turned;
  if (is_big_endian_gguf(file.bytes())) turned = little_endian_gguf(file.bytes(), model.string());
  const Gguf gguf = parse_gguf(turned.empty() ? file.bytes() : turned, model.string());
  const auto architecture = gguf.string("general.architecture");
  if (!architecture) return;
  const std::string key = std::string(*architecture) + ".pooling_type";
  const auto type = gguf.integer(key);
  if (!type || *type == 0) return;  // none was chosen
  constexpr std::array kTypes = {Pooling::kMean, Pooling::kCls, Pooling::kLast};
  if (*type < 1 || *type > static_cast<std::int64_t>(kTypes.size())) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: field {} is {}, expected 1 (mean), 2 (cls) or 3 (last)", gguf.where, key, *type));
  }
  out.pooling = kTypes[static_cast<std::size_t>(*type - 1)];
  out.is_described = true;
}

}  // namespace

const std::string& EmbeddingConfig::prompt(const std::string& name) const {
  static const std::string none;
  const std::string& wanted = name.empty() ? default_prompt : name;
  if (wanted.empty()) return none;
  std::string names;
  for (const auto& [known, text] : prompts) {
    if (known == wanted) return text;
    names += (names.empty() ? "" : ", ") + known;
  }
  throw Error(ErrorCode::kNotFound, names.empty()
                                        ? fmt::format("the model has no prompts, {} among them", wanted)
                                        : fmt::format("the model has no prompt {}; there are {}", wanted, names));
}

std::vector<std::string> embedding_files(const std::filesystem::path& model) {
  std::vector<std::string> names;
  if (!std::filesystem::is_directory(model)) return names;
  if (has_file(model, "config_sentence_transformers.json")) names.emplace_back("config_sentence_transformers.json");
  if (!has_file(model, "modules.json")) return names;
  names.emplace_back("modules.json");
  const Json modules = read_json_file(file_in(model, "modules.json"));
  if (!modules.is_array()) return names;
  for (const Json& module : modules) {
    if (!module.is_object() || !module.contains("path") || !module["path"].is_string()) continue;
    const std::string path = module["path"].get<std::string>();
    if (!path.empty() && has_file(file_in(model, path), "config.json")) names.push_back(path + "/config.json");
  }
  return names;
}

EmbeddingConfig read_embedding_config(const std::filesystem::path& model) {
  EmbeddingConfig out;
  if (std::filesystem::is_directory(model)) {
    if (has_file(model, "modules.json")) read_modules(model, out);
    if (has_file(model, "config_sentence_transformers.json")) read_prompts(model, out);
  } else if (model.extension() == ".gguf") {
    read_gguf_pooling(model, out);
  }
  return out;
}

}  // namespace metal_marlin
