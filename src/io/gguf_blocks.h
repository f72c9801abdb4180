// GGUF's block-quantized tensors: to f32, or to our packed layout where one of
// our formats holds the same numbers.
#pragma once

#include <functional>
#include <optional>

#include "formats/packed_matrix.h"
#include "io/gguf.h"

namespace metal_marlin {

// The format of groups with scales of their own that holds a tensor of this type without loss, if there is one.
std::optional<FormatSpec> gguf_packed_spec(GgufType type);
// The format of scales of two levels that does, of a K-quant or IQ4_XS.
std::optional<FormatSpec> gguf_two_level_spec(GgufType type);

// Where row `r` of the result comes from; used to reorder attention heads.
using RowMap = std::function<std::int64_t(std::int64_t)>;

// Lossless conversion of a type that has one of these.
PackedMatrix gguf_to_packed(const GgufTensor& tensor, const RowMap& map, ThreadPool& pool);

// Decodes one row of `cols` elements of any type that we read.
void gguf_decode_row(GgufType type, std::span<const std::byte> row, std::int64_t cols, float* out);

// Bytes of a row of a [..., cols] tensor.
std::size_t gguf_row_bytes(GgufType type, std::int64_t cols);

}  // namespace metal_marlin
