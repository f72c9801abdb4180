#include "io/gguf_latent.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/thread_pool.h"
#include "formats/small_floats.h"
#include "io/gguf_blocks.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Rows of a tensor of three dimensions, in f32.
class MatrixRows {
 public:
  explicit MatrixRows(const GgufTensor& tensor)
      : tensor_(tensor), row_bytes_(gguf_row_bytes(tensor.type, tensor.shape[2])) {}
  void read(std::int64_t matrix, std::int64_t row, float* out) const {
    const auto at = static_cast<std::size_t>(matrix * tensor_.shape[1] + row);
    gguf_decode_row(tensor_.type, tensor_.bytes.subspan(at * row_bytes_, row_bytes_), tensor_.shape[2], out);
  }

 private:
  const GgufTensor& tensor_;
  std::size_t row_bytes_;
};

void write_row(std::span<const float> row, DType dtype, std::byte* out) {
  if (dtype == DType::kF32) {
    std::copy(row.begin(), row.end(), reinterpret_cast<float*>(out));
    return;
  }
  auto* const halves = reinterpret_cast<std::uint16_t*>(out);
  std::transform(row.begin(), row.end(), halves, dtype == DType::kF16 ? f32_to_f16 : f32_to_bf16);
}

}  // namespace

// Quantized ones become f16, whose rounding is small beside theirs.
DType GgufExpansion::dtype() const {
  const DType of_keys = gguf_dense_type(keys.type).value_or(DType::kF16);
  const DType of_values = gguf_dense_type(values.type).value_or(DType::kF16);
  const bool narrow = of_keys == DType::kF16 || of_keys == DType::kBf16;
  return narrow && of_keys == of_values ? of_keys : DType::kF32;
}

WeightInfo GgufExpansion::describe(const std::string& name) const {
  const bool whole = keys.shape.size() == 3 && values.shape.size() == 3 && !keys.bytes.empty() && !values.bytes.empty();
  if (!whole || keys.shape[0] != values.shape[0] || keys.shape[1] != values.shape[2])
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensors attn_k_b and attn_v_b of {}: found {} and {}, expected matrices of as many "
                            "heads, of keys by rank and of rank by values",
                            file, name, shape_text(keys.shape), shape_text(values.shape)));
  const Shape shape{keys.shape[0] * (keys.shape[2] + values.shape[1]), keys.shape[1]};
  return {name,
          shape,
          dtype(),
          std::nullopt,
          keys.bytes.size() + values.bytes.size(),
          std::string(gguf_type_info(keys.type).name)};
}

Weight GgufExpansion::load(ThreadPool& pool) const {
  const std::int64_t heads = keys.shape[0];
  const std::int64_t rank = keys.shape[1];
  const std::int64_t key = keys.shape[2];
  const std::int64_t rows = key + values.shape[1];  // of a head
  const DType type = dtype();
  const std::size_t row_bytes = static_cast<std::size_t>(rank) * dtype_bytes(type);
  const auto owner = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(heads * rows) * row_bytes);
  const MatrixRows of_keys(keys);
  const MatrixRows of_values(values);
  pool.parallel_for(heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> turned(static_cast<std::size_t>(key));
    std::vector<float> head(static_cast<std::size_t>(rows * rank));
    for (std::int64_t h = begin; h < end; ++h) {
      for (std::int64_t r = 0; r < rank; ++r) {
        of_keys.read(h, r, turned.data());
        for (std::int64_t i = 0; i < key; ++i)
          head[static_cast<std::size_t>(i * rank + r)] = turned[static_cast<std::size_t>(i)];
      }
      for (std::int64_t i = key; i < rows; ++i) of_values.read(h, i - key, &head[static_cast<std::size_t>(i * rank)]);
      for (std::int64_t i = 0; i < rows; ++i)
        write_row(std::span(head).subspan(static_cast<std::size_t>(i * rank), static_cast<std::size_t>(rank)), type,
                  owner->data() + static_cast<std::size_t>(h * rows + i) * row_bytes);
    }
  });
  return {DenseView{type, {heads * rows, rank}, *owner}, owner};
}

}  // namespace metal_marlin
