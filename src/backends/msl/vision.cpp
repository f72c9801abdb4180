#include "backends/msl/vision.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/vision_params.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr int kPrecision = 22;  // bits after the point of weights

void check_image(const ImageShape& image) {
  if (image.height < 1 || image.width < 1 || image.height > 65536 || image.width > 65536 || image.channels < 1 ||
      image.channels > 4) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("vision_preprocess: an image of {} x {} x {}, expected 1 to 65536 a side and 1 to 4 channels",
                    image.height, image.width, image.channels));
  }
}

double support(ImageFilter filter) {
  switch (filter) {
    case ImageFilter::kArea: return 0.5;
    case ImageFilter::kBilinear: return 1;
    case ImageFilter::kBicubic: return 2;
    case ImageFilter::kLanczos: return 3;
  }
  return 0;
}

double sinc(double x) {
  return x == 0 ? 1 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x);
}

double weight(ImageFilter filter, double x) {
  const double a = std::fabs(x);
  switch (filter) {
    case ImageFilter::kArea: return x > -0.5 && x <= 0.5 ? 1 : 0;
    case ImageFilter::kBilinear: return a < 1 ? 1 - a : 0;
    case ImageFilter::kBicubic:  // of Keys, a = -1/2
      if (a < 1) return ((1.5 * a) - 2.5) * a * a + 1;
      return a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0;
    case ImageFilter::kLanczos: return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  }
  return 0;
}

std::uint32_t packed(const std::array<std::uint8_t, 3>& colour) {
  return static_cast<std::uint32_t>(colour[0] | colour[1] << 8 | colour[2] << 16);
}

}  // namespace

ImageResize::ImageResize(Device& device, ImageFilter filter, const ImageShape& from, std::int64_t height,
                         std::int64_t width)
    : device_(device), from_(from), to_{height, width, from.channels} {
  check_image(from_);
  check_image(to_);
  if (width != from.width) horizontal_ = make_pass(filter, from.width, width);
  if (height != from.height) vertical_ = make_pass(filter, from.height, height);
  between_ = device.allocate(static_cast<std::size_t>(from.height * width * from.channels));
}

ImageResize::Pass ImageResize::make_pass(ImageFilter filter, std::int64_t in, std::int64_t out) const {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);
  const double reach = support(filter) * stretch;
  Pass pass;
  pass.window = static_cast<std::uint32_t>(std::ceil(reach)) * 2 + 1;
  std::vector<std::int32_t> first;
  std::vector<std::int32_t> count;
  std::vector<std::int32_t> weights(static_cast<std::size_t>(out) * pass.window);
  std::vector<double> exact(pass.window);
  for (std::int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    // As Pillow rounds, halves up.
    const auto rounded = [](double v) { return static_cast<std::int64_t>(std::floor(v + 0.5)); };
    const std::int64_t begin = std::max<std::int64_t>(rounded(center - reach), 0);
    const std::int64_t end = std::min(rounded(center + reach), in);
    double sum = 0;
    for (std::int64_t x = begin; x < end; ++x) {
      const double w = weight(filter, (static_cast<double>(x) - center + 0.5) / stretch);
      exact[static_cast<std::size_t>(x - begin)] = w;
      sum += w;
    }
    for (std::int64_t x = begin; x < end; ++x) {
      const double w = exact[static_cast<std::size_t>(x - begin)] / (sum == 0 ? 1 : sum) * (1 << kPrecision);
      weights[static_cast<std::size_t>(i * pass.window + x - begin)] =
          static_cast<std::int32_t>(w < 0 ? w - 0.5 : w + 0.5);
    }
    first.push_back(static_cast<std::int32_t>(begin));
    count.push_back(static_cast<std::int32_t>(end - begin));
  }
  pass.first = device_.allocate_with(first);
  pass.count = device_.allocate_with(count);
  pass.weights = device_.allocate_with(weights);
  return pass;
}

void ImageResize::run(Commands& commands, const Pass& pass, bool vertical, const ImageShape& in, Buffer& from,
                      Buffer& to) const {
  const ImageShape out{vertical ? to_.height : in.height, vertical ? in.width : to_.width, in.channels};
  const ResizeParams p{to_u32(out.height), to_u32(out.width), to_u32(in.channels), to_u32(in.height),
                       to_u32(in.width),   pass.window,       vertical ? 1U : 0U};
  commands.dispatch_threads(device_.pipeline("vision_preprocess", "image_resize"), {p.width, p.height, 1}, {16, 8, 1},
                            Arguments()
                                .buffer(0, from)
                                .buffer(1, to)
                                .buffer(2, *pass.first)
                                .buffer(3, *pass.count)
                                .buffer(4, *pass.weights)
                                .bytes(5, p));
}

