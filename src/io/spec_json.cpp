#include "io/spec_json.h"

#include <nlohmann/json.hpp>

#include "formats/spec_text.h"

namespace metal_marlin {

FormatSpec parse_spec(const JsonObject& json, bool defaults) {
  const auto text = [&](const char* key) { return defaults && !json.has(key) ? std::string() : json.string(key); };
  const std::string format = json.string("format");
  const std::string scale_type = text("scale_type");
  const std::string zero = text("zero");
  const std::string group = json.has("group") && json.at("group").is_number()
                                ? std::to_string(json.bounded("group", 1, 1 << 20))
                                : text("group");
  SpecText words{format, group, scale_type, zero};
  const std::string sparsity = json.string_or("sparsity", "");
  if (json.has("sparsity") && sparsity != "2:4") json.wrong("sparsity", "2:4");
  words.sparsity = sparsity;
  words.rotation = json.has("rotation") ? static_cast<int>(json.bounded("rotation", 16, 128)) : 0;
  return parse_spec(words);
}

Json spec_json(const FormatSpec& spec) {
  Json out = {{"format", format_info(spec.format).name},
              {"group", spec.group == 0 ? Json("row") : Json(spec.group)},
              {"scale_type", scale_type_name(spec.scale_type)},
              {"zero", zero_kind_name(spec.zero)}};
  if (spec.sparse) out["sparsity"] = "2:4";
  if (spec.rotation != 0) out["rotation"] = spec.rotation;
  return out;
}

}  // namespace metal_marlin
