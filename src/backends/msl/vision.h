// Images prepared for vision models on a device (shaders/vision_preprocess.metal).
#pragma once

#include <array>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// u8 [height][width][channels].
struct ImageShape {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::int64_t channels = 3;
};

// Pillow's filters: half-pixel centres, stretched when an image shrinks.
enum class ImageFilter : std::uint8_t { kArea, kBilinear, kBicubic, kLanczos };

class ImageResize {
 public:
  // \throws Error (kInvalidArgument) naming a size that is not positive.
  ImageResize(Device& device, ImageFilter filter, const ImageShape& from, std::int64_t height, std::int64_t width);
  void encode(Commands& commands, Buffer& in, Buffer& out) const;

 private:
  struct Pass {
    std::uint32_t window = 0;
    std::unique_ptr<Buffer> first;
    std::unique_ptr<Buffer> count;
    std::unique_ptr<Buffer> weights;
  };
  [[nodiscard]] Pass make_pass(ImageFilter filter, std::int64_t in, std::int64_t out) const;
  void run(Commands& commands, const Pass& pass, bool vertical, const ImageShape& in, Buffer& from, Buffer& to) const;

  Device& device_;
  ImageShape from_;
  ImageShape to_;
  Pass horizontal_;
  Pass vertical_;
  std::unique_ptr<Buffer> between_;
};

// 1, 3 or 4 channels to 1 (grey) or 3; alpha shows `background` (R, G, B) behind it.
void encode_image_convert(Device& device, Commands& commands, const ImageShape& from, std::int64_t channels, bool swap,
                          const std::array<std::uint8_t, 3>& background, Buffer& in, Buffer& out);
// The input at (top, left) of a result of this size: cropped where those are negative, padded elsewhere.
void encode_image_place(Device& device, Commands& commands, const ImageShape& from, std::int64_t height,
                        std::int64_t width, std::int64_t top, std::int64_t left,
                        const std::array<std::uint8_t, 3>& fill, Buffer& in, Buffer& out);

struct PatchOptions {
  std::int64_t patch = 14;
  std::int64_t merge = 1;     // 2 for Qwen2-VL: patches that a model merges lie together
  std::int64_t temporal = 1;  // 2 for Qwen2-VL: a still image among frames
  float scale = 1.0F / 255.0F;
  std::array<float, 3> mean{};
  std::array<float, 3> deviation{1, 1, 1};
};
// out [patches][channels * temporal * patch * patch] of `type`, each (scale v - mean) / deviation.
// \throws Error (kInvalidArgument) when the image is not of whole merged patches.
void encode_image_patches(Device& device, Commands& commands, DType type, const ImageShape& from,
                          const PatchOptions& options, Buffer& in, Buffer& out);

// The size to which Qwen2-VL resizes an image: multiples of `factor` that keep its proportions
// and have between `least` and `most` pixels. \throws Error (kInvalidArgument) beyond 200 to 1.
ImageShape qwen2vl_size(const ImageShape& image, std::int64_t factor, std::int64_t least, std::int64_t most);

}  // namespace metal_marlin::msl
