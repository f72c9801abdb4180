// What the debug modes remember of every byte that threads of a grid share: who
// wrote and read it last, and between which barriers.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin::msl {

// A thread at a point of its course. Epochs count the barriers it has passed
// that order this kind of memory.
struct AccessPoint {
  const void* code = nullptr;
  std::uint32_t group = 0;  // threadgroup, from 1; 0: nobody
  std::uint32_t epoch = 0;
  std::uint32_t simd_epoch = 0;
  std::uint16_t thread = 0;  // in the threadgroup
  bool atomic = false;
};

// Two accesses of which one is a write, with nothing between them.
struct Conflict {
  AccessPoint earlier;
  bool earlier_wrote;
};

// The shadow of one region. Two reads are kept, of different threads, so that a
// later write meets at least one that is not its own.
class Shadow {
 public:
  // Each threadgroup has its own threadgroup memory at the same addresses: there
  // other threadgroups are nobody.
  Shadow(std::size_t bytes, bool threadgroup_memory)
      : pages_((bytes + kPage - 1) / kPage), threadgroup_memory_(threadgroup_memory) {}

  std::optional<Conflict> read(std::size_t at, std::size_t bytes, const AccessPoint& point);
  std::optional<Conflict> write(std::size_t at, std::size_t bytes, const AccessPoint& point);
  // Whether every byte was written by this threadgroup.
  [[nodiscard]] bool written(std::size_t at, std::size_t bytes, std::uint32_t group) const;

 private:
  static constexpr std::size_t kPage = 1024;
  static constexpr std::size_t kWord = 4;
  struct Cell {
    AccessPoint write;
    AccessPoint read;
    AccessPoint other_read;
  };
  // Bytes that were only ever accessed together share a cell: a word has one for each `width` of its bytes.
  struct Word {
    Cell first;
    std::unique_ptr<std::array<Cell, kWord - 1>> others;
    std::size_t width = kWord;

    [[nodiscard]] Cell& cell(std::size_t i) { return i == 0 ? first : (*others)[i - 1]; }
    void halve();
  };
  using Page = std::array<Word, kPage / kWord>;

  [[nodiscard]] bool ordered(const AccessPoint& earlier, const AccessPoint& now) const;
  [[nodiscard]] bool clash(const AccessPoint& earlier, const AccessPoint& now) const;
  // Calls `step` with each cell of these bytes until it finds a conflict.
  template <typename Step>
  std::optional<Conflict> each(std::size_t at, std::size_t bytes, const Step& step);

  std::vector<std::unique_ptr<Page>> pages_;
  bool threadgroup_memory_;
};

// "file:line" of a code address in the running program or a loaded library, from
// its debug information; the outermost place that is a shader's own text.
std::string code_place(const void* code);
// The same from one line of addr2line's or atos's answer; nothing: no source, or not a shader's own text.
std::string place_of_symbolizer_line(std::string_view line);

}  // namespace metal_marlin::msl
