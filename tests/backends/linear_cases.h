// Matrices and formats that the linear tests of every backend share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/packed_matrix.h"
#include "io/checkpoint.h"
#include "test_pool.h"

namespace metal_marlin {

std::vector<float> normal_data(std::size_t n, unsigned seed, float scale = 1);

struct TestMatrix {
  Weight weight;
  std::shared_ptr<PackedMatrix> packed;
  std::vector<std::byte> dense;
  std::int64_t rows;
  std::int64_t cols;
  [[nodiscard]] std::vector<float> decoded() const;
};
TestMatrix packed_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, unsigned seed);
TestMatrix dense_matrix(DType type, std::int64_t rows, std::int64_t cols, unsigned seed);

// Every format, with every group size and scale type where those are open.
std::vector<FormatSpec> kernel_specs();
// 2:4 sparse ones, for widths that are multiples of 4.
std::vector<FormatSpec> sparse_specs();
std::string text(const FormatSpec& spec);

}  // namespace metal_marlin
