#include "io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/round_up.h"
#include "base/thread_pool.h"
#include "io/checkpoint_kinds.h"
#include "io/model_folder.h"
#include "io/split_checkpoint.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kFiniteChunk = 1 << 16;

// The first of elements [begin, end) that has all bits of `mask`; -1: none.
template <typename Bits>
std::int64_t first_with(Bits mask, std::span<const std::byte> bytes, std::int64_t begin, std::int64_t end) {
  std::array<Bits, 2048> values;
  for (std::int64_t at = begin; at < end; at += static_cast<std::int64_t>(values.size())) {
    const auto n = std::min(static_cast<std::size_t>(end - at), values.size());
    std::memcpy(values.data(), bytes.data() + static_cast<std::size_t>(at) * sizeof(Bits), n * sizeof(Bits));
    unsigned found = 0;
    for (std::size_t i = 0; i < n; ++i) found |= static_cast<unsigned>((values[i] & mask) == mask);
    for (std::size_t i = 0; found != 0 && i < n; ++i) {
      if ((values[i] & mask) == mask) return at + static_cast<std::int64_t>(i);
    }
  }
  return -1;
}

// The first element of [begin, end) that is not a finite number; -1: none.
std::int64_t first_not_finite(const DenseView& dense, std::int64_t begin, std::int64_t end) {
  switch (dense.dtype) {
    case DType::kF64: return first_with<std::uint64_t>(0x7FF0000000000000, dense.bytes, begin, end);
    case DType::kF32: return first_with<std::uint32_t>(0x7F800000, dense.bytes, begin, end);
    case DType::kF16: return first_with<std::uint16_t>(0x7C00, dense.bytes, begin, end);
    case DType::kBf16: return first_with<std::uint16_t>(0x7F80, dense.bytes, begin, end);
    case DType::kF8E4M3: return first_with<std::uint8_t>(0x7F, dense.bytes, begin, end);
    default: return first_with<std::uint8_t>(0x7C, dense.bytes, begin, end);  // E5M2
  }
}

}  // namespace

void Weight::decode_row(std::int64_t row, std::int64_t cols, float* out) const {
  if (const auto* const matrix = std::get_if<PackedView>(&view)) {
    matrix->decode_row(row, out);
  } else {
    const auto& dense = std::get<DenseView>(view);
    convert_to_f32(dense.dtype, dense.bytes, static_cast<std::size_t>(row * cols), static_cast<std::size_t>(cols), out);
  }
}

Weight Weight::rows(std::int64_t first, std::int64_t count) const {
  const auto part = [&](std::span<const std::byte> bytes, std::size_t row_bytes) {
    if (bytes.empty()) return bytes;
    return bytes.subspan(static_cast<std::size_t>(first) * row_bytes, static_cast<std::size_t>(count) * row_bytes);
  };
  if (const auto* const matrix = std::get_if<PackedView>(&view)) {
    const PackedLayout layout(matrix->spec, matrix->rows, matrix->cols);
    PackedView out = *matrix;
    out.rows = count;
    out.codes = part(matrix->codes, layout.code_row_bytes);
    out.scales = part(matrix->scales, layout.scale_row_bytes);
    out.zeros = part(matrix->zeros, layout.zero_row_bytes);
    out.positions = part(matrix->positions, layout.position_row_bytes);
    out.sub_scales = part(matrix->sub_scales, layout.sub_scale_row_bytes);
    out.sub_minima = part(matrix->sub_minima, layout.sub_minimum_row_bytes);
    return {out, owner};
  }
  DenseView out = std::get<DenseView>(view);
  const std::int64_t cols = out.shape.size() > 1 ? out.shape[1] : 1;
  out.bytes = part(out.bytes, static_cast<std::size_t>(cols) * dtype_bytes(out.dtype));
  out.shape[0] = count;
  return {out, owner};
}

const WeightInfo* Checkpoint::find(const std::string& name) const {
  const auto& all = weights();
  const auto found = std::lower_bound(all.begin(), all.end(), name,
                                      [](const WeightInfo& info, const std::string& key) { return info.name < key; });
  return found == all.end() || found->name != name ? nullptr : &*found;
}

Weight Checkpoint::load(const std::string& name, ThreadPool& pool) const {
  if (find(name) == nullptr) fail_missing(name);
  Weight weight = read(name, pool);
  if (weight.packed())
    std::get<PackedView>(weight.view).check_finite(fmt::format("{}: tensor {}", where(name), name_in_file(name)));
  const auto* const dense = std::get_if<DenseView>(&weight.view);
  if (dense == nullptr || !is_float(dense->dtype)) return weight;
  const std::int64_t count = element_count(dense->shape).value_or(0);
  pool.parallel_for(divide_up(count, kFiniteChunk), 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kFiniteChunk;
    const std::int64_t bad = first_not_finite(*dense, first, std::min(end * kFiniteChunk, count));
    if (bad < 0) return;
    float value = 0;
    convert_to_f32(dense->dtype, dense->bytes, static_cast<std::size_t>(bad), 1, &value);
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: element {} is {}, expected a finite number",
                                                     where(name), name_in_file(name), bad, value));
  });
  return weight;
}

void Checkpoint::fail_missing(const std::string& name) const {
  throw Error(ErrorCode::kNotFound, fmt::format("{}: tensor {} is missing", where(), name_in_file(name)));
}

const WeightInfo& Checkpoint::require(const std::string& name, const Shape& shape) const {
  const WeightInfo* const info = find(name);
  if (info == nullptr) fail_missing(name);
  if (info->shape != shape) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: shape {}, the configuration asks for {}", where(name), name_in_file(name),
                            shape_text(info->shape), shape_text(shape)));
  }
  if (!info->packed && !is_float(info->dtype)) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {}: type {}, expected a floating-point type",
                                                     where(name), name_in_file(name), dtype_name(info->dtype)));
  }
  return *info;
}

namespace {

std::unique_ptr<Checkpoint> open_stored(const std::filesystem::path& path, const CheckpointOptions& options) {
  if (!std::filesystem::exists(path)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no such file or folder", path.string()));
  }
  if (std::filesystem::is_directory(path)) {
    const bool safetensors = has_file(path, "model.safetensors") || has_file(path, "model.safetensors.index.json");
    for (const char* const name : {"model.onnx", "onnx/model.onnx"}) {
      if (!safetensors && std::filesystem::exists(path / name)) return open_onnx_checkpoint(path / name);
    }
    return open_hf_checkpoint(path, options);
  }
  if (path.extension() == ".onnx") return open_onnx_checkpoint(path);
  if (path.extension() == ".safetensors") {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: is a file of weights; name the folder that holds it and config.json", path.string()));
  }
  return open_gguf_checkpoint(path, options);
}

}  // namespace

std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path, const CheckpointOptions& options) {
  return split_projections(open_stored(path, options));
}

}  // namespace metal_marlin
