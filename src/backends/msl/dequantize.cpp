#include "backends/msl/dequantize.h"

#include <fmt/format.h>

#include "backends/msl/epilogue.h"
#include "formats/codec.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

std::string shader_of(const std::string& codec) {
  if (codec == "e4m3" || codec == "e5m2") return "dequant_fp8";
  if (codec == "int5" || codec == "int6" || codec == "int8") return "dequant_int8";
  if (codec == "int2" || codec == "int3" || codec == "nf2" || codec == "nf3") return "dequant_sub4bit";
  return "dequant";
}

const Pipeline& pipeline_of(Device& device, const std::string& codec, const char* layout, DType type,
                            std::uint32_t rows, std::int64_t cols, const Buffer& out) {
  const std::size_t bytes = std::size_t{rows} * static_cast<std::size_t>(cols) * (type == DType::kF32 ? 4 : 2);
  const std::string kernel = fmt::format("dequant_{}{}_{}", layout, codec, shader_type(type));
  if (out.size() < bytes) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} bytes expected for the result, found {}", kernel, bytes, out.size()));
  }
  return device.pipeline(shader_of(codec), kernel);
}

}  // namespace

CanonicalMatrix make_canonical_matrix(Device& device, const PackedView& packed) {
  if (packed.spec.sparse)
    throw Error(ErrorCode::kUnsupported, "dequantization: 2:4 sparse matrices have no kernel of canonical layout");
  const PackedLayout layout(packed.spec, packed.rows, packed.cols);
  CanonicalMatrix matrix;
  matrix.codec = codec_name(packed.spec.format);
  DequantizeParams& p = matrix.params;
  p.rows = static_cast<std::uint32_t>(packed.rows);
  p.cols = static_cast<std::uint32_t>(packed.cols);
  p.group = static_cast<std::uint32_t>(packed.spec.group_size(packed.cols));
  p.groups = static_cast<std::uint32_t>(packed.spec.groups(packed.cols));
  p.row_bytes = static_cast<std::uint32_t>(layout.code_row_bytes);
  p.zero_bytes = static_cast<std::uint32_t>(layout.zero_row_bytes);
  p.scale_type = static_cast<std::uint32_t>(packed.spec.scale_type);
  p.zero_kind = static_cast<std::uint32_t>(packed.spec.zero);
  p.global_scale = packed.global_scale;
  p.offset = code_offset(packed.spec.format);
  matrix.codes = device.allocate_with(packed.codes);
  matrix.scales = device.allocate_with(packed.scales);
  matrix.zeros = packed.zeros.empty() ? device.allocate(16) : device.allocate_with(packed.zeros);
  return matrix;
}

void encode_dequantize(Device& device, Commands& commands, const CanonicalMatrix& matrix, DType type, Buffer& out) {
  const DequantizeParams& p = matrix.params;
  commands.dispatch_threads(pipeline_of(device, matrix.codec, "", type, p.rows, p.cols, out), {p.cols, p.rows, 1},
                            {32, 4, 1},
                            Arguments()
                                .buffer(0, *matrix.codes)
                                .buffer(1, *matrix.scales)
                                .buffer(2, *matrix.zeros)
                                .buffer(3, out)
                                .bytes(4, p));
}

void encode_dequantize(Device& device, Commands& commands, const TiledMatrix& matrix, DType type, Buffer& out) {
  const TiledMatrixParams& p = matrix.params;
  const auto cols = static_cast<std::uint32_t>(matrix.cols);
  commands.dispatch(pipeline_of(device, matrix.codec, "units_", type, p.rows, matrix.cols, out),
                    {p.units, (p.rows + 15) / 16, 1}, {32, 1, 1},
                    Arguments()
                        .buffer(0, *matrix.codes)
                        .buffer(1, *matrix.scales)
                        .buffer(2, *matrix.minima)
                        .buffer(3, out)
                        .bytes(4, p)
                        .bytes(5, cols));
}

void encode_embed(Device& device, Commands& commands, const TiledMatrix& matrix, std::int64_t count, Buffer& ids,
                  Buffer& out) {
  if (count == 0) return;
  const auto cols = static_cast<std::uint32_t>(matrix.cols);
  commands.dispatch(device.pipeline(shader_of(matrix.codec), "embed_" + matrix.codec),
                    {matrix.params.units, static_cast<std::uint32_t>(count), 1}, {32, 1, 1},
                    Arguments()
                        .buffer(0, *matrix.codes)
                        .buffer(1, *matrix.scales)
                        .buffer(2, *matrix.minima)
                        .buffer(3, ids)
                        .buffer(4, out)
                        .bytes(5, matrix.params)
                        .bytes(6, cols));
}

void encode_embed(Device& device, Commands& commands, const DenseMatrix& matrix, std::int64_t count, Buffer& ids,
                  Buffer& out) {
  if (count == 0) return;
  if (matrix.dtype == DType::kF32)
    return encode_select_rows(device, commands, DType::kF32, count, matrix.cols, *matrix.values, ids, out);
  const auto cols = static_cast<std::uint32_t>(matrix.cols);
  commands.dispatch(
      device.pipeline("dense_gemm", fmt::format("dense_embed_{}", shader_type(matrix.dtype))),
      {matrix.units, static_cast<std::uint32_t>(count), 1}, {32, 1, 1},
      Arguments().buffer(0, *matrix.values).buffer(1, ids).buffer(2, out).bytes(3, matrix.units).bytes(4, cols));
}

}  // namespace metal_marlin::msl
