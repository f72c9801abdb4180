// The metadata keys of a GGUF file's architecture.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "io/model_bounds.h"

namespace metal_marlin {

inline constexpr std::int64_t kGgufContext = 2048;  // where no key says it

// Keys are named without the architecture that they begin with. All throw Error (kCorruptFile) naming the key where its
// value is none that it can have.
class GgufKeys {
 public:
  GgufKeys(const Gguf& gguf, std::string_view architecture) : gguf_(gguf), architecture_(architecture) {}

  [[nodiscard]] const Gguf& gguf() const { return gguf_; }
  [[nodiscard]] std::string name(std::string_view key) const;
  [[nodiscard]] bool has(std::string_view key) const { return gguf_.values.contains(name(key)); }

  [[nodiscard]] std::optional<std::int64_t> find(std::string_view key) const { return gguf_.integer(name(key)); }
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const { return gguf_.boolean(name(key)); }
  // A count, which loops and buffers are made by. \throws Error (kNotFound) where it is missing.
  [[nodiscard]] std::int64_t bounded(std::string_view key, Bounds bounds) const;
  [[nodiscard]] std::int64_t bounded_or(std::string_view key, Bounds bounds, std::int64_t fallback) const;
  // Of each layer: a number for all of them, or an array.
  [[nodiscard]] std::vector<std::int64_t> of_layers(std::string_view key, Bounds bounds, std::int64_t layers) const;
  // The same, which is one for all. \throws Error (kUnsupported) where it differs.
  [[nodiscard]] std::int64_t of_all_layers(std::string_view key, Bounds bounds, std::int64_t layers) const;
  [[nodiscard]] std::optional<double> number(std::string_view key) const;  // a finite one
  // One that is more than 0.
  [[nodiscard]] double positive_or(std::string_view key, double fallback) const;
  // The same, where 0 says as much as nothing does.
  [[nodiscard]] double positive_unless_zero(std::string_view key, double fallback) const;
  // Whether each of so many layers has a window: a flag for each, or the period of the layers that have none.
  [[nodiscard]] std::vector<bool> windowed(std::int64_t layers, std::int64_t period) const;

  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const;
  // \throws Error (kUnsupported): a value that is not implemented.
  [[noreturn]] void unsupported(std::string_view key, std::string_view expected) const;

 private:
  const Gguf& gguf_;
  std::string architecture_;
};

}  // namespace metal_marlin
