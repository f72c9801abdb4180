#include "chat_template/template_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "io/file_kind.h"
#include "io/gguf_byte_order.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_folder.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr const char* kTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                   "pad_token", "cls_token", "mask_token"};

// A chat_template of a JSON file: a text, or a list of named ones.
void add_json_templates(const Json& json, const std::string& where, TemplateSource& out) {
  if (json.is_string()) {
    out.templates.push_back({"default", json.get<std::string>(), where});
    return;
  }
  if (!json.is_array()) {
    throw Error(ErrorCode::kCorruptFile, where + ": expected a text, or a list of named ones");
  }
  for (std::size_t i = 0; i < json.size(); ++i) {
    const JsonObject entry(json[i], fmt::format("{}[{}]", where, i));
    const std::string name = entry.string("name");
    out.templates.push_back({name, entry.string("template"), fmt::format("{} {}", where, name)});
  }
}

void add_tokens(const JsonObject& config, TemplateSource& out) {
  for (const auto& [key, value] : config.json().items()) {
    if (!std::string_view(key).ends_with("_token") || value.is_boolean() || value.is_null()) continue;
    if (value.is_string()) {
      out.tokens.emplace_back(key, value.get<std::string>());
    } else if (value.is_object()) {
      out.tokens.emplace_back(key, JsonObject(value, config.where() + ": " + key).string("content"));
    }
  }
}

TemplateSource folder_templates(const std::filesystem::path& folder) {
  TemplateSource out;
  out.where = folder.string();
  const auto path = [&](const char* name) { return file_in(folder, name); };
  if (has_file(folder, "special_tokens_map.json")) {
    const Json json = read_json_file(path("special_tokens_map.json"));
    add_tokens(JsonObject(json, path("special_tokens_map.json").string()), out);
  }
  if (has_file(folder, "tokenizer_config.json")) {  // whose tokens come after those, and count
    const Json json = read_json_file(path("tokenizer_config.json"));
    const JsonObject config(json, path("tokenizer_config.json").string());
    add_tokens(config, out);
    if (config.has("chat_template")) {
      add_json_templates(config.at("chat_template"), config.where() + ": chat_template", out);
    }
  }
  // A file of its own comes before what the configuration says.
  const auto replace = [&](const std::string& name) {
    std::erase_if(out.templates, [&](const NamedTemplate& there) { return there.name == name; });
  };
  if (has_file(folder, "chat_template.json")) {
    const Json json = read_json_file(path("chat_template.json"));
    const JsonObject file(json, path("chat_template.json").string());
    replace("default");
    add_json_templates(file.at("chat_template"), file.where() + ": chat_template", out);
  }
  if (has_file(folder, "chat_template.jinja")) {
    replace("default");
    const auto file = path("chat_template.jinja");
    out.templates.push_back({"default", read_template(file), file.string()});
  }
  return out;
}

}  // namespace

std::string read_template(const std::filesystem::path& path) {
  std::string text = read_text_file(path);
  refuse_foreign(std::as_bytes(std::span(text)), path.string(), true);
  return text;
}

bool TemplateSource::has(std::string_view name) const {
  return std::any_of(templates.begin(), templates.end(), [&](const auto& there) { return there.name == name; });
}

const NamedTemplate& TemplateSource::find(std::string_view name) const {
  std::string names;
  for (const NamedTemplate& there : templates) {
    if (there.name == name) return there;
    names += (names.empty() ? "" : ", ") + there.name;
  }
  if (templates.empty()) {
    throw Error(ErrorCode::kNotFound, where + ": the model has no chat template; --chat-template takes one");
  }
  throw Error(ErrorCode::kNotFound, fmt::format("{}: no chat template {}; there are {}", where, name, names));
}

TemplateSource gguf_template_source(const Gguf& gguf) {
  TemplateSource out;
  out.where = gguf.where;
  const auto add = [&](const std::string& name, const std::string& key) {
    if (const auto text = gguf.string(key))
      out.templates.push_back({name, std::string(*text), gguf.where + ": " + key});
  };
  const std::string key = "tokenizer.chat_template";
  add("default", key);
  for (const std::string_view name : gguf.strings("tokenizer.chat_templates")) {
    if (!out.has(name)) add(std::string(name), key + "." + std::string(name));
  }
  const std::vector<std::string_view> texts = gguf.strings("tokenizer.ggml.tokens");
  for (const std::string name : kTokens) {
    const std::string stem = name == "unk_token"   ? "unknown"
                             : name == "sep_token" ? "seperator"  // as GGUF spells it
                             : name == "pad_token" ? "padding"
                                                   : name.substr(0, name.find('_'));
    const auto id = gguf.integer("tokenizer.ggml." + stem + "_token_id");
    if (id && *id >= 0 && static_cast<std::size_t>(*id) < texts.size()) {
      out.tokens.emplace_back(name, texts[static_cast<std::size_t>(*id)]);
    }
  }
  return out;
}

TemplateSource read_template_source(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) return folder_templates(model);
  const MappedFile file(first_part(model));
  std::vector<std::byte> turned;
  if (is_big_endian_gguf(file.bytes())) turned = little_endian_gguf(file.bytes(), model.string());
  return gguf_template_source(parse_gguf(turned.empty() ? file.bytes() : turned, model.string()));
}

}  // namespace metal_marlin
