#include "backends/msl/host/shadow.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstdio>

#include "base/program_path.h"

namespace metal_marlin::msl {
namespace {

constexpr unsigned kSimd = 32;

}  // namespace

// Whether `earlier` is over before `now` begins, for whoever looks.
inline bool Shadow::ordered(const AccessPoint& earlier, const AccessPoint& now) const {
  if (earlier.group == 0) return true;
  if (earlier.group != now.group) return threadgroup_memory_;
  if (earlier.thread == now.thread || earlier.epoch < now.epoch) return true;
  return earlier.thread / kSimd == now.thread / kSimd && earlier.simd_epoch < now.simd_epoch;
}

inline bool Shadow::clash(const AccessPoint& earlier, const AccessPoint& now) const {
  return !ordered(earlier, now) && !(earlier.atomic && now.atomic);
}

void Shadow::Word::halve() {
  if (!others) others = std::make_unique<std::array<Cell, kWord - 1>>();
  for (std::size_t i = kWord / width; i-- > 0;) cell(2 * i + 1) = cell(2 * i) = cell(i);
  width /= 2;
}

template <typename Step>
std::optional<Conflict> Shadow::each(std::size_t at, std::size_t bytes, const Step& step) {
  const std::size_t end = at + bytes;
  while (at < end) {
    std::unique_ptr<Page>& page = pages_[at / kPage];
    if (!page) page = std::make_unique<Page>();
    Word& word = (*page)[at % kPage / kWord];
    while (at % word.width != 0 || end - at < word.width) word.halve();
    if (std::optional<Conflict> conflict = step(word.cell(at % kWord / word.width))) return conflict;
    at += word.width;
  }
  return std::nullopt;
}

std::optional<Conflict> Shadow::read(std::size_t at, std::size_t bytes, const AccessPoint& point) {
  return each(at, bytes, [&](Cell& c) -> std::optional<Conflict> {
    if (clash(c.write, point)) return Conflict{c.write, true};
    if (ordered(c.read, point)) {
      c.read = point;
    } else if (c.read.thread != point.thread || c.read.group != point.group) {
      c.other_read = point;
    }
    return std::nullopt;
  });
}

std::optional<Conflict> Shadow::write(std::size_t at, std::size_t bytes, const AccessPoint& point) {
  return each(at, bytes, [&](Cell& c) -> std::optional<Conflict> {
    if (clash(c.write, point)) return Conflict{c.write, true};
    if (clash(c.read, point)) return Conflict{c.read, false};
    if (clash(c.other_read, point)) return Conflict{c.other_read, false};
    c.write = point;
    return std::nullopt;
  });
}

bool Shadow::written(std::size_t at, std::size_t bytes, std::uint32_t group) const {
  for (const std::size_t end = at + bytes; at < end;) {
    const std::unique_ptr<Page>& page = pages_[at / kPage];
    if (!page) return false;
    Word& word = (*page)[at % kPage / kWord];
    if (word.cell(at % kWord / word.width).write.group != group) return false;
    at += word.width - at % word.width;
  }
  return true;
}

std::string place_of_symbolizer_line(std::string_view line) {
  line = line.substr(0, line.find_last_not_of(" \n") + 1);
  if (line.ends_with(')')) {  // atos: name (in file) (source:line), or (in file) + offset; addr2line: (discriminator n)
    const std::size_t open = line.rfind('(') + 1;
    const std::string_view last = line.substr(open, line.size() - open - 1);
    line = last.starts_with("discriminator ") ? line.substr(0, open - 2) : last;
  }
  const std::size_t colon = line.rfind(':');
  const bool known = colon != std::string_view::npos && line.find_first_of("0123456789?", colon) == colon + 1;
  const bool ours =
      line.find("/msl/include/") != std::string_view::npos || line.find("<entries>") != std::string_view::npos;
  return known && !ours && !line.starts_with("??") ? std::string(line) : std::string();
}

std::string code_place(const void* code) {
  Dl_info info{};
  if (dladdr(code, &info) == 0 || info.dli_fname == nullptr) return fmt::format("{}", code);
  // A return address points behind its call.
  const auto base = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(code) - base - 1;
  const std::string file = info.dli_fname[0] == '/' ? info.dli_fname : program_path().string();
#if defined(__APPLE__)
  const std::string command =
      fmt::format("atos -i -fullPath -o '{}' -l {:#x} {:#x} 2>/dev/null", file, base, base + offset);
#else
  const std::string command = fmt::format("addr2line -i -e '{}' {:#x} 2>/dev/null", file, offset);
#endif
  std::string place;
  if (FILE* const pipe = popen(command.c_str(), "r"); pipe != nullptr) {
    std::array<char, 4096> line{};
    while (place.empty() && fgets(line.data(), static_cast<int>(line.size()), pipe) != nullptr)
      place = place_of_symbolizer_line(line.data());
    pclose(pipe);
  }
  return place.empty() ? fmt::format("{}+{:#x}", file, offset) : place;
}

}  // namespace metal_marlin::msl
