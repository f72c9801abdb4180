#include "backends/msl/host/shadow.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdio>

#include "runtime/program_path.h"

namespace metal_marlin::msl {
namespace {

constexpr unsigned kSimd = 32;

}  // namespace

// Whether `earlier` is over before `now` begins, for whoever looks.
bool Shadow::ordered(const AccessPoint& earlier, const AccessPoint& now) const {
  if (earlier.group == 0) return true;
  if (earlier.group != now.group) return threadgroup_memory_;
  if (earlier.thread == now.thread || earlier.epoch < now.epoch) return true;
  return earlier.thread / kSimd == now.thread / kSimd && earlier.simd_epoch < now.simd_epoch;
}

bool Shadow::clash(const AccessPoint& earlier, const AccessPoint& now) const {
  return !ordered(earlier, now) && !(earlier.atomic && now.atomic);
}

std::optional<Conflict> Shadow::read(std::size_t at, std::size_t bytes, const AccessPoint& point) {
  for (std::size_t i = at; i < at + bytes; ++i) {
    Cell& c = cell(i);
    if (clash(c.write, point)) return Conflict{c.write, true};
    if (ordered(c.read, point)) {
      c.read = point;
    } else if (c.read.thread != point.thread || c.read.group != point.group) {
      c.other_read = point;
    }
  }
  return std::nullopt;
}

std::optional<Conflict> Shadow::write(std::size_t at, std::size_t bytes, const AccessPoint& point) {
  for (std::size_t i = at; i < at + bytes; ++i) {
    Cell& c = cell(i);
    if (clash(c.write, point)) return Conflict{c.write, true};
    if (clash(c.read, point)) return Conflict{c.read, false};
    if (clash(c.other_read, point)) return Conflict{c.other_read, false};
    c.write = point;
  }
  return std::nullopt;
}

bool Shadow::written(std::size_t at, std::size_t bytes, std::uint32_t group) const {
  for (std::size_t i = at; i < at + bytes; ++i) {
    const std::unique_ptr<Page>& page = pages_[i / kPage];
    if (!page || (*page)[i % kPage].write.group != group) return false;
  }
  return true;
}

std::string code_place(const void* code) {
  Dl_info info{};
  if (dladdr(code, &info) == 0 || info.dli_fname == nullptr) return fmt::format("{}", code);
  // A return address points behind its call.
  const auto offset = reinterpret_cast<std::uintptr_t>(code) - reinterpret_cast<std::uintptr_t>(info.dli_fbase) - 1;
  const std::string file = info.dli_fname[0] == '/' ? info.dli_fname : program_path().string();
  const std::string command = fmt::format("addr2line -i -e '{}' {:#x} 2>/dev/null", file, offset);
  std::string place;
  if (FILE* const pipe = popen(command.c_str(), "r"); pipe != nullptr) {
    std::array<char, 4096> line{};
    while (fgets(line.data(), static_cast<int>(line.size()), pipe) != nullptr) {
      std::string text(line.data());
      text.erase(text.find_last_not_of(" \n") + 1);
      text = text.substr(0, text.find(" (discriminator"));
      const bool ours = text.find("/msl/include/") != std::string::npos || text.starts_with("<entries>");
      if (!ours && !text.starts_with("??")) {
        place = text;
        break;
      }
    }
    pclose(pipe);
  }
  return place.empty() ? fmt::format("{}+{:#x}", file, offset) : place;
}

}  // namespace metal_marlin::msl