void ImageResize::encode(Commands& commands, Buffer& in, Buffer& out) const {
  const ImageShape across{from_.height, to_.width, from_.channels};
  const bool wide = horizontal_.first != nullptr;
  const bool high = vertical_.first != nullptr;
  if (wide) run(commands, horizontal_, false, from_, in, high ? *between_ : out);
  if (high) run(commands, vertical_, true, across, wide ? *between_ : in, out);
  if (!wide && !high) encode_image_place(device_, commands, from_, to_.height, to_.width, 0, 0, {}, in, out);
}

void encode_image_convert(Device& device, Commands& commands, const ImageShape& from, std::int64_t channels, bool swap,
                          const std::array<std::uint8_t, 3>& background, Buffer& in, Buffer& out) {
  check_image(from);
  if (from.channels == 2 || (channels != 1 && channels != 3)) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("vision_preprocess: {} channels to {}, expected 1, 3 or 4 to 1 or 3", from.channels, channels));
  }
  const ConvertParams p{to_u32(from.height * from.width), to_u32(from.channels), to_u32(channels), swap ? 1U : 0U,
                        packed(background)};
  commands.dispatch_threads(device.pipeline("vision_preprocess", "image_convert"), {p.pixels, 1, 1}, {128, 1, 1},
                            Arguments().buffer(0, in).buffer(1, out).bytes(2, p));
}

void encode_image_place(Device& device, Commands& commands, const ImageShape& from, std::int64_t height,
                        std::int64_t width, std::int64_t top, std::int64_t left,
                        const std::array<std::uint8_t, 3>& fill, Buffer& in, Buffer& out) {
  check_image(from);
  check_image({height, width, from.channels});
  const PlaceParams p{to_u32(height),
                      to_u32(width),
                      to_u32(from.channels),
                      to_u32(from.height),
                      to_u32(from.width),
                      static_cast<std::int32_t>(top),
                      static_cast<std::int32_t>(left),
                      packed(fill)};
  commands.dispatch_threads(device.pipeline("vision_preprocess", "image_place"), {p.width, p.height, 1}, {16, 8, 1},
                            Arguments().buffer(0, in).buffer(1, out).bytes(2, p));
}

void encode_image_patches(Device& device, Commands& commands, DType type, const ImageShape& from,
                          const PatchOptions& options, Buffer& in, Buffer& out) {
  check_image(from);
  const std::int64_t whole = options.patch * options.merge;
  if (options.patch < 1 || options.merge < 1 || options.temporal < 1 || from.channels > 3 || from.height % whole != 0 ||
      from.width % whole != 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("vision_preprocess: an image of {} x {} x {} cannot be cut into patches of {}, merged by {}",
                    from.height, from.width, from.channels, options.patch, options.merge));
  }
  PatchParams p{to_u32(from.height),
                to_u32(from.width),
                to_u32(from.channels),
                to_u32(options.patch),
                to_u32(options.merge),
                to_u32(options.temporal),
                options.scale,
                {},
                {}};
  for (std::size_t c = 0; c < 3; ++c) {
    p.mean[c] = options.mean.at(c);
    p.inverse[c] = 1.0F / options.deviation.at(c);
  }
  const std::uint32_t elements = p.channels * p.temporal * p.patch * p.patch;
  const std::uint32_t patches = p.height / p.patch * (p.width / p.patch);
  commands.dispatch_threads(device.pipeline("vision_preprocess", fmt::format("image_patches_{}", shader_type(type))),
                            {elements, patches, 1}, {64, 1, 1}, Arguments().buffer(0, in).buffer(1, out).bytes(2, p));
}

ImageShape qwen2vl_size(const ImageShape& image, std::int64_t factor, std::int64_t least, std::int64_t most) {
  check_image(image);
  const auto height = static_cast<double>(image.height);
  const auto width = static_cast<double>(image.width);
  if (std::max(height, width) / std::min(height, width) > 200) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("vision_preprocess: an image of {} x {}, expected sides of at most 200 to 1", image.height,
                            image.width));
  }
  const auto f = static_cast<double>(factor);
  // Halves to even, as the reference rounds.
  ImageShape out{std::max(factor, static_cast<std::int64_t>(std::nearbyint(height / f)) * factor),
                 std::max(factor, static_cast<std::int64_t>(std::nearbyint(width / f)) * factor), image.channels};
  const auto scaled = [&](double side, double beta, bool up) {
    const double n = up ? std::ceil(side * beta / f) : std::floor(side / beta / f);
    return std::max(factor, static_cast<std::int64_t>(n) * factor);
  };
  if (out.height * out.width > most) {
    const double beta = std::sqrt(height * width / static_cast<double>(most));
    out.height = scaled(height, beta, false);
    out.width = scaled(width, beta, false);
  } else if (out.height * out.width < least) {
    const double beta = std::sqrt(static_cast<double>(least) / (height * width));
    out.height = scaled(height, beta, true);
    out.width = scaled(width, beta, true);
  }
  return out;
}

}  // namespace metal_marlin::msl
