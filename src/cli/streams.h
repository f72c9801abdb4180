// The standard streams, which may be closed, full, or a pipe that nobody reads any more.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string_view>
#include <utility>

namespace metal_marlin::cli {

// Failures of the system become errors that a call returns, not signals, and a standard stream that is closed stays
// so: no file that is opened takes its number, to be written over by what is printed.
void prepare_streams();

// Sees that what was printed to the standard output arrives. \throws Error (kIo).
void flush_output();

// A message to the standard error. One that cannot be written is lost: it must not end the work.
void write_error(std::string_view text) noexcept;
template <typename... T>
void print_error(fmt::format_string<T...> format, T&&... arguments) {
  write_error(fmt::format(format, std::forward<T>(arguments)...));
}

}  // namespace metal_marlin::cli
