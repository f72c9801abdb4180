// GPT-2's printable alphabet for the 256 bytes.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

std::string bytes_to_alphabet(std::string_view bytes);
// False when a character is not of the alphabet.
bool alphabet_to_bytes(std::string_view text, std::string& bytes);

// GPT-2's split pattern, which ByteLevel uses.
extern const std::string_view kGpt2Pattern;

}  // namespace metal_marlin
