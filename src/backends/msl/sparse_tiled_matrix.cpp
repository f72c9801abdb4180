#include "backends/msl/sparse_tiled_matrix.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/round_up.h"
#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/sparsity.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class SparseWriter {
 public:
  SparseWriter(const std::string& name, const PackedView& packed)
      : name_(name), packed_(packed), units_(divide_up<std::size_t>(packed.cols, kUnit)) {
    out.resize(static_cast<std::size_t>(blocks()) * units_ * kSparseUnitBytes);
  }
  [[nodiscard]] std::int64_t blocks() const { return divide_up(packed_.rows, kTileRows); }

  void write_block(std::int64_t block) {
    // Whole units: what is past the row's end is zero.
    std::vector<std::uint8_t> codes(units_ * kUnit);
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      const std::int64_t row = block * kTileRows + r;
      std::fill(codes.begin(), codes.end(), zero_code(packed_.spec.format));
      if (row < packed_.rows) packed_.unpack_row(row, codes.data());
      for (std::size_t group = 0; group < codes.size() / 4; ++group)
        write_group(block, r, row, group, &codes[4 * group]);
    }
  }

  std::vector<std::byte> out;

 private:
  void write_group(std::int64_t block, std::int64_t r, std::int64_t row, std::size_t group, const std::uint8_t* codes) {
    const auto kept = kept_positions(packed_.spec.format, std::span<const std::uint8_t, 4>(codes, 4));
    if (!kept) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("tensor {}: row {} has more than two weights that are not zero in inputs {} to {}; "
                              "2:4 sparse weights are expected",
                              name_, row, 4 * group, 4 * group + 3));
    }
    const auto [first, second] = *kept;
    std::byte* const unit = out.data() + (static_cast<std::size_t>(block) * units_ + group / 16) * kSparseUnitBytes;
    const std::size_t at = static_cast<std::size_t>(r) * 16 + group % 16;
    unit[at] = static_cast<std::byte>(codes[first] | codes[second] << 4);
    unit[256 + at / 2] |= static_cast<std::byte>((first | second << 2) << (at % 2 * 4));
  }

  const std::string& name_;
  const PackedView& packed_;
  std::size_t units_;
};

}  // namespace

SparseTiledMatrix make_sparse_tiled_matrix(Device& device, const std::string& name, const PackedView& packed,
                                           ThreadPool& pool) {
  const FormatInfo& info = format_info(packed.spec.format);
  const bool e2m1 = codec_name(packed.spec.format) == "e2m1";
  if (!e2m1 && packed.spec.format != Format::kS4) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("tensor {}: sparse_gemm has no kernel for {}, expected fp4, mxfp4, nvfp4 or s4", name, info.name));
  }
  SparseTiledMatrix matrix;
  matrix.units = make_tiled_matrix(device, packed, pool);
  matrix.units.codes.reset();  // the dense ones
  SparseWriter writer(name, packed);
  pool.parallel_for(writer.blocks(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) writer.write_block(block);
  });
  matrix.codes = device.allocate_with(writer.out);
  return matrix;
}

}  // namespace metal_marlin::msl
