// Functions of doubles: the system's.
#pragma once
#include "base.h"

#define LIBM1(name)                       \
  double name(double);                    \
  INLINE double double_##name(double x) { \
    return name(x);                       \
  }
#define LIBM2(name)                                 \
  double name(double, double);                      \
  INLINE double double_##name(double x, double y) { \
    return name(x, y);                              \
  }
LIBM1(exp)
LIBM1(exp2)
LIBM1(exp10)
LIBM1(log)
LIBM1(log2)
LIBM1(log10)
LIBM1(sin)
LIBM1(cos)
LIBM1(tan)
LIBM1(asin)
LIBM1(acos)
LIBM1(atan)
LIBM1(sinh)
LIBM1(cosh)
LIBM1(tanh)
LIBM1(asinh)
LIBM1(acosh)
LIBM1(atanh)
LIBM2(pow)
LIBM2(atan2)
LIBM2(fmod)
#undef LIBM1
#undef LIBM2
