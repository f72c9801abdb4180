#include "chat_template/characters.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/unicode.h"
#include "chat_template/limits.h"

namespace metal_marlin::jinja {
namespace {

utf8proc_int32_t code(char32_t c) {
  return static_cast<utf8proc_int32_t>(c);
}

utf8proc_category_t category_of(char32_t c) {
  return utf8proc_category(code(c));
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

// The letters whose capital form is several (Unicode's SpecialCasing), but for Greek's with a subscript iota.
struct SpecialCapital {
  char32_t letter;
  const char* capital;
};
constexpr SpecialCapital kSpecialCapitals[] = {{0xDF, "SS"},
                                               {0x149, "\u02BCN"},
                                               {0x1F0, "J\u030C"},
                                               {0x390, "\u0399\u0308\u0301"},
                                               {0x3B0, "\u03A5\u0308\u0301"},
                                               {0x587, "\u0535\u0552"},
                                               {0x1E96, "H\u0331"},
                                               {0x1E97, "T\u0308"},
                                               {0x1E98, "W\u030A"},
                                               {0x1E99, "Y\u030A"},
                                               {0x1E9A, "A\u02BE"},
                                               {0xFB00, "FF"},
                                               {0xFB01, "FI"},
                                               {0xFB02, "FL"},
                                               {0xFB03, "FFI"},
                                               {0xFB04, "FFL"},
                                               {0xFB05, "ST"},
                                               {0xFB06, "ST"},
                                               {0xFB13, "\u0544\u0546"},
                                               {0xFB14, "\u0544\u0535"},
                                               {0xFB15, "\u0544\u053B"},
                                               {0xFB16, "\u054E\u0546"},
                                               {0xFB17, "\u0544\u053D"}};

void append_upper(char32_t c, std::string& out) {
  if (c >= 0xDF) {
    for (const auto& [letter, capital] : kSpecialCapitals) {
      if (letter == c) {
        out += capital;
        return;
      }
    }
  }
  append_utf8(static_cast<char32_t>(utf8proc_toupper(code(c))), out);
}

bool is_case_ignorable(char32_t c) {
  switch (category_of(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: return c == U'\'' || c == U'.' || c == U':' || c == 0xB7 || c == 0x2018 || c == 0x2019 || c == 0x2024;
  }
}

// Whether the sigma that ends at `after` of a text and begins at `at` ends a word.
bool is_final_sigma(std::string_view text, std::size_t at, std::size_t after) {
  bool cased_before = false;
  for (std::size_t i = 0; i < at;) {
    const char32_t c = next_character(text, i);
    if (!is_case_ignorable(c)) cased_before = is_cased(c);
  }
  if (!cased_before) return false;
  while (after < text.size()) {
    const char32_t c = next_character(text, after);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

// The character that begins at `at` of a text, small.
void append_lower(std::string_view text, std::size_t at, std::size_t after, char32_t c, std::string& out) {
  if (c == 0x130) {
    out += "i\u0307";
  } else if (c == 0x3A3) {
    charge(text.size());
    append_utf8(is_final_sigma(text, at, after) ? 0x3C2 : 0x3C3, out);
  } else {
    append_utf8(lowercase_character(c), out);
  }
}

void append_title(char32_t c, std::string& out) {
  for (const auto& [letter, capital] : kSpecialCapitals) {
    if (letter != c) continue;
    std::size_t at = 0;
    append_utf8(next_character(capital, at), out);
    out += lower(std::string_view(capital).substr(at));
    return;
  }
  append_utf8(static_cast<char32_t>(utf8proc_totitle(code(c))), out);
}

// `kind` of each character by what came before: called with its place, its end, itself and the text so far.
template <class F>
std::string map_characters(std::string_view text, F append) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next_character(text, at);
    append(begin, at, c, out);
  }
  return out;
}

}  // namespace

std::vector<std::size_t> character_places(std::string_view text) {
  std::vector<std::size_t> places;
  places.reserve(text.size() + 1);
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!is_continuation(text[i])) places.push_back(i);
  }
  places.push_back(text.size());
  return places;
}

std::size_t place_of(std::string_view text, std::size_t index) {
  std::size_t at = 0;
  while (index > 0 && at < text.size()) {
    ++at;
    while (at < text.size() && is_continuation(text[at])) ++at;
    --index;
  }
  return at;
}

bool is_space(char32_t c) {
  return is_white_space(c) || (c >= 0x1C && c <= 0x1F);
}

bool is_printable(char32_t c) {
  if (c == U' ') return true;
  switch (category_of(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
  }
}

bool is_letter(char32_t c) {
  const utf8proc_category_t kind = category_of(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  return category_of(c) == UTF8PROC_CATEGORY_ND;
}

bool is_digit(char32_t c) {  // and those in circles, above and below the line
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
         (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247C) ||
         (c >= 0x2488 && c <= 0x2490);
}

bool is_upper(char32_t c) {
  return category_of(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216F) || (c >= 0x24B6 && c <= 0x24CF);
}

bool is_lower(char32_t c) {
  return category_of(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA || (c >= 0x2170 && c <= 0x217F) ||
         (c >= 0x24D0 && c <= 0x24E9);
}

bool is_title(char32_t c) {
  return category_of(c) == UTF8PROC_CATEGORY_LT;
}

bool is_cased(char32_t c) {
  return is_upper(c) || is_lower(c) || is_title(c);
}

bool is_identifier_start(char32_t c) {
  return c == U'_' || is_letter(c) || category_of(c) == UTF8PROC_CATEGORY_NL;
}

bool is_identifier_part(char32_t c) {
  const utf8proc_category_t kind = category_of(c);
  return is_identifier_start(c) || kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_MN ||
         kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_PC;
}

bool all_of(std::string_view text, bool (*is)(char32_t)) {
  for (std::size_t at = 0; at < text.size();) {
    if (!is(next_character(text, at))) return false;
  }
  return !text.empty();
}

std::string upper(std::string_view text) {
  return map_characters(text, [](auto, auto, char32_t c, std::string& out) { append_upper(c, out); });
}

std::string lower(std::string_view text) {
  return map_characters(text, [&](std::size_t at, std::size_t after, char32_t c, std::string& out) {
    append_lower(text, at, after, c, out);
  });
}

std::string capitalize(std::string_view text) {
  return map_characters(text, [&](std::size_t at, std::size_t after, char32_t c, std::string& out) {
    at == 0 ? append_title(c, out) : append_lower(text, at, after, c, out);
  });
}

std::string title(std::string_view text) {
  bool in_word = false;
  return map_characters(text, [&](std::size_t at, std::size_t after, char32_t c, std::string& out) {
    in_word ? append_lower(text, at, after, c, out) : append_title(c, out);
    in_word = is_cased(c);
  });
}

std::string swapcase(std::string_view text) {
  return map_characters(text, [&](std::size_t at, std::size_t after, char32_t c, std::string& out) {
    if (is_upper(c)) {
      append_lower(text, at, after, c, out);
    } else if (is_lower(c)) {
      append_upper(c, out);
    } else {
      append_utf8(c, out);
    }
  });
}

std::string casefold(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t folded[8];
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(code(next_character(text, at)), folded, 8, UTF8PROC_CASEFOLD, &boundary);
    for (utf8proc_ssize_t i = 0; i < std::min<utf8proc_ssize_t>(count, 8); ++i) {
      append_utf8(static_cast<char32_t>(folded[i]), out);
    }
  }
  return out;
}

// Without what `drop` takes at the sides.
template <class F>
static std::string_view strip_where(std::string_view text, unsigned sides, F drop) {
  std::size_t begin = 0;
  while ((sides & kLeft) != 0 && begin < text.size()) {
    std::size_t next = begin;
    if (!drop(next_character(text, next))) break;
    begin = next;
  }
  std::size_t end = text.size();
  while ((sides & kRight) != 0 && end > begin) {
    std::size_t last = end - 1;
    while (is_continuation(text[last])) --last;
    std::size_t next = last;
    if (!drop(next_character(text, next))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

std::string_view strip(std::string_view text, unsigned sides) {
  return strip_where(text, sides, is_space);
}

std::string_view strip(std::string_view text, std::string_view characters, unsigned sides) {
  std::u32string set;
  for (std::size_t at = 0; at < characters.size();) set += next_character(characters, at);
  charge(text.size() + characters.size() * 16);
  return strip_where(text, sides, [&](char32_t c) {
    charge(set.size());
    return set.find(c) != set.npos;
  });
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = at;
    const char32_t c = next_character(text, at);
    if (!is_line_end(c)) continue;
    if (c == U'\r' && at < text.size() && text[at] == '\n') ++at;
    lines.emplace_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::vector<std::string> split_words(std::string_view text, std::int64_t most) {
  std::vector<std::string> words;
  for (;;) {
    text = strip(text, kLeft);
    if (text.empty()) return words;
    if (most-- == 0) {
      words.emplace_back(text);
      return words;
    }
    std::size_t end = 0;
    for (std::size_t at = 0; at < text.size(); end = at) {
      if (is_space(next_character(text, at))) break;
    }
    words.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string> split_words_from_right(std::string_view text, std::int64_t most) {
  std::vector<std::string> words;
  for (;;) {
    text = strip(text, kRight);
    if (text.empty()) break;
    if (most-- == 0) {
      words.emplace_back(text);
      break;
    }
    std::size_t begin = text.size();
    while (begin > 0) {
      std::size_t last = begin - 1;
      while (is_continuation(text[last])) --last;
      std::size_t next = last;
      if (is_space(next_character(text, next))) break;
      begin = last;
    }
    words.emplace_back(text.substr(begin));
    text = text.substr(0, begin);
  }
  std::reverse(words.begin(), words.end());
  return words;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to, std::int64_t most) {
  std::string out;
  std::size_t at = 0;
  std::size_t count = 0;
  const auto limit = most < 0 ? std::string::npos : static_cast<std::size_t>(most);
  while (count < limit) {
    const std::size_t found = from.empty() ? at : text.find(from, at);
    if (found == text.npos || found > text.size()) break;
    out.append(text, at, found - at).append(to);
    ++count;
    check_size(out.size());
    at = found + from.size();
    if (!from.empty()) continue;
    if (at >= text.size()) return out;  // after the last character, too
    const std::size_t begin = at;
    next_character(text, at);
    out.append(text, begin, at - begin);
  }
  return out.append(text.substr(std::min(at, text.size())));
}

std::string html_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace metal_marlin::jinja
