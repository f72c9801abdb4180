// Images on every executor: resized and turned grey bit by bit as Pillow does it
// (tools/make_vision_vectors.py), the rest against its definition.
#include "backends/msl/vision.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class Vision : public OnExecutor {
 protected:
  // What `encode(commands, in, out)` makes of the image: `size` bytes.
  template <typename Encode>
  std::vector<std::uint8_t> result(const std::vector<std::uint8_t>& pixels, std::size_t size, const Encode& encode) {
    const auto in = device->allocate_with(pixels);
    const auto out = device->allocate(size);
    run([&](Commands& commands) { encode(commands, *in, *out); });
    std::vector<std::uint8_t> bytes(size);
    out->download(std::as_writable_bytes(std::span(bytes)));
    return bytes;
  }
  const SafetensorsFile file{test_data("vision.safetensors")};
  const std::vector<std::uint8_t> image = read_tensor<std::uint8_t>(file, "image");
  const ImageShape shape{37, 53, 3};
};
INSTANTIATE_TEST_SUITE_P(Executor, Vision, testing::ValuesIn(executors()), executor_name);

TEST_P(Vision, ResizesAsPillowDoes) {
  const std::vector<std::pair<std::string, ImageFilter>> filters = {{"bilinear", ImageFilter::kBilinear},
                                                                    {"bicubic", ImageFilter::kBicubic},
                                                                    {"area", ImageFilter::kArea},
                                                                    {"lanczos", ImageFilter::kLanczos}};
  for (const auto& [name, filter] : filters) {
    for (const auto& [height, width] : {std::pair{37, 53}, std::pair{56, 84}, std::pair{14, 28}, std::pair{7, 100},
                                        std::pair{74, 5}, std::pair{1, 1}}) {
      const auto expected =
          read_tensor<std::uint8_t>(file, name + "/" + std::to_string(height) + "x" + std::to_string(width));
      const ImageResize resize(*device, filter, shape, height, width);
      EXPECT_EQ(result(image, expected.size(),
                       [&](Commands& commands, Buffer& in, Buffer& out) { resize.encode(commands, in, out); }),
                expected)
          << name << " " << height << " x " << width;
    }
  }
}

TEST_P(Vision, ConvertsColours) {
  const std::size_t pixels = 37 * 53;
  EXPECT_EQ(result(image, pixels,
                   [&](Commands& commands, Buffer& in, Buffer& out) {
                     encode_image_convert(*device, commands, shape, 1, false, {}, in, out);
                   }),
            read_tensor<std::uint8_t>(file, "grey"));
  std::vector<std::uint8_t> swapped = image;
  for (std::size_t i = 0; i < pixels; ++i) std::swap(swapped[3 * i], swapped[3 * i + 2]);
  EXPECT_EQ(result(image, image.size(),
                   [&](Commands& commands, Buffer& in, Buffer& out) {
                     encode_image_convert(*device, commands, shape, 3, true, {}, in, out);
                   }),
            swapped);
  const auto with_alpha = read_tensor<std::uint8_t>(file, "image4");
  const std::array<std::uint8_t, 3> background{255, 128, 3};
  const auto found = result(with_alpha, 63 * 3, [&](Commands& commands, Buffer& in, Buffer& out) {
    encode_image_convert(*device, commands, {9, 7, 4}, 3, false, background, in, out);
  });
  for (std::size_t i = 0; i < 63; ++i) {
    const double alpha = with_alpha[4 * i + 3] / 255.0;
    for (std::size_t c = 0; c < 3; ++c)
      EXPECT_NEAR(found[3 * i + c], with_alpha[4 * i + c] * alpha + background.at(c) * (1 - alpha), 0.51);
  }
}

TEST_P(Vision, CropsAndPads) {
  const std::array<std::uint8_t, 3> fill{9, 8, 7};
  for (const auto& [height, width, top, left] :
       {std::tuple{20, 30, -5, -7}, std::tuple{60, 60, 11, 3}, std::tuple{10, 80, -30, 20}}) {
    const auto found =
        result(image, static_cast<std::size_t>(height * width * 3), [&](Commands& commands, Buffer& in, Buffer& out) {
          encode_image_place(*device, commands, shape, height, width, top, left, fill, in, out);
        });
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const int from_y = y - top;
        const int from_x = x - left;
        const bool inside = from_y >= 0 && from_y < 37 && from_x >= 0 && from_x < 53;
        for (int c = 0; c < 3; ++c) {
          const int expected = inside ? image[static_cast<std::size_t>((from_y * 53 + from_x) * 3 + c)]
                                      : fill.at(static_cast<std::size_t>(c));
          ASSERT_EQ(found[static_cast<std::size_t>((y * width + x) * 3 + c)], expected) << y << " " << x << " " << c;
        }
      }
    }
  }
}

