// Kernels' entry points and the tables that describe them. Included after the
// shader's text; the generated lines that follow use what is here.
#pragma once
#undef device
#undef constant
#undef threadgroup
#undef thread
#undef kernel

namespace msl {

template <typename T>
struct Pointee {
  static constexpr bool kPointer = false;
  using type = T;
};
template <typename T>
struct Pointee<T*> {
  static constexpr bool kPointer = true;
  using type = T;
};
template <typename T>
struct Pointee<T&> {
  static constexpr bool kPointer = false;
  using type = T;
};
template <typename T>
struct IsReference {
  static constexpr bool value = false;
};
template <typename T>
struct IsReference<T&> {
  static constexpr bool value = true;
};
template <typename T>
struct IsConst {
  static constexpr bool value = false;
};
template <typename T>
struct IsConst<const T> {
  static constexpr bool value = true;
};

// Of what an argument points to; a pointer to void may point to any byte.
template <typename T, bool kVoid = __is_void(T)>
struct Layout {
  static constexpr uint32_t size = sizeof(T), alignment = alignof(T);
};
template <typename T>
struct Layout<T, true> {
  static constexpr uint32_t size = 1, alignment = 1;
};

template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  using type = Indices<I...>;
};

template <int N, typename F>
struct ParameterOf;
template <typename A, typename... As>
struct ParameterOf<0, void (*)(A, As...)> {
  using type = A;
};
template <int N, typename A, typename... As>
struct ParameterOf<N, void (*)(A, As...)> : ParameterOf<N - 1, void (*)(As...)> {};
template <typename F, int N>
using Parameter = typename ParameterOf<N, F>::type;

#ifndef MSL_TARGET_PTX

template <typename A>
constexpr MslArgument describe(const char* name, const char* type, uint8_t kind, uint32_t index, bool constant_space,
                               bool optional) {
  using T = typename Pointee<A>::type;
  return {name,
          type,
          kind,
          static_cast<uint8_t>(constant_space || IsConst<T>::value),
          static_cast<uint8_t>(kind == kMslBuffer && constant_space && IsReference<A>::value),
          static_cast<uint8_t>(optional),
          index,
          Layout<T>::size,
          Layout<T>::alignment};
}

template <typename A>
struct Get {
  static inline A from(const MslThread* t, uint32_t, uint32_t index) {
    A out;
    if constexpr (metal::msl_count<A> == 1) {
      out = static_cast<A>(t->builtins[index][0]);
    } else {
      for (int i = 0; i < metal::msl_count<A>; ++i)
        out[i] = static_cast<metal::msl_element_t<A>>(t->builtins[index][i]);
    }
    return out;
  }
};
template <typename T>
struct Get<T*> {
  static inline T* from(const MslThread* t, uint32_t kind, uint32_t index) {
    return (T*)(kind == kMslThreadgroup ? t->threadgroups : t->buffers)[index];
  }
};
template <typename T>
struct Get<T&> {
  static inline T& from(const MslThread* t, uint32_t kind, uint32_t index) { return *Get<T*>::from(t, kind, index); }
};

template <const MslArgument* kArguments, typename... As, int... I>
inline void call(void (*f)(As...), const MslThread* t, Indices<I...>) {
  f(Get<As>::from(t, kArguments[I].kind, kArguments[I].index)...);
}
template <const MslArgument* kArguments, typename... As>
inline void call(void (*f)(As...), const MslThread* t) {
  call<kArguments>(f, t, typename MakeIndices<static_cast<int>(sizeof...(As))>::type{});
}

#else

// The grid, for threadgroups that reach over its end.
struct Grid {
  uint32_t threads[3];
};
#define MSL_SREG(name, reg)                  \
  static inline uint32_t name() {            \
    uint32_t v;                              \
    asm("mov.u32 %0, %%" reg ";" : "=r"(v)); \
    return v;                                \
  }
