#include "io/file_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

struct Signature {
  std::string_view begin;
  std::string_view kind;
};
constexpr std::string_view kOldGgml = "a GGML file from before GGUF; convert the model anew";
constexpr std::array<Signature, 13> kSignatures{{
    {"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself (fetch it with git lfs pull)"},
    {"GGUF", "a GGUF file"},
    {std::string_view("PK\x03\x04", 4), "a zip archive, as PyTorch's pickled weights are"},
    {std::string_view("\x80\x02", 2), "a pickle, as PyTorch's old weights are"},
    {std::string_view("\x1f\x8b", 2), "compressed by gzip"},
    {std::string_view("\x28\xb5\x2f\xfd", 4), "compressed by zstd"},
    {std::string_view("\xfd\x37zXZ", 5), "compressed by xz"},
    {std::string_view("7z\xbc\xaf", 4), "compressed by 7-Zip"},
    {std::string_view("\x93NUMPY", 6), "a NumPy array"},
    {std::string_view("\x89HDF", 4), "an HDF5 file, as Keras has them"},
    {"lmgg", kOldGgml},
    {"fmgg", kOldGgml},
    {"tjgg", kOldGgml},
}};

bool begins_as_markup(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at])) != 0) ++at;
  std::string begin(text.substr(at, 16));
  for (char& c : begin) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return begin.starts_with("<!doctype html") || begin.starts_with("<html") || begin.starts_with("<head") ||
         begin.starts_with("<?xml");
}

// The first line of a text of which all that we look at is printable; empty: it is none.
std::string_view first_line(std::string_view text) {
  const bool printable = std::all_of(text.begin(), text.end(), [](char c) {
    return std::isprint(static_cast<unsigned char>(c)) != 0 || c == '\n' || c == '\r' || c == '\t';
  });
  return printable ? text.substr(0, std::min<std::size_t>(text.find_first_of("\r\n"), 60)) : std::string_view();
}

// A safetensors file begins with the length of a header, which is JSON.
bool is_safetensors(std::string_view text) {
  return text.size() > 9 && text.substr(4, 5) == std::string_view("\0\0\0\0{", 5);
}

}  // namespace

std::string foreign_kind(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 256));
  for (const Signature& signature : kSignatures) {
    if (text.starts_with(signature.begin)) return std::string(signature.kind);
  }
  if (begins_as_markup(text)) return "a web page (HTML), such as a hub's error or sign-in page, not the file itself";
  return {};
}

void refuse_foreign(std::span<const std::byte> bytes, const std::string& where, bool text_expected) {
  std::string kind = foreign_kind(bytes);
  const std::string_view begin(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 128));
  if (kind.empty() && !text_expected) {
    if (is_safetensors(begin)) {
      kind = "a safetensors file: name the folder that holds it and config.json";
    } else if (bytes.empty()) {
      kind = "empty";
    } else if (const std::string_view line = first_line(begin); !line.empty()) {
      kind = fmt::format("a text that begins '{}', not the file itself", line);
    }
  }
  if (!kind.empty()) throw Error(ErrorCode::kCorruptFile, where + ": is " + kind);
}

}  // namespace metal_marlin
