// Conversions that clang calls for bfloat and that the host's compiler library may
// lack. Compiled by the shaders' clang, which knows the type.
extern "C" __bf16 __truncsfbf2(float x) {
  unsigned bits = __builtin_bit_cast(unsigned, x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    bits = bits >> 16 | 0x40u;  // quiet
  } else {
    bits = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;  // to nearest, ties to even
  }
  return __builtin_bit_cast(__bf16, static_cast<unsigned short>(bits));
}

// By way of float rounded to odd, so that the second rounding is the only one.
extern "C" __bf16 __truncdfbf2(double x) {
  float f = static_cast<float>(x);
  if (x == x && static_cast<double>(f) != x) {
    unsigned bits = __builtin_bit_cast(unsigned, f);
    const bool away = __builtin_fabs(static_cast<double>(f)) > __builtin_fabs(x);
    if (away) --bits;
    f = __builtin_bit_cast(float, bits | 1u);
  }
  return __truncsfbf2(f);
}
