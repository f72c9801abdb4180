// Characters and texts as Python's str sees them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin::jinja {

// Where each character begins, and the end.
std::vector<std::size_t> character_places(std::string_view text);
// Where character `index` begins; the end where there are fewer.
std::size_t place_of(std::string_view text, std::size_t index);

bool is_space(char32_t c);      // str.isspace
bool is_printable(char32_t c);  // str.isprintable
bool is_letter(char32_t c);     // str.isalpha
bool is_decimal(char32_t c);    // str.isdecimal
bool is_digit(char32_t c);      // str.isdigit
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);  // a letter of both cases
bool is_cased(char32_t c);
bool is_identifier_start(char32_t c);
bool is_identifier_part(char32_t c);
// Whether all characters are, and there is one.
bool all_of(std::string_view text, bool (*is)(char32_t));

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);

enum Sides : unsigned { kLeft = 1, kRight = 2, kBothSides = 3 };
std::string_view strip(std::string_view text, unsigned sides = kBothSides);
std::string_view strip(std::string_view text, std::string_view characters, unsigned sides);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends = false);
// At white space; most: splits at most, -1: all.
std::vector<std::string> split_words(std::string_view text, std::int64_t most = -1);
std::vector<std::string> split_words_from_right(std::string_view text, std::int64_t most);
std::string replace_all(std::string_view text, std::string_view from, std::string_view to, std::int64_t most = -1);
std::string html_escape(std::string_view text);

}  // namespace metal_marlin::jinja
