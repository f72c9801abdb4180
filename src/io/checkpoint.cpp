#include "io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/checkpoint_kinds.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

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
    return {out, owner};
  }
  DenseView out = std::get<DenseView>(view);
  out.bytes = part(out.bytes, static_cast<std::size_t>(out.shape[1]) * dtype_bytes(out.dtype));
  out.shape[0] = count;
  return {out, owner};
}

const WeightInfo* Checkpoint::find(const std::string& name) const {
  const auto& all = weights();
  const auto found = std::lower_bound(all.begin(), all.end(), name,
                                      [](const WeightInfo& info, const std::string& key) { return info.name < key; });
  return found == all.end() || found->name != name ? nullptr : &*found;
}

const WeightInfo& Checkpoint::require(const std::string& name, const Shape& shape) const {
  const WeightInfo* const info = find(name);
  if (info == nullptr) throw Error(ErrorCode::kNotFound, fmt::format("{}: tensor {} is missing", where(), name));
  if (info->shape != shape) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: shape {}, the configuration asks for {}",
                                                     where(name), name, shape_text(info->shape), shape_text(shape)));
  }
  if (!info->packed && !is_float(info->dtype)) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {}: type {}, expected a floating-point type",
                                                     where(name), name, dtype_name(info->dtype)));
  }
  return *info;
}

std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path, const CheckpointOptions& options) {
  if (!std::filesystem::exists(path)) {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no such file or folder", path.string()));
  }
  if (std::filesystem::is_directory(path)) {
    const bool safetensors = std::filesystem::exists(path / "model.safetensors") ||
                             std::filesystem::exists(path / "model.safetensors.index.json");
    for (const char* const name : {"model.onnx", "onnx/model.onnx"}) {
      if (!safetensors && std::filesystem::exists(path / name)) return open_onnx_checkpoint(path / name);
    }
    return open_hf_checkpoint(path, options);
  }
  if (path.extension() == ".onnx") return open_onnx_checkpoint(path);
  return open_gguf_checkpoint(path, options);
}

}  // namespace metal_marlin
