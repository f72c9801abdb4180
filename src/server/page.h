// The chat page that the server shows: files of page/, built into the program (cmake/ChatPage.cmake).
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>

namespace metal_marlin::server {

/// A file of the chat page.
struct PageFile {
  std::string_view path;  ///< "/" for index.html, else such as "/page/chat.css"
  std::string_view content_type;
  std::string_view text;
};

/// All of them.
std::span<const PageFile> page_files();

/// The one that is served at a path; nullptr: there is none.
inline const PageFile* page_file(std::string_view path) {
  const std::span<const PageFile> files = page_files();
  const auto found = std::ranges::find(files, path, &PageFile::path);
  return found == files.end() ? nullptr : &*found;
}

/// Fields of every response with such a file. The page's scripts are its own files and nothing else, it talks to the
/// server that it came from alone, and text never becomes HTML in it (trusted types).
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 4> page_header_fields = {{
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
     "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
     "require-trusted-types-for 'script'; trusted-types 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cache-Control", "no-cache"},
}};

}  // namespace metal_marlin::server
