// Arbitrary bytes as a Metal library; what is read is written and read again.
#include "io/metallib.h"
#include "metal_marlin/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  try {
    const Metallib library = parse_metallib(std::as_bytes(std::span(data, size)), "input");
    const std::vector<std::byte> written = write_metallib(library);
    if (write_metallib(parse_metallib(written, "written")) != written) __builtin_trap();
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with("written")) __builtin_trap();
  }
  return 0;
}