TEST_P(Vision, PatchesOfClipAndOfQwen2Vl) {
  const ImageShape square{56, 84, 3};
  const auto pixels = read_tensor<std::uint8_t>(file, "bilinear/56x84");
  PatchOptions options;
  options.mean = {0.48145466F, 0.4578275F, 0.40821073F};
  options.deviation = {0.26862954F, 0.26130258F, 0.27577711F};
  for (const bool qwen : {false, true}) {
    options.merge = options.temporal = qwen ? 2 : 1;
    for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
      const std::size_t elements = static_cast<std::size_t>(3 * options.temporal * 14 * 14);
      const auto in = device->allocate_with(pixels);
      const auto out = device->allocate(24 * elements * (type == DType::kF32 ? 4 : 2));
      run([&](Commands& commands) { encode_image_patches(*device, commands, type, square, options, *in, *out); });
      const TypedData found(type, *out);
      // Qwen2-VL: [rows / 2][columns / 2][2][2] of patches; CLIP: row by row.
      std::size_t patch = 0;
      for (int block_row = 0; block_row < (qwen ? 2 : 4); ++block_row) {
        for (int block_column = 0; block_column < (qwen ? 3 : 6); ++block_column) {
          for (int in_block = 0; in_block < (qwen ? 4 : 1); ++in_block, ++patch) {
            const int row = qwen ? 2 * block_row + in_block / 2 : block_row;
            const int column = qwen ? 2 * block_column + in_block % 2 : block_column;
            std::size_t e = 0;
            for (std::size_t c = 0; c < 3; ++c) {
              for (int frame = 0; frame < options.temporal; ++frame) {
                for (int y = 0; y < 14; ++y) {
                  for (int x = 0; x < 14; ++x, ++e) {
                    const double v = pixels[static_cast<std::size_t>((row * 14 + y) * 84 + column * 14 + x) * 3 + c];
                    const double expected = (v / 255 - options.mean.at(c)) / options.deviation.at(c);
                    ASSERT_NEAR(found.values[patch * elements + e], expected, 4e-6 + std::fabs(expected) * found.unit())
                        << "patch " << patch << " element " << e;
                  }
                }
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(Vision, RefusesWhatItCannotDo) {
  const auto buffer = device->allocate(64);
  const auto commands = device->commands();
  expect_error(ErrorCode::kInvalidArgument, "an image of 0 x 5 x 3", [&] {
    ImageResize(*device, ImageFilter::kArea, {3, 5, 3}, 0, 5);
  });
  expect_error(ErrorCode::kInvalidArgument, "37 x 53 x 3 cannot be cut into patches of 14, merged by 1",
               [&] { encode_image_patches(*device, *commands, DType::kF32, shape, {}, *buffer, *buffer); });
  expect_error(ErrorCode::kInvalidArgument, "2 channels to 3", [&] {
    encode_image_convert(*device, *commands, {3, 5, 2}, 3, false, {}, *buffer, *buffer);
  });
}

// As the reference's formula has it; 1.5 and 2.5 factors are rounded to even.
TEST(VisionSize, OfQwen2Vl) {
  const auto size = [](std::int64_t height, std::int64_t width) {
    const ImageShape s = qwen2vl_size({height, width, 3}, 28, 3136, 1003520);
    return std::pair{s.height, s.width};
  };
  EXPECT_EQ(size(640, 480), (std::pair<std::int64_t, std::int64_t>{644, 476}));
  EXPECT_EQ(size(2000, 3000), (std::pair<std::int64_t, std::int64_t>{812, 1204}));
  EXPECT_EQ(size(20, 20), (std::pair<std::int64_t, std::int64_t>{56, 56}));
  EXPECT_EQ(size(42, 70), (std::pair<std::int64_t, std::int64_t>{56, 56}));
  expect_error(ErrorCode::kInvalidArgument, "200 to 1", [&] { size(3, 700); });
}

}  // namespace
}  // namespace metal_marlin::msl
