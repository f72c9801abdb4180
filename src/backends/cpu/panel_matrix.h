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

// Gives out the memory that a runner works in, or only adds up how much that is.
class WorkspaceMemory {
 public:
  enum class Mode { kGive, kMeasure };
  explicit WorkspaceMemory(Mode mode) : mode_(mode) {}
  // Empty where it is only measured.
  AlignedBuffer take(std::size_t bytes) {
    bytes_ += bytes;
    return mode_ == Mode::kGive ? AlignedBuffer(bytes) : AlignedBuffer();
  }
  // Of elements so few that they are made in any case.
  template <typename T>
  std::vector<T> take_vector(std::size_t count) {
    bytes_ += count * sizeof(T);
    return std::vector<T>(count);
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  Mode mode_;
  std::size_t bytes_ = 0;
};

class PanelMatrix {
 public:
  // Repacks, in parallel, a weight whose elements are finite, as a checkpoint gives them.
  PanelMatrix(const Weight& weight, std::int64_t rows, std::int64_t cols, ThreadPool& pool);

  // What such a matrix of a weight of this kind would be, without elements.
  PanelMatrix(const WeightInfo& weight, std::int64_t rows, std::int64_t cols);

  [[nodiscard]] const PanelView& view() const { return view_; }
  [[nodiscard]] std::int64_t panels() const { return divide_up(view_.rows, kPanelRows); }
  // One row in f32, for embeddings.
  void decode_row(std::int64_t row, float* out) const;
  [[nodiscard]] std::size_t bytes() const { return sizes_.codes + sizes_.scales + sizes_.minima + sizes_.zeros; }

 private:
  PanelMatrix(std::int64_t rows, std::int64_t cols);
  void pack_dense(const DenseView& dense, ThreadPool& pool);
  void pack_codes(const PackedView& packed, ThreadPool& pool);
  void pack_row(const PackedView& packed, std::int64_t row, std::uint8_t* panel,
                std::vector<std::uint8_t>& codes) const;
  [[nodiscard]] unsigned code_at(const std::uint8_t* panel, int row, std::int64_t input) const;
  void describe(DType stored);
  void describe(const FormatSpec& spec);

  PanelView view_;
  struct Sizes {
    std::size_t codes = 0;
    std::size_t scales = 0;
    std::size_t minima = 0;
    std::size_t zeros = 0;
  };
  Sizes sizes_;
  AlignedBuffer codes_;
  AlignedBuffer scales_;
  AlignedBuffer minima_;
  AlignedBuffer zeros_;
};

}  // namespace metal_marlin::cpu
