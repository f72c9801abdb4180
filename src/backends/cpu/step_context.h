// What a step of the forward pass is given to run with; every thread has its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/kernels.h"
#include "base/round_up.h"
#include "base/thread_pool.h"

namespace metal_marlin::cpu {

// Where a token of the batch lies.
struct TokenPlace {
  const SequenceSlice* sequence;
  std::int64_t position;

  [[nodiscard]] std::size_t page() const {
    return static_cast<std::size_t>(sequence->pages[static_cast<std::size_t>(position / kCachePageTokens)]);
  }
  [[nodiscard]] int slot() const { return static_cast<int>(position % kCachePageTokens); }
};

// The rotations of a batch's tokens by one of the plan's tables.
struct RopeAngles {
  std::int64_t pairs;
  std::vector<float> cosines;  // [tokens][pairs]
  std::vector<float> sines;
};

struct StepContext {
  static constexpr std::size_t kPhases = 6;  // loops of a step that hand out work

  const Kernels& kernels;
  ThreadPool& pool;
  int thread;
  const Batch& batch;
  std::span<const TokenPlace> places;
  std::span<const RopeAngles> ropes;    // of the plan's tables
  float* linear_scratch;                // of this thread
  bool one_order;                       // RunnerLimits
  std::atomic<std::int64_t>* counters;  // [kPhases], zero at first

  [[nodiscard]] std::int64_t tokens() const { return static_cast<std::int64_t>(batch.tokens.size()); }

  // Hands out [0, n) in chunks; `phase` tells the loops of a step apart.
  template <typename Body>
  void share(std::size_t phase, std::int64_t n, std::int64_t grain, const Body& body) const {
    std::atomic<std::int64_t>& counter = counters[phase];
    for (std::int64_t begin = counter.fetch_add(grain, std::memory_order_relaxed); begin < n;
         begin = counter.fetch_add(grain, std::memory_order_relaxed)) {
      body(begin, std::min(begin + grain, n));
    }
  }
  void barrier() const { pool.barrier(); }
};

// A linear's input in the forms that its matrices want, rows of whole blocks.
struct LinearInputs {
  float* f32;
  Q8Block* q8;
  std::uint16_t* bf16;
};

// The forms of a row that lies in f32 already, padded to whole blocks.
inline void convert_row(const Kernels& k, const LinearInputs& rows, std::int64_t row, std::int64_t n,
                        std::int64_t padded, bool q8, bool bf16) {
  const float* const x = rows.f32 + row * padded;
  if (q8) k.quantize_q8(x, n, rows.q8 + row * (padded / kBlock));
  if (bf16) k.round_bf16(x, padded, rows.bf16 + row * padded);
}

// The tile's input is set by the rows from `first` on.
inline void multiply(const Kernels& k, LinearInput input, const LinearInputs& rows, std::int64_t first,
                     std::int64_t padded, LinearTile tile) {
  switch (input) {
    case LinearInput::kQ8:
      tile.x_stride = padded / kBlock;
      tile.q8 = rows.q8 + first * tile.x_stride;
      return k.linear_q8(tile);
    case LinearInput::kBf16:
      tile.x_stride = padded;
      tile.bf16 = rows.bf16 + first * padded;
      return k.linear_bf16(tile);
    case LinearInput::kF32:
      tile.x_stride = padded;
      tile.x = rows.f32 + first * padded;
      return k.linear_f32(tile);
  }
}

}  // namespace metal_marlin::cpu
