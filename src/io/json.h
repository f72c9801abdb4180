// JSON parsing with errors that name the file and the field. Who looks into a value includes <nlohmann/json.hpp>.
#pragma once

#include <cstdint>
#include <exception>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>

#include "io/model_bounds.h"

namespace metal_marlin {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

// \throws Error (kCorruptFile) naming `where` and the position.
Json parse_json(std::string_view text, const std::string& where);
// What a parser's error says of a text that is no JSON: "line 2, column 7: unexpected '}'".
std::string invalid_json_text(std::string_view text, const std::exception& error);
// Whether arrays and objects of a text lie more than `most` deep in each other: what reads, writes or frees the values
// calls itself for each. The text may be no JSON.
bool is_nested_deeper(std::string_view text, int most);
inline constexpr int kMostJsonDepth = 256;  // of files; the tokenizers library takes 128

// \throws Error (kNotFound, kIo, kCorruptFile) naming the path.
Json read_json_file(const std::filesystem::path& path);

// Typed access to the fields of an object, each with an error that says what
// was found and what was expected.
class JsonObject {
 public:
  // `where` names the file, and the path inside it, in errors.
  JsonObject(const Json& value, std::string where);

  [[nodiscard]] bool has(const char* key) const;  // present and not null
  [[nodiscard]] const Json& at(const char* key) const;
  // The one of two names for the same that is there. \throws Error naming both when they differ.
  [[nodiscard]] const char* either(const char* key, const char* other) const;
  [[nodiscard]] JsonObject object(const char* key) const;
  [[nodiscard]] std::int64_t integer(const char* key) const;
  [[nodiscard]] std::int64_t integer_or(const char* key, std::int64_t fallback) const;
  // An integer in [low, high]; dimensions and counts go through here.
  [[nodiscard]] std::int64_t bounded(const char* key, std::int64_t low, std::int64_t high) const;
  [[nodiscard]] std::int64_t bounded(const char* key, Bounds bounds) const {
    return bounded(key, bounds.low, bounds.high);
  }
  // The same where the field may be left out, or null.
  [[nodiscard]] std::int64_t bounded_or(const char* key, Bounds bounds, std::int64_t fallback) const {
    return has(key) ? bounded(key, bounds) : fallback;
  }
  [[nodiscard]] double number_or(const char* key, double fallback) const;
  [[nodiscard]] double number(const char* key) const;
  [[nodiscard]] bool boolean(const char* key) const;
  [[nodiscard]] bool boolean_or(const char* key, bool fallback) const;
  [[nodiscard]] std::string string(const char* key) const;
  [[nodiscard]] std::string string_or(const char* key, const std::string& fallback) const;
  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] const Json& json() const { return *value_; }
  [[noreturn]] void wrong(const char* key, std::string_view expected) const;
  // \throws Error (kUnsupported) naming a field that is none of these, and not null: what it asks for is not done.
  void only(std::span<const std::string_view> known) const;
  void only_key(const std::string& key, std::span<const std::string_view> known) const;

 private:
  const Json* value_;
  std::string where_;
};

}  // namespace metal_marlin
