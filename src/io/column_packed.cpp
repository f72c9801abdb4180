#include "io/column_packed.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <memory>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// AWQ's order of eight outputs in a word, from its lowest bits on.
constexpr std::array<std::int64_t, 8> kAwqOrder{0, 2, 4, 6, 1, 3, 5, 7};

class ColumnPacked {
 public:
  ColumnPacked(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
               const PackedModule& described)
      : folder_(folder),
        scheme_(scheme),
        module_(module),
        spec_(described.spec),
        bits_(format_info(spec_.format).bits),
        codes_(words_of(".qweight")),
        zeros_(words_of(".qzeros")),
        scales_(matrix(".scales")) {
    rows_ = scales_.shape[1];
    cols_ = scheme == PackScheme::kAwq ? codes_.shape[0] : codes_.shape[0] * per_word();
    const Shape codes = scheme == PackScheme::kAwq ? Shape{cols_, words(rows_)} : Shape{codes_.shape[0], rows_};
    expect(".qweight", codes_, codes);
    if (scales_.dtype != DType::kF16 && scales_.dtype != DType::kBf16)
      wrong(".scales", scales_, fmt::format("F16 or BF16 {}", shape_text(scales_.shape)));
    spec_.scale_type = scales_.dtype == DType::kF16 ? ScaleType::kF16 : ScaleType::kBf16;
    expect(".scales", scales_, {spec_.groups(cols_), rows_});
    expect(".qzeros", zeros_, {spec_.groups(cols_), words(rows_)});
  }

  [[nodiscard]] PackedModule module() const { return {spec_, rows_, cols_}; }

  [[nodiscard]] LoadedPack load() const {
    auto matrix = std::make_shared<PackedMatrix>(spec_, rows_, cols_);
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_));
    for (std::int64_t row = 0; row < rows_; ++row) {
      for (std::int64_t col = 0; col < cols_; ++col) codes[static_cast<std::size_t>(col)] = code(row, col);
      matrix->set_codes(row, codes);
      for (std::int64_t group = 0; group < spec_.groups(cols_); ++group) {
        const auto at = static_cast<std::size_t>(group * rows_ + row);
        matrix->set_scale(row, group, load_scale(spec_.scale_type, scales_.bytes, at));
        put_zero(*matrix, row, group);
      }
    }
    return {matrix->view(), matrix};
  }

 private:
  [[nodiscard]] std::int64_t per_word() const { return 32 / bits_; }
  [[nodiscard]] std::int64_t words(std::int64_t n) const { return (n + per_word() - 1) / per_word(); }

  [[nodiscard]] const DenseView& matrix(const char* suffix) const {
    const DenseView& view = part(folder_, module_ + suffix);
    if (view.shape.size() != 2) wrong(suffix, view, "a matrix");
    return view;
  }
  [[nodiscard]] const DenseView& words_of(const char* suffix) const {
    const DenseView& view = matrix(suffix);
    if (view.dtype != DType::kI32) wrong(suffix, view, fmt::format("I32 {}", shape_text(view.shape)));
    return view;
  }
  void expect(const char* suffix, const DenseView& view, const Shape& shape) const {
    if (view.shape != shape) wrong(suffix, view, fmt::format("{} {}", dtype_name(view.dtype), shape_text(shape)));
  }
  [[noreturn]] void wrong(const char* suffix, const DenseView& view, const std::string& expected) const {
    bad_part(folder_, module_ + suffix, view, expected);
  }

  [[nodiscard]] std::uint32_t word(const DenseView& view, std::int64_t index) const {
    std::uint32_t out = 0;
    std::memcpy(&out, view.bytes.data() + static_cast<std::size_t>(index) * sizeof(out), sizeof(out));
    return out;
  }
  [[nodiscard]] std::uint8_t field(std::uint32_t value, std::int64_t place) const {
    return static_cast<std::uint8_t>(value >> (bits_ * place) & ((1U << bits_) - 1));
  }
  // Where an output lies in a word of several.
  [[nodiscard]] std::int64_t place_across(std::int64_t row) const {
    const std::int64_t in_word = row % per_word();
    if (scheme_ != PackScheme::kAwq) return in_word;
    for (std::size_t i = 0; i < kAwqOrder.size(); ++i) {
      if (kAwqOrder[i] == in_word) return static_cast<std::int64_t>(i);
    }
    return 0;
  }

  [[nodiscard]] std::uint8_t code(std::int64_t row, std::int64_t col) const {
    if (scheme_ == PackScheme::kAwq)
      return field(word(codes_, col * words(rows_) + row / per_word()), place_across(row));
    return field(word(codes_, col / per_word() * rows_ + row), col % per_word());
  }

  void put_zero(PackedMatrix& matrix, std::int64_t row, std::int64_t group) const {
    const int stored = field(word(zeros_, group * words(rows_) + row / per_word()), place_across(row));
    // The first form of GPTQ's files has one less.
    const int zero = scheme_ == PackScheme::kGptq ? stored + 1 : stored;
    const int middle = 1 << (bits_ - 1);
    const std::string name = module_ + ".qzeros";
    if (spec_.zero == ZeroKind::kInteger) {
      if (zero >= 1 << bits_) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: tensor {}: the zero of output {}, group {} is {}, at most {} "
                                "is supported",
                                folder_.where(name), name, row, group, zero, (1 << bits_) - 1));
      }
      matrix.set_zero(row, group, zero);
    } else if (zero != middle) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: tensor {}: the zero of output {}, group {} is {}, expected {} of symmetric codes",
                              folder_.where(name), name, row, group, zero, middle));
    }
  }

  const SafetensorsFolder& folder_;
  PackScheme scheme_;
  const std::string& module_;
  FormatSpec spec_;
  int bits_;
  const DenseView& codes_;
  const DenseView& zeros_;
  const DenseView& scales_;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

}  // namespace

PackedModule column_packed_module(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                                  const PackedModule& described) {
  return ColumnPacked(folder, scheme, module, described).module();
}

LoadedPack load_column_packed(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                              const PackedModule& described) {
  return ColumnPacked(folder, scheme, module, described).load();
}

}  // namespace metal_marlin
