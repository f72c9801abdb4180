#include "server/http/target.h"

#include <charconv>

namespace metal_marlin::server {
namespace {

std::string unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned byte = 0;
    const char* const digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() && std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::string target_path(std::string_view target) {
  return unescaped(target.substr(0, target.find_first_of("?#")));
}

std::vector<std::pair<std::string, std::string>> target_query(std::string_view target) {
  std::vector<std::pair<std::string, std::string>> out;
  target = target.substr(0, target.find('#'));
  for (std::size_t begin = target.find('?'); begin != target.npos;) {
    const std::size_t end = target.find('&', begin + 1);
    const std::string_view part = target.substr(begin + 1, end == target.npos ? end : end - begin - 1);
    const std::size_t equals = part.find('=');
    if (!part.empty())
      out.emplace_back(unescaped(part.substr(0, equals)),
                       equals == part.npos ? std::string() : unescaped(part.substr(equals + 1)));
    begin = end;
  }
  return out;
}

}  // namespace metal_marlin::server
