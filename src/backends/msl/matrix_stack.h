// Several matrices of one shape and format on a device, one after another: experts, heads.
#pragma once

#include <span>
#include <variant>
#include <vector>

#include "backends/msl/linear.h"

namespace metal_marlin::msl {

class MatrixStack {
 public:
  // \throws Error (kInvalidArgument) naming `name` when formats differ.
  MatrixStack(Device& device, const std::string& name, std::span<const Weight> items, std::int64_t rows,
              std::int64_t cols, ThreadPool& pool);

  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] std::uint32_t items() const { return items_; }
  [[nodiscard]] std::uint32_t units() const;
  [[nodiscard]] std::uint32_t item_blocks() const;  // of 16 rows
  [[nodiscard]] std::size_t bytes() const;
  // What kernels call it: a codec or a type.
  [[nodiscard]] std::string kind() const;
  // Codec and scales' layout, for kernels that know them; `common`: also those made for the
  // most common kinds.
  [[nodiscard]] std::string kind_with_scales(bool common) const;
  [[nodiscard]] const TiledMatrix* quantized() const { return std::get_if<TiledMatrix>(&matrix_); }
  [[nodiscard]] const DenseMatrix* dense() const { return std::get_if<DenseMatrix>(&matrix_); }
  // f32 [items]: what sums are multiplied by.
  [[nodiscard]] Buffer& factors() const { return *factors_; }
  // As Linear::prepared_type.
  [[nodiscard]] DType prepared_type(Activations mode) const;

 private:
  std::int64_t rows_;
  std::int64_t cols_;
  std::uint32_t items_;
  std::variant<TiledMatrix, DenseMatrix> matrix_;
  std::unique_ptr<Buffer> factors_;
};

// y = W_i x for several items i, in one launch.
struct BatchedCall {
  Buffer* x = nullptr;  // f32 rows of `x_stride` elements, of which cols() count
  std::int64_t x_stride = 0;
  Buffer* y = nullptr;  // rows of `y_stride`
  std::int64_t y_stride = 0;
  DType y_type = DType::kF32;
  std::int64_t rows = 0;  // of x and y, all items'
  // i32 [items + 1]: item i has rows starts[i] to starts[i + 1]. Null: row r is item r % items'.
  Buffer* starts = nullptr;
  Activations mode = Activations::kInt8;  // kF32: exact
};
// \throws Error (kInvalidArgument) when rows are no multiple of the items.
void encode_batched(Device& device, Commands& commands, const MatrixStack& stack, const BatchedCall& call,
                    const LinearWorkspace& workspace);

}  // namespace metal_marlin::msl
