#include "backends/msl/sparse_linear.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_marlin/error.h"
#include "runtime/thread_pool.h"

namespace metal_marlin::msl {
namespace {

constexpr std::int64_t kTileRows = 16;
constexpr std::size_t kUnit = 64;
constexpr std::size_t kUnitBytes = 16 * 16 + 16 * 8;

// The code that stands for zero; both of E2M1's have no magnitude.
bool is_zero(Format format, std::uint8_t code) {
  return format == Format::kS4 ? code == 8 : (code & 7U) == 0;
}

class SparseWriter {
 public:
  SparseWriter(const std::string& name, const PackedView& packed)
      : name_(name), packed_(packed), units_((static_cast<std::size_t>(packed.cols) + kUnit - 1) / kUnit) {
    out.resize(static_cast<std::size_t>(blocks()) * units_ * kUnitBytes);
  }
  [[nodiscard]] std::int64_t blocks() const { return (packed_.rows + kTileRows - 1) / kTileRows; }

  void write_block(std::int64_t block) {
    // Whole units: what is past the row's end is zero.
    std::vector<std::uint8_t> codes(units_ * kUnit);
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      const std::int64_t row = block * kTileRows + r;
      std::fill(codes.begin(), codes.end(), packed_.spec.format == Format::kS4 ? std::uint8_t{8} : std::uint8_t{0});
      if (row < packed_.rows) packed_.unpack_row(row, codes.data());
      for (std::size_t group = 0; group < codes.size() / 4; ++group)
        write_group(block, r, row, group, &codes[4 * group]);
    }
  }

  std::vector<std::byte> out;

 private:
  void write_group(std::int64_t block, std::int64_t r, std::int64_t row, std::size_t group, const std::uint8_t* codes) {
    std::array<unsigned, 2> kept{};
    std::size_t count = 0;
    for (unsigned i = 0; i < 4; ++i) {
      if (is_zero(packed_.spec.format, codes[i])) continue;
      if (count == 2) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("tensor {}: row {} has more than two weights that are not zero in inputs {} to {}; "
                                "2:4 sparse weights are expected",
                                name_, row, 4 * group, 4 * group + 3));
      }
      kept[count++] = i;
    }
    // Zeros fill up, at positions that are free.
    for (unsigned i = 0; count < 2; ++i) {
      if (count == 0 || kept[0] != i) kept[count++] = i;
    }
    if (kept[0] > kept[1]) std::swap(kept[0], kept[1]);
    std::byte* const unit = out.data() + (static_cast<std::size_t>(block) * units_ + group / 16) * kUnitBytes;
    const std::size_t at = static_cast<std::size_t>(r) * 16 + group % 16;
    unit[at] = static_cast<std::byte>(codes[kept[0]] | codes[kept[1]] << 4);
    unit[256 + at / 2] |= static_cast<std::byte>((kept[0] | kept[1] << 2) << (at % 2 * 4));
  }

  const std::string& name_;
  const PackedView& packed_;
  std::size_t units_;
};

}  // namespace

SparseLinear::SparseLinear(Device& device, const std::string& name, const PackedView& packed, ThreadPool& pool)
    : device_(device) {
  const FormatInfo& info = format_info(packed.spec.format);
  const bool e2m1 = codec_name(packed.spec.format) == "e2m1";
  if (!e2m1 && packed.spec.format != Format::kS4) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("tensor {}: sparse_gemm has no kernel for {}, expected fp4, mxfp4, nvfp4 or s4", name, info.name));
  }
  matrix_ = make_unit_matrix(device, name, packed, pool);
  matrix_.codes.reset();  // the dense ones
  SparseWriter writer(name, packed);
  pool.parallel_for(writer.blocks(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) writer.write_block(block);
  });
  codes_ = device.allocate_with(writer.out);
}

void SparseLinear::encode(Commands& commands, const Call& call, const LinearWorkspace& workspace) const {
  if (call.tokens == 0) return;
  const UnitMatrixParams& m = matrix_.params;
  const std::int64_t rows = m.rows;
  const auto blocks = static_cast<std::uint32_t>((rows + kTileRows - 1) / kTileRows);
  const auto tokens = static_cast<std::uint32_t>(call.tokens);
  Arguments arguments;
  arguments.buffer(0, *codes_).buffer(1, *matrix_.scales);
  if (call.mode == Activations::kF32) {
    const LinearParams p = linear_params(DType::kF32, DType::kF32, call.tokens, matrix_.cols, rows);
    arguments.buffer(2, *call.x).buffer(3, *call.y).bytes(4, m).bytes(5, p);
    arguments.bytes(6, static_cast<std::uint32_t>(matrix_.cols));
    commands.dispatch(device_.pipeline("sparse_gemm", "sparse_exact_" + matrix_.codec), {blocks, tokens, 1}, {32, 1, 1},
                      arguments);
    return;
  }
  encode_prepare(device_, commands, DType::kF16, call.tokens, matrix_.cols, matrix_.cols, *call.x, workspace);
  const LinearParams p = linear_params(DType::kF16, DType::kF32, call.tokens, matrix_.cols, rows);
  const std::uint32_t columns = call.tokens <= 8 ? 1 : 4;
  arguments.buffer(2, workspace.activations()).buffer(3, workspace.factors()).buffer(4, *call.y);
  arguments.bytes(5, m).bytes(6, p).threadgroup(0, gemm_tile_bytes(matrix_.stage_tiles));
  const std::string kernel = fmt::format("sparse_gemm_{}{}_{}", matrix_.codec, matrix_.by_16 ? "_by16" : "", columns);
  commands.dispatch(device_.pipeline("sparse_gemm", kernel, tile_constants(matrix_.stage_tiles)),
                    {(blocks + 3) / 4, (tokens + 8 * columns - 1) / (8 * columns), 1}, {kGemmThreads, 1, 1}, arguments);
}

}  // namespace metal_marlin::msl
