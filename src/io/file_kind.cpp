#include "io/file_kind.h"

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
constexpr std::array<Signature, 6> kSignatures{{
    {"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself (fetch it with git lfs pull)"},
    {"GGUF", "a GGUF file"},
    {std::string_view("PK\x03\x04", 4), "a zip archive, as PyTorch's pickled weights are"},
    {std::string_view("\x80\x02", 2), "a pickle, as PyTorch's old weights are"},
    {std::string_view("\x1f\x8b", 2), "compressed by gzip"},
    {std::string_view("\x93NUMPY", 6), "a NumPy array"},
}};

bool begins_as_markup(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at])) != 0) ++at;
  std::string begin(text.substr(at, 16));
  for (char& c : begin) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return begin.starts_with("<!doctype html") || begin.starts_with("<html") || begin.starts_with("<head") ||
         begin.starts_with("<?xml");
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

void refuse_foreign(std::span<const std::byte> bytes, const std::string& where) {
  const std::string kind = foreign_kind(bytes);
  if (!kind.empty()) throw Error(ErrorCode::kCorruptFile, where + ": is " + kind);
}

}  // namespace metal_marlin
