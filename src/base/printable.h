// Text that files bring along, for a terminal.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// The text with what a terminal would take for commands, and bytes that are no UTF-8, as "\x1b"; lines and tabs stay.
std::string printable(std::string_view text);

// Names, which are words of a line: ends of lines and tabs go the same way.
std::string printable_line(std::string_view text);

}  // namespace metal_marlin
