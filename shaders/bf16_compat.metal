// bfloat16 without the type, for devices and languages that lack it: bits in ushort,
// rounded to nearest even or at random.
#include <metal_stdlib>

using namespace metal;

// To nearest even; a NaN stays one, quiet, its sign and upper payload kept.
METAL_FUNC ushort bf16_bits(float v) {
  const uint bits = as_type<uint>(v);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return ushort(bits >> 16 | 0x40u);
  return ushort((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
// Up with the probability of what is cut off: right on average. Infinities and NaN as above.
METAL_FUNC ushort bf16_bits_at_random(float v, uint random) {
  const uint bits = as_type<uint>(v);
  if ((bits & 0x7F800000u) == 0x7F800000u) return bf16_bits(v);
  return ushort((bits + (random & 0xFFFFu)) >> 16);
}
METAL_FUNC float bf16_value(ushort bits) {
  return as_type<float>(uint(bits) << 16);
}
// PCG's output permutation (O'Neill 2014) of a counter: the same numbers for the same seed.
METAL_FUNC uint random_word(uint seed, uint index) {
  const uint state = (index ^ seed * 2654435769u) * 747796405u + 2891336453u;
  const uint word = ((state >> ((state >> 28) + 4u)) ^ state) * 277803737u;
  return word >> 22 ^ word;
}

[[kernel]] void bf16_from_float(device const float* in [[buffer(0)]], device ushort* out [[buffer(1)]],
                                uint at [[thread_position_in_grid]]) {
  out[at] = bf16_bits(in[at]);
}
[[kernel]] void bf16_from_float_at_random(device const float* in [[buffer(0)]], device ushort* out [[buffer(1)]],
                                          constant uint& seed [[buffer(2)]], uint at [[thread_position_in_grid]]) {
  out[at] = bf16_bits_at_random(in[at], random_word(seed, at));
}
[[kernel]] void float_from_bf16(device const ushort* in [[buffer(0)]], device float* out [[buffer(1)]],
                                uint at [[thread_position_in_grid]]) {
  out[at] = bf16_value(in[at]);
}
[[kernel]] void bf16_from_half(device const half* in [[buffer(0)]], device ushort* out [[buffer(1)]],
                               uint at [[thread_position_in_grid]]) {
  out[at] = bf16_bits(float(in[at]));
}
[[kernel]] void half_from_bf16(device const ushort* in [[buffer(0)]], device half* out [[buffer(1)]],
                               uint at [[thread_position_in_grid]]) {
  out[at] = half(bf16_value(in[at]));
}
