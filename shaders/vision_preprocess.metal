// Images prepared for vision models: resized as Pillow does it (a filter of half-pixel centres,
// stretched when it shrinks, in two passes of 8 bits), colours converted, cropped and padded,
// normalised, cut into patches. Images are u8 [height][width][channels].
#include <metal_stdlib>
#include "common/vision_params.h"

using namespace metal;

// Weights have 22 bits after the point, as Pillow's for 8-bit images. Grid: (width, height).
[[kernel]] void image_resize(device const uchar* in [[buffer(0)]], device uchar* out [[buffer(1)]],
                             device const int* first [[buffer(2)]], device const int* count [[buffer(3)]],
                             device const int* weights [[buffer(4)]], constant ResizeParams& p [[buffer(5)]],
                             uint2 at [[thread_position_in_grid]]) {
  const uint along = p.vertical != 0 ? at.y : at.x;
  const uint begin = uint(first[along]), number = uint(count[along]);
  for (uint c = 0; c < p.channels; ++c) {
    int sum = 1 << 21;
    for (uint i = 0; i < number; ++i) {
      const uint x = p.vertical != 0 ? at.x : begin + i, y = p.vertical != 0 ? begin + i : at.y;
      sum += int(in[(ulong(y) * p.in_width + x) * p.channels + c]) * weights[ulong(along) * p.window + i];
    }
    out[(ulong(at.y) * p.width + at.x) * p.channels + c] = uchar(clamp(sum >> 22, 0, 255));
  }
}

// Grey is Pillow's (ITU-R 601-2 in 16 bits). Grid: (pixels).
[[kernel]] void image_convert(device const uchar* in [[buffer(0)]], device uchar* out [[buffer(1)]],
                              constant ConvertParams& p [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  device const uchar* const from = in + ulong(i) * p.in_channels;
  uint rgb[3];
  for (uint c = 0; c < 3; ++c) {
    rgb[c] = from[p.in_channels == 1 ? 0 : c];
    if (p.in_channels == 4) {
      const uint back = p.background >> 8 * c & 255u, alpha = from[3];
      rgb[c] = (rgb[c] * alpha + back * (255u - alpha) + 127u) / 255u;
    }
  }
  device uchar* const to = out + ulong(i) * p.out_channels;
  if (p.out_channels == 1) {
    to[0] = uchar(p.in_channels == 1 ? rgb[0] : (rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
  } else {
    for (uint c = 0; c < 3; ++c) to[c] = uchar(rgb[p.swap != 0 ? 2 - c : c]);
  }
}

// Crops, pads, or both. Grid: (width, height).
[[kernel]] void image_place(device const uchar* in [[buffer(0)]], device uchar* out [[buffer(1)]],
                            constant PlaceParams& p [[buffer(2)]], uint2 at [[thread_position_in_grid]]) {
  const int x = int(at.x) - p.left, y = int(at.y) - p.top;
  const bool inside = x >= 0 && y >= 0 && x < int(p.in_width) && y < int(p.in_height);
  for (uint c = 0; c < p.channels; ++c)
    out[(ulong(at.y) * p.width + at.x) * p.channels + c] =
        inside ? in[(ulong(y) * p.in_width + uint(x)) * p.channels + c] : uchar(p.fill >> 8 * c & 255u);
}

// out [patches][channel][temporal][patch][patch], (scale v - mean) / deviation: with merge 1 and
// temporal 1 the rows of CLIP's convolution, with 2 and 2 Qwen2-VL's order. Grid: (elements of
// a patch, patches).
template <typename T>
[[kernel]] void image_patches(device const uchar* in [[buffer(0)]], device T* out [[buffer(1)]],
                              constant PatchParams& p [[buffer(2)]], uint2 at [[thread_position_in_grid]]) {
  const uint area = p.patch * p.patch, elements = p.channels * p.temporal * area;
  const uint across = p.width / p.patch, patches = across * (p.height / p.patch);
  const uint channel = at.x / (p.temporal * area), y = at.x % area / p.patch, x = at.x % p.patch;
  const uint block = at.y / (p.merge * p.merge), in_block = at.y % (p.merge * p.merge), blocks = across / p.merge;
  const uint row = (block / blocks * p.merge + in_block / p.merge) * p.patch + y;
  const uint column = (block % blocks * p.merge + in_block % p.merge) * p.patch + x;
  const float v = float(in[(ulong(row) * p.width + column) * p.channels + channel]) * p.scale;
  out[ulong(at.y) * elements + at.x] = T((v - p.mean[channel]) * p.inverse[channel]);
}
#define MM_PATCHES(T)                                                                            \
  template [[host_name("image_patches_" #T)]] [[kernel]] void image_patches<T>(device const uchar*, device T*, \
                                                                               constant PatchParams&, uint2);
MM_PATCHES(float)
MM_PATCHES(half)
MM_PATCHES(bfloat)
