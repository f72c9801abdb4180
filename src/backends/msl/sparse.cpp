#include "backends/msl/sparse.h"

#include <fmt/format.h>

#include "base/round_up.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

std::uint32_t groups_of(const SparseMatrix& m) {
  return divide_up<std::uint32_t>(m.cols, m.pattern.of);
}

const Pipeline& pipeline_of(Device& device, const char* kernel, const SparseMatrix& m) {
  return device.pipeline("sparse",
                         fmt::format("sparse_{}_{}_{}_{}", kernel, shader_type(m.type), m.pattern.kept, m.pattern.of));
}

}  // namespace

SparseMatrix make_sparse_matrix(Device& device, SparsePattern pattern, DType type, std::int64_t rows,
                                std::int64_t cols) {
  const bool known = (pattern.of == 4 && (pattern.kept == 1 || pattern.kept == 2)) ||
                     (pattern.of == 8 && (pattern.kept == 2 || pattern.kept == 4));
  if (!known) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("sparse: pattern {}:{}, expected 1:4, 2:4, 2:8 or 4:8", pattern.kept, pattern.of));
  }
  static_cast<void>(shader_type(type));  // refuses others
  SparseMatrix m{pattern, type, rows, cols, nullptr, nullptr};
  const std::size_t groups = groups_of(m);
  const std::size_t words = (groups + 15) / 16 * (pattern.kept * (pattern.of == 4 ? 2 : 3) / 2);  // of a row
  m.values = device.allocate(static_cast<std::size_t>(rows) * groups * pattern.kept * (type == DType::kF32 ? 4 : 2));
  m.positions = device.allocate(static_cast<std::size_t>(rows) * words * sizeof(std::uint32_t));
  return m;
}

void encode_sparse_compress(Device& device, Commands& commands, Buffer& weights, const SparseMatrix& matrix) {
  if (matrix.rows == 0 || matrix.cols == 0) return;
  commands.dispatch_threads(pipeline_of(device, "compress", matrix),
                            {(groups_of(matrix) + 15) / 16, static_cast<std::uint32_t>(matrix.rows), 1}, {32, 2, 1},
                            Arguments()
                                .buffer(0, weights)
                                .buffer(1, *matrix.values)
                                .buffer(2, *matrix.positions)
                                .bytes(3, static_cast<std::uint32_t>(matrix.cols)));
}

void encode_sparse_decompress(Device& device, Commands& commands, const SparseMatrix& matrix, Buffer& weights) {
  if (matrix.rows == 0 || matrix.cols == 0) return;
  commands.dispatch_threads(pipeline_of(device, "decompress", matrix),
                            {groups_of(matrix), static_cast<std::uint32_t>(matrix.rows), 1}, {32, 2, 1},
                            Arguments()
                                .buffer(0, *matrix.values)
                                .buffer(1, *matrix.positions)
                                .buffer(2, weights)
                                .bytes(3, static_cast<std::uint32_t>(matrix.cols)));
}

void encode_sparse_linear(Device& device, Commands& commands, const SparseMatrix& matrix, std::int64_t tokens,
                          Buffer& x, Buffer& y) {
  if (tokens == 0 || matrix.rows == 0) return;
  commands.dispatch(pipeline_of(device, "linear", matrix),
                    {static_cast<std::uint32_t>(matrix.rows), static_cast<std::uint32_t>((tokens + 3) / 4), 1},
                    {32, 1, 1},
                    Arguments()
                        .buffer(0, *matrix.values)
                        .buffer(1, *matrix.positions)
                        .buffer(2, x)
                        .buffer(3, y)
                        .bytes(4, static_cast<std::uint32_t>(matrix.rows))
                        .bytes(5, static_cast<std::uint32_t>(matrix.cols))
                        .bytes(6, static_cast<std::uint32_t>(tokens)));
}

}  // namespace metal_marlin::msl
