// Weight matrices in the CPU kernels' layout.
#pragma once

#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/cpu/kernels.h"
#include "base/round_up.h"
#include "io/checkpoint.h"

namespace metal_marlin {
class ThreadPool;
}

namespace metal_marlin::cpu {

// Uninitialised, 64-byte aligned memory.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // \throws Error (kOutOfMemory)
  explicit AlignedBuffer(std::size_t bytes);
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data(), size_}; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

class PanelMatrix {
 public:
  // Repacks, in parallel. \throws Error (kCorruptFile) naming `name` when a
  // scale or element is not finite.
  PanelMatrix(const std::string& name, const Weight& weight, std::int64_t rows, std::int64_t cols, ThreadPool& pool);

  [[nodiscard]] const PanelView& view() const { return view_; }
  [[nodiscard]] std::int64_t panels() const { return divide_up(view_.rows, kPanelRows); }
  // One row in f32, for embeddings.
  void decode_row(std::int64_t row, float* out) const;
  [[nodiscard]] std::size_t bytes() const { return codes_.size() + scales_.size() + minima_.size() + zeros_.size(); }

 private:
  void pack_dense(const DenseView& dense, ThreadPool& pool);
  void pack_codes(const PackedView& packed, ThreadPool& pool);
  void pack_row(const PackedView& packed, std::int64_t row, std::uint8_t* panel,
                std::vector<std::uint8_t>& codes) const;
  [[nodiscard]] unsigned code_at(const std::uint8_t* panel, int row, std::int64_t input) const;
  void describe(const PackedView& packed);

  PanelView view_;
  AlignedBuffer codes_;
  AlignedBuffer scales_;
  AlignedBuffer minima_;
  AlignedBuffer zeros_;
};

// What PanelMatrix will take, for the memory estimate.
std::size_t panel_bytes_estimate(const WeightInfo& weight);

}  // namespace metal_marlin::cpu
