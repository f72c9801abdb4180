// UTF-8 and the Unicode properties that tokenizers ask for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace metal_marlin {

// Decodes the character at `at` of valid UTF-8 and moves past it.
char32_t next_character(std::string_view text, std::size_t& at);
void append_utf8(char32_t character, std::string& out);

bool is_valid_utf8(std::string_view text);
// Replaces each maximal invalid part by U+FFFD (Unicode 15, section 3.9).
std::string sanitize_utf8(std::string_view text);
// Length of the longest prefix that does not end inside a character.
std::size_t complete_prefix(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);

bool is_white_space(char32_t character);     // Unicode White_Space
bool is_word_character(char32_t character);  // letters, marks, numbers, connectors
bool is_numeric(char32_t character);         // general category N*

}  // namespace metal_marlin
