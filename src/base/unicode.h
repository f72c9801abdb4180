// UTF-8 and the Unicode properties that tokenizers ask for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace metal_marlin {

// Whether a byte of valid UTF-8 goes on with a character.
constexpr bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}
// Decodes the character at `at` of valid UTF-8 and moves past it.
char32_t next_character(std::string_view text, std::size_t& at);
void append_utf8(char32_t character, std::string& out);

bool is_valid_utf8(std::string_view text);
// Replaces each maximal invalid part by U+FFFD (Unicode 15, section 3.9).
std::string sanitize_utf8(std::string_view text);
// Of valid UTF-8.
std::size_t count_characters(std::string_view text);
// Length of the longest prefix that does not end inside a character.
std::size_t complete_prefix(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view text, NormalForm form);
// One character's case mapping alone (no context).
std::string lowercase(std::string_view text);
char32_t lowercase_character(char32_t character);

bool is_white_space(char32_t character);     // Unicode White_Space
bool is_word_character(char32_t character);  // \w of Rust: alphabetic, marks, decimal digits, connectors, joiners
bool is_numeric(char32_t character);         // general category N*
bool is_punctuation(char32_t character);     // general category P*, and all of ASCII's
bool is_mark(char32_t character);            // general category M*
bool is_nonspacing_mark(char32_t character);
bool is_other(char32_t character);  // Cc, Cf, Co and Cs, but not unassigned
// The end of the extended grapheme cluster that begins at `at` of valid UTF-8.
std::size_t grapheme_end(std::string_view text, std::size_t at);

}  // namespace metal_marlin
