// y = W x (+ bias) on a device: which kernel, which tile, which grid. Not in the
// exact mode, activations are multiplied in half precision, each token's scaled by
// a power of two where half could not hold them; sums are made in f32.
#pragma once

#include <map>
#include <optional>
#include <variant>
#include <vector>

#include "backends/backend.h"
#include "backends/msl/sparse_tiled_matrix.h"
#include "backends/msl/tuned_tiles.h"
#include "common/gate_params.h"
#include "common/linear_params.h"

namespace metal_marlin::msl {

// As ActivationKind in shaders/common/epilogue.h; kGeluTanh is GELU's approximation by tanh.
enum class Activation : std::uint32_t { kNone, kSilu, kGeluTanh, kGelu, kRelu };
// What a plan says of gates, for kernels.
GateParams gate_params(GateActivation activation, const GateClamp& clamp = {});

// What kernels that multiply tiles share: threads of a GEMM's threadgroup, and the part of their names
// that tells the layout of scales (Scaling in shaders/common/unit_layout.h).
constexpr std::uint32_t kGemmThreads = 128;
std::string scaling_suffix(const TiledMatrix& matrix);

// Memory that a Linear works in, made once for the largest batch.
class LinearWorkspace {
 public:
  LinearWorkspace(Device& device, std::int64_t max_tokens, std::int64_t max_cols, std::int64_t max_rows);
  [[nodiscard]] Buffer& activations() const { return *activations_; }
  [[nodiscard]] Buffer& factors() const { return *factors_; }
  [[nodiscard]] Buffer& partial() const { return *partial_; }
  [[nodiscard]] std::int64_t max_tokens() const { return max_tokens_; }

 private:
  std::int64_t max_tokens_;
  std::unique_ptr<Buffer> activations_;
  std::unique_ptr<Buffer> factors_;
  std::unique_ptr<Buffer> partial_;
};

// Rows of x (f32, `x_stride` elements apart, of which `cols` count) as the matrix kernels take them,
// f16 or bf16, to the workspace; and the factor of each.
void encode_prepare(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                    std::int64_t x_stride, Buffer& x, const LinearWorkspace& workspace);
// The same of what encode_rms_norm and encode_gated (epilogue.h) make, f32 [rows][cols], in one launch:
// `out` takes it too, and may be x, or gate or up.
void encode_prepare_norm(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                         float eps, Buffer& x, Buffer& weight, Buffer& out, const LinearWorkspace& workspace);
void encode_prepare_gated(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                          const GateParams& form, Buffer& gate, Buffer& up, Buffer& out,
                          const LinearWorkspace& workspace);
// Of a product with activations that were prepared so.
LinearParams linear_params(DType type, DType y_type, std::int64_t tokens, std::int64_t cols, std::int64_t y_stride);

// The splits that the inputs of a product over few row and token tiles are cut into.
constexpr std::uint32_t kMaxParts = 8;

// Tiles that kernels_autotune has kernels for, for this kind of matrix; none: its kind has no such kernels.
std::vector<TunedTile> tuned_tiles(const TiledMatrix& matrix);
// y = W x with one of them, of activations that the workspace holds.
void encode_tuned(Device& device, Commands& commands, const TiledMatrix& matrix, const TunedTile& tile,
                  const LinearParams& params, Buffer& y, const LinearWorkspace& workspace);

class Linear {
 public:
  Linear(Device& device, const std::string& name, const Weight& weight, std::int64_t rows, std::int64_t cols,
         ThreadPool& pool);
  Linear(Device& device, TiledMatrix matrix);
  Linear(Device& device, DenseMatrix matrix);
  Linear(Device& device, SparseTiledMatrix matrix);

  struct Call {
    Buffer* x = nullptr;         // f32 [tokens][cols]; null: the workspace holds them, prepared
    Buffer* y = nullptr;         // [tokens][rows]
    DType y_type = DType::kF32;  // or f16, bf16
    std::int64_t tokens = 0;
    Buffer* bias = nullptr;  // f32 [rows]
    bool accumulate = false;
    Activation activation = Activation::kNone;
    Activations mode = Activations::kInt8;  // kF32: exact
  };
  void encode(Commands& commands, const Call& call, const LinearWorkspace& workspace) const;

  // From now on products without a bias go by the tiles that were measured to be faster than the usual kernels.
  void tune(const TunedTiles& tiles);
  // Nothing: by the usual kernels.
  [[nodiscard]] std::optional<TunedTile> tuned_tile(std::int64_t tokens) const;
  // As they are kept; the matrix is quantized.
  [[nodiscard]] TunedProduct product_of(std::int64_t tokens) const;
  // The usual kernel for a product with so many tokens.
  [[nodiscard]] std::string kernel_for(std::int64_t tokens, Activations mode) const;
  // As what activations are prepared in the workspace, which products over the same
  // input may then share: f16 or bf16; f32 where they are multiplied as they are.
  [[nodiscard]] DType prepared_type(Activations mode) const;
  // Rows ids[i] (i32 [count]) of the matrix as f32. \throws Error (kUnsupported): it is sparse.
  void encode_rows(Commands& commands, std::int64_t count, Buffer& ids, Buffer& out) const;
  [[nodiscard]] std::size_t bytes() const;
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] const TiledMatrix* quantized() const { return std::get_if<TiledMatrix>(&matrix_); }
  [[nodiscard]] const DenseMatrix* dense() const { return std::get_if<DenseMatrix>(&matrix_); }

 private:
  void encode_quantized(Commands& commands, const TiledMatrix& matrix, const Call& call,
                        const LinearWorkspace& workspace) const;
  void encode_sparse(Commands& commands, const SparseTiledMatrix& matrix, const Call& call,
                     const LinearWorkspace& workspace) const;
  void encode_dense(Commands& commands, const DenseMatrix& matrix, const Call& call,
                    const LinearWorkspace& workspace) const;
  void prepare(Commands& commands, const Call& call, const LinearWorkspace& workspace) const;
  [[nodiscard]] LinearParams params_of(const Call& call) const;

  Device& device_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::variant<TiledMatrix, DenseMatrix, SparseTiledMatrix> matrix_;
  std::unique_ptr<Buffer> nothing_;           // stands for buffers that a kernel does not read
  std::map<std::uint64_t, TunedTile> tuned_;  // by tokens, rounded up to powers of two
};

}  // namespace metal_marlin::msl
