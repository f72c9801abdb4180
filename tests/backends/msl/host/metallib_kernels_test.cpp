#include "backends/msl/host/metallib_kernels.h"

#include <gtest/gtest.h>

namespace metal_marlin::msl {
namespace {

MslKernel kernel(const std::vector<MslArgument>& arguments, std::uint32_t max_threads = 0) {
  return {"k", nullptr, arguments.data(), static_cast<std::uint32_t>(arguments.size()), max_threads, nullptr};
}

TEST(MetallibKernels, DifferencesAreNamed) {
  const MslArgument x = {"x", "device const float *", kMslBuffer, 1, 0, 0, 0, 4, 4};
  const MslArgument n = {"n", "constant uint &", kMslBuffer, 1, 1, 0, 1, 4, 4};
  const MslArgument id = {"id", "uint", kMslBuiltin, 0, 0, 0, kMslThreadPositionInGrid, 4, 4};
  const std::vector<MslArgument> known = {x, n, id};
  EXPECT_EQ(difference(kernel(known), kernel(known)), "");
  // How a type is written, and the size of a position, are the compiler's affair.
  std::vector<MslArgument> other = known;
  other[0].type = "float";
  other[2].size = 2;
  EXPECT_EQ(difference(kernel(known), kernel(other)), "");

  EXPECT_EQ(difference(kernel(known), kernel({})), "0 arguments, expected 3");
  other = known;
  other[1].size = 8;
  EXPECT_EQ(difference(kernel(known), kernel(other)),
            "argument 1 is n (buffer 1, by value, 8 bytes, aligned to 4), expected n (buffer 1, by value, 4 bytes, "
            "aligned to 4)");
  other = known;
  std::swap(other[0], other[1]);
  EXPECT_EQ(difference(kernel(known), kernel(other)).substr(0, 27), "argument 0 is n (buffer 1, ");
  other = known;
  other[0].kind = kMslThreadgroup;
  EXPECT_NE(difference(kernel(known), kernel(other)), "");
  other = known;
  other[2].index = kMslThreadIndexInSimdgroup;
  EXPECT_NE(difference(kernel(known), kernel(other)), "");
  EXPECT_EQ(difference(kernel(known, 128), kernel(known, 64)), "at most 64 threads a threadgroup, expected 128");
}

}  // namespace
}  // namespace metal_marlin::msl
