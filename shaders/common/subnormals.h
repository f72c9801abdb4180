// Subnormal halves, 2^-24 to 2^-14, on matrix units that take them for zeros: where the kernel tile_map finds
// that, the function constant flush_subnormals is set, and codecs hand over other numbers. None of this is
// arithmetic on subnormal numbers.
#pragma once
#include <metal_stdlib>

using namespace metal;

#ifdef __METAL_MARLIN_PTX__
METAL_FUNC bool subnormals_are_flushed() {
  return false;
}
#else
constant bool flush_subnormals [[function_constant(1)]];
METAL_FUNC bool subnormals_are_flushed() {
  return flush_subnormals;
}
#endif

// v times 2^kUp, which has an exponent of its own.
template <int kUp>
METAL_FUNC half raised(half v) {
  const uint bits = as_type<ushort>(v), magnitude = bits & 0x7FFFu;
  // A subnormal number counts from the least exponent, as numbers of exponent 1 do.
  const uint up = uint(magnitude < 0x400u ? kUp + 1 : kUp) << 10;
  const half sum = as_type<half>(ushort(magnitude + up));
  const half number = magnitude < 0x400u ? sum - as_type<half>(ushort(up)) : sum;
  return as_type<half>(ushort(as_type<ushort>(number) | (bits & 0x8000u)));
}
// v times 2^24 where it is subnormal, else zero.
METAL_FUNC half only_subnormal(half v) {
  const uint bits = as_type<ushort>(v), magnitude = bits & 0x7FFFu;
  const half number = magnitude < 0x400u ? half(magnitude) : 0.0h;
  return (bits & 0x8000u) != 0 ? -number : number;
}