MSL_SREG(tid_x, "tid.x")
MSL_SREG(tid_y, "tid.y")
MSL_SREG(tid_z, "tid.z")
MSL_SREG(ntid_x, "ntid.x")
MSL_SREG(ntid_y, "ntid.y") MSL_SREG(ntid_z, "ntid.z") MSL_SREG(ctaid_x, "ctaid.x") MSL_SREG(ctaid_y, "ctaid.y")
    MSL_SREG(ctaid_z, "ctaid.z") MSL_SREG(nctaid_x, "nctaid.x") MSL_SREG(nctaid_y, "nctaid.y")
        MSL_SREG(nctaid_z, "nctaid.z")
#undef MSL_SREG
            static inline uint32_t least(uint32_t a, uint32_t b) {
  return a < b ? a : b;
}
static inline void builtin(uint32_t which, const Grid& grid, uint32_t out[3]) {
  const uint32_t t[3] = {tid_x(), tid_y(), tid_z()}, n[3] = {ntid_x(), ntid_y(), ntid_z()};
  const uint32_t c[3] = {ctaid_x(), ctaid_y(), ctaid_z()}, nc[3] = {nctaid_x(), nctaid_y(), nctaid_z()};
  uint32_t size[3];  // of this threadgroup
  for (int i = 0; i < 3; ++i) size[i] = least(n[i], grid.threads[i] - c[i] * n[i]);
  const uint32_t index = t[0] + size[0] * (t[1] + size[1] * t[2]);
  const uint32_t threads = size[0] * size[1] * size[2];
  out[1] = out[2] = 0;
  switch (which) {
    case kMslThreadPositionInGrid:
      for (int i = 0; i < 3; ++i) out[i] = c[i] * n[i] + t[i];
      break;
    case kMslThreadPositionInThreadgroup:
      for (int i = 0; i < 3; ++i) out[i] = t[i];
      break;
    case kMslThreadgroupPositionInGrid:
      for (int i = 0; i < 3; ++i) out[i] = c[i];
      break;
    case kMslThreadsPerThreadgroup:
      for (int i = 0; i < 3; ++i) out[i] = size[i];
      break;
    case kMslThreadsPerGrid:
      for (int i = 0; i < 3; ++i) out[i] = grid.threads[i];
      break;
    case kMslThreadgroupsPerGrid:
      for (int i = 0; i < 3; ++i) out[i] = nc[i];
      break;
    case kMslDispatchThreadsPerThreadgroup:
      for (int i = 0; i < 3; ++i) out[i] = n[i];
      break;
    case kMslGridOrigin: out[0] = 0; break;
    case kMslThreadIndexInThreadgroup: out[0] = index; break;
    case kMslThreadIndexInSimdgroup: out[0] = index % 32; break;
    case kMslSimdgroupIndexInThreadgroup: out[0] = index / 32; break;
    case kMslSimdgroupsPerThreadgroup: out[0] = (threads + 31) / 32; break;
    case kMslThreadIndexInQuadgroup: out[0] = index % 4; break;
    case kMslQuadgroupIndexInThreadgroup: out[0] = index / 4; break;
    case kMslQuadgroupsPerThreadgroup: out[0] = (threads + 3) / 4; break;
    default: out[0] = 32;
  }
}
template <typename A>
static inline A get_builtin(uint32_t which, const Grid& grid) {
  uint32_t v[3];
  builtin(which, grid, v);
  A out;
  if constexpr (metal::msl_count<A> == 1) {
    out = static_cast<A>(v[0]);
  } else {
    for (int i = 0; i < metal::msl_count<A>; ++i) out[i] = static_cast<metal::msl_element_t<A>>(v[i]);
  }
  return out;
}
static inline bool outside(const Grid& grid) {
  return ctaid_x() * ntid_x() + tid_x() >= grid.threads[0] || ctaid_y() * ntid_y() + tid_y() >= grid.threads[1] ||
         ctaid_z() * ntid_z() + tid_z() >= grid.threads[2];
}
template <typename T>
struct Plain {
  using type = T;
};
template <typename T>
struct Plain<const T> {
  using type = T;
};
template <typename T>
struct Plain<T&> : Plain<T> {};
// A `constant` reference's bytes, as a parameter of the launch.
template <typename A>
using Bytes = typename Plain<A>::type;
extern "C" __attribute__((opencl_local)) unsigned char msl_dynamic_threadgroup[];

#endif

}  // namespace msl
