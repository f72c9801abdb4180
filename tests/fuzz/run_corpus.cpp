// Runs every file of a folder, and every truncation of the smaller ones, through a fuzz target without libFuzzer.
// The targets come before it in the file that tests/CMakeLists.txt generates, as FUZZ_TARGETS names them.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>
#include <vector>

namespace {

using FuzzTarget = int (*)(const std::uint8_t* data, std::size_t size);

FuzzTarget find_target(std::string_view name) {
#define FUZZ_TARGET(parser) \
  if (name == #parser) return fuzz_##parser;
  FUZZ_TARGETS(FUZZ_TARGET)
#undef FUZZ_TARGET
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  const FuzzTarget target = argc == 3 ? find_target(argv[1]) : nullptr;
  if (target == nullptr) {
    std::fprintf(stderr, "usage: fuzz_corpus PARSER FOLDER\n");
    return 2;
  }
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(argv[2])) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    const std::size_t step = bytes.size() / 200 + 1;
    for (std::size_t size = 0; size <= bytes.size(); size += step) {
      // A buffer of exactly this size, so that a sanitizer sees reads past it.
      const std::vector<std::uint8_t> input(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      target(input.data(), input.size());
    }
    ++files;
  }
  std::printf("%d files\n", files);
  return files > 0 ? 0 : 1;
}
