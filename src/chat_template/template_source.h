// The chat templates that a model comes with, and its special tokens.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/gguf.h"

namespace metal_marlin {

struct NamedTemplate {
  std::string name;
  std::string text;
  std::string where;
};

struct TemplateSource {
  std::string where;
  std::vector<NamedTemplate> templates;
  std::vector<std::pair<std::string, std::string>> tokens;  // bos_token and the like

  [[nodiscard]] bool has(std::string_view name) const;
  // \throws Error (kNotFound) naming those that there are.
  [[nodiscard]] const NamedTemplate& find(std::string_view name) const;
};

// A file that holds one. \throws Error (kCorruptFile) for a hub's page or a pointer that was saved in its place.
std::string read_template(const std::filesystem::path& path);

// A folder's, or a GGUF file's.
// \throws Error (kNotFound, kCorruptFile).
TemplateSource read_template_source(const std::filesystem::path& model);
TemplateSource gguf_template_source(const Gguf& gguf);

}  // namespace metal_marlin
