// What adapters of low rank add to products on a device (shaders/low_rank.metal).
#pragma once

#include <span>

#include "backends/msl/device.h"
#include "ops/adapter.h"

namespace metal_marlin::msl {

// What adapters have of one weight, one behind the other.
class LowRankStack {
 public:
  // pairs: by adapter; null: it leaves the weight as it is. in: of an embedding the vocabulary.
  LowRankStack(Device& device, std::span<const LowRank* const> pairs, std::int64_t in, std::int64_t out);

  [[nodiscard]] std::int64_t most_rank() const { return most_rank_; }
  [[nodiscard]] std::size_t bytes() const { return a_->size() + b_->size() + entries_->size(); }

  struct Call {
    std::int64_t rows;
    Buffer* adapters;  // i32, of each row; negative: none
    Buffer* in;        // f32 [rows][in]; of an embedding the tokens, i32
    Buffer* out;       // f32 [rows][out], that it is added to
    Buffer* inner;     // f32 [rows][most_rank], to work in
  };
  void encode(Device& device, Commands& commands, const Call& call) const;
  void encode_rows(Device& device, Commands& commands, const Call& call) const;

 private:
  void encode_up(Device& device, Commands& commands, const Call& call) const;

  std::int64_t in_;
  std::int64_t out_;
  std::int64_t most_rank_ = 0;
  std::unique_ptr<Buffer> entries_;
  std::unique_ptr<Buffer> a_;
  std::unique_ptr<Buffer> b_;
};

}  // namespace metal_marlin::msl
