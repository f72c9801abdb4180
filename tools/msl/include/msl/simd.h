// Barriers, simdgroup (32 lanes) and quadgroup operations. A lane that is not
// active at the call takes no part; what it would have given is undefined.
#pragma once

namespace metal {

#ifdef MSL_TARGET_PTX

MSL_FN uint msl_lane() {
  uint l;
  asm("mov.u32 %0, %%laneid;" : "=r"(l));
  return l;
}
MSL_FN MSL_SYNC uint msl_active() {
  uint m;
  asm volatile("activemask.b32 %0;" : "=r"(m));
  return m;
}
MSL_FN MSL_SYNC void threadgroup_barrier(mem_flags) {
  __nvvm_bar_sync(0);
}
MSL_FN MSL_SYNC void simdgroup_barrier(mem_flags) {
  __nvvm_bar_warp_sync(0xFFFFFFFFu);  // all must call it; lanes that have returned do not count
}
MSL_FN MSL_SYNC uint msl_shuffle_word(uint mask, uint v, uint lane) {
  return static_cast<uint>(__nvvm_shfl_sync_idx_i32(mask, static_cast<int>(v), static_cast<int>(lane), 31));
}
// What each lane gave, fetched lane by lane.
template <typename T>
struct msl_exchanged {
  T mine;
  uint active;
  MSL_FN T fetch(T v, uint mask, uint lane) {
    constexpr int words = (sizeof(T) + 3) / 4;
    uint w[words] = {};
    __builtin_memcpy(w, &v, sizeof(T));
    for (int i = 0; i < words; ++i) w[i] = msl_shuffle_word(mask, w[i], lane);
    T out;
    __builtin_memcpy(&out, w, sizeof(T));
    return out;
  }
  MSL_INLINE MSL_SYNC T from(uint lane) const { return fetch(mine, active, lane); }
};
template <typename T>
MSL_FN MSL_SYNC msl_exchanged<T> msl_exchange_value(T v) {
  return {v, msl_active()};
}

#else

extern "C" {
MSL_SYNC void msl_threadgroup_barrier(uint32_t flags);
MSL_SYNC void msl_simdgroup_barrier(uint32_t flags);
// Meets the other active lanes; returns what each gave, 64 bytes a lane.
MSL_SYNC const unsigned char* msl_exchange(const void* mine, uint32_t size, uint32_t* active);
__attribute__((const)) uint32_t msl_current_lane();
}
MSL_FN uint msl_lane() {
  return msl_current_lane();
}
MSL_FN MSL_SYNC void threadgroup_barrier(mem_flags flags) {
  msl_threadgroup_barrier(static_cast<uint32_t>(flags));
}
MSL_FN MSL_SYNC void simdgroup_barrier(mem_flags flags) {
  msl_simdgroup_barrier(static_cast<uint32_t>(flags));
}
template <typename T>
struct msl_exchanged {
  const unsigned char* all;
  uint active;
  MSL_INLINE T from(uint lane) const {
    T out;
    __builtin_memcpy(&out, all + 64 * (lane & 31), sizeof(T));
    return out;
  }
};
template <typename T>
MSL_FN MSL_SYNC msl_exchanged<T> msl_exchange_value(T v) {
  static_assert(sizeof(T) <= 64, "simd operations take values of at most 64 bytes");
  msl_exchanged<T> out;
  out.all = msl_exchange(&v, sizeof(T), &out.active);
  return out;
}

#endif

template <typename T>
MSL_FN MSL_SYNC T simd_shuffle(T v, ushort lane) {
  return msl_exchange_value(v).from(lane);
}
template <typename T>
MSL_FN MSL_SYNC T simd_broadcast(T v, ushort lane) {
  return msl_exchange_value(v).from(lane);
}
template <typename T>
MSL_FN MSL_SYNC T simd_broadcast_first(T v) {
  const auto all = msl_exchange_value(v);
  return all.from(static_cast<uint>(__builtin_ctz(all.active)));
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_xor(T v, ushort mask) {
  return msl_exchange_value(v).from(msl_lane() ^ mask);
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_down(T v, ushort delta) {
  const auto all = msl_exchange_value(v);
  const uint lane = msl_lane() + delta;
  const T other = all.from(lane & 31);
  return lane < 32 ? other : v;
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_up(T v, ushort delta) {
  const auto all = msl_exchange_value(v);
  const uint lane = msl_lane();
  const T other = all.from((lane - delta) & 31);
  return lane >= delta ? other : v;
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_rotate_down(T v, ushort delta) {
  return msl_exchange_value(v).from((msl_lane() + delta) & 31);
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_rotate_up(T v, ushort delta) {
  return msl_exchange_value(v).from((msl_lane() - delta) & 31);
}
// `modulo` lanes, a power of two, form a group; what would come from another group
// comes from the filling data, counted from the group's other end.
template <typename T>
MSL_FN MSL_SYNC T msl_shuffle_and_fill(T v, T fill, uint delta, uint modulo) {
  const auto all = msl_exchange_value(v);
  const auto filler = msl_exchange_value(fill);
  const uint lane = msl_lane(), place = (lane & (modulo - 1)) + delta;
  const uint from = (lane & ~(modulo - 1)) | (place & (modulo - 1));
  const T a = all.from(from);
  const T b = filler.from(from);
  return place < modulo ? a : b;
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_and_fill_down(T v, T fill, ushort delta, ushort modulo = 32) {
  return msl_shuffle_and_fill(v, fill, delta, modulo);
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_and_fill_up(T v, T fill, ushort delta, ushort modulo = 32) {
  return msl_shuffle_and_fill(v, fill, 0u - delta, modulo);
}
template <typename T>
MSL_FN MSL_SYNC T quad_shuffle(T v, ushort lane) {
  return msl_exchange_value(v).from((msl_lane() & 28) | (lane & 3));
}
template <typename T>
MSL_FN MSL_SYNC T quad_broadcast(T v, ushort lane) {
  return quad_shuffle(v, lane);
}
template <typename T>
MSL_FN MSL_SYNC T quad_shuffle_xor(T v, ushort mask) {
  return msl_exchange_value(v).from(msl_lane() ^ (mask & 3));
}

// Combines the active ones among kCount lanes' values: neighbours, then pairs of neighbours, and so on. No order is
// promised by Metal; this one is that of a full simdgroup's exchange below.
#if defined(MSL_TARGET_PTX) || defined(MSL_PLAIN_SPACES)
// By halves, without an array, which would lie in memory (and be taken for the kernel's own by private_arrays.py).
template <uint kCount, typename T, typename F>
MSL_FN MSL_SYNC T msl_combine(const msl_exchanged<T>& all, uint begin, F f) {
  if constexpr (kCount == 1) {
    return all.from(begin);
  } else {
    const T left = msl_combine<kCount / 2>(all, begin, f), right = msl_combine<kCount / 2>(all, begin + kCount / 2, f);
    const uint half_of_lanes = (1u << kCount / 2) - 1, there = all.active >> begin;
    if ((there >> kCount / 2 & half_of_lanes) == 0) return left;
    return (there & half_of_lanes) == 0 ? right : f(left, right);
  }
}
#else
template <uint kCount, typename T, typename F>
MSL_FN MSL_SYNC T msl_combine(const msl_exchanged<T>& all, uint begin, F f) {
  T values[kCount];
  uint there = all.active >> begin;
  for (uint i = 0; i < kCount; ++i) values[i] = all.from(begin + i);
  if ((there | ~0u << (kCount - 1) << 1) == ~0u) {
    for (uint step = 1; step < kCount; step *= 2) {
      for (uint i = 0; i < kCount; i += 2 * step) values[i] = f(values[i], values[i + step]);
    }
    return values[0];
  }
  for (uint step = 1; step < kCount; step *= 2) {
    for (uint i = 0; i < kCount; i += 2 * step) {
      const bool left = (there >> i & 1) != 0, right = (there >> (i + step) & 1) != 0;
      if (right) values[i] = left ? f(values[i], values[i + step]) : values[i + step];
      if (right) there |= 1u << i;
    }
  }
  return values[0];
}
#endif
template <typename T, typename F>
MSL_FN MSL_SYNC T msl_reduce(T v, F f) {
  const auto all = msl_exchange_value(v);
#ifdef MSL_TARGET_PTX
  if (all.active == 0xFFFFFFFFu) {
    for (uint step = 1; step < 32; step *= 2) v = f(v, msl_exchanged<T>::fetch(v, 0xFFFFFFFFu, msl_lane() ^ step));
    return v;
  }
#endif
  return msl_combine<32>(all, 0, f);
}
// Functors, since a lambda in a header would be another type in every shader.
struct msl_add {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a + b);
  }
};
struct msl_mul {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a * b);
  }
};
struct msl_max {
  template <typename T>
  T operator()(T a, T b) const {
    return metal::max(a, b);
  }
};
struct msl_min {
  template <typename T>
  T operator()(T a, T b) const {
    return metal::min(a, b);
  }
};
struct msl_or {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a | b);
  }
};
struct msl_and {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a & b);
  }
};
struct msl_xor {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(a ^ b);
  }
};
#define MSL_REDUCTION(name, f)                                      \
  template <typename T>                                             \
  MSL_FN MSL_SYNC T simd_##name(T v) {                              \
    return msl_reduce(v, f());                                      \
  }                                                                 \
  template <typename T>                                             \
  MSL_FN MSL_SYNC T quad_##name(T v) {                              \
    const uint quad = msl_lane() & 28;                              \
    return msl_combine<4>(msl_exchange_value(v), quad, f());        \
  }
MSL_REDUCTION(sum, msl_add)
MSL_REDUCTION(product, msl_mul)
MSL_REDUCTION(max, msl_max)
MSL_REDUCTION(min, msl_min)
MSL_REDUCTION(or, msl_or)
MSL_REDUCTION(and, msl_and)
MSL_REDUCTION(xor, msl_xor)
#undef MSL_REDUCTION
template <typename T, typename F>
MSL_FN MSL_SYNC T msl_scan(T v, T none, F f, bool inclusive) {
  const auto all = msl_exchange_value(v);
  const uint end = msl_lane() + (inclusive ? 1u : 0u);
  T r = none;
  for (uint lane = 0; lane < 32; ++lane) {
    const T other = all.from(lane);
    if (lane < end && (all.active >> lane & 1) != 0) r = f(r, other);
  }
  return r;
}
template <typename T>
MSL_FN MSL_SYNC T simd_prefix_inclusive_sum(T v) {
  return msl_scan(v, T(0), msl_add(), true);
}
template <typename T>
MSL_FN MSL_SYNC T simd_prefix_exclusive_sum(T v) {
  return msl_scan(v, T(0), msl_add(), false);
}
template <typename T>
MSL_FN MSL_SYNC T simd_prefix_inclusive_product(T v) {
  return msl_scan(v, T(1), msl_mul(), true);
}
template <typename T>
MSL_FN MSL_SYNC T simd_prefix_exclusive_product(T v) {
  return msl_scan(v, T(1), msl_mul(), false);
}

struct simd_vote {
  using vote_t = ulong;
  ulong bits;
  explicit constexpr simd_vote(ulong v = 0) : bits(v) {}
  explicit operator ulong() const { return bits; }
  bool all() const { return bits == 0xFFFFFFFFul; }
  bool any() const { return bits != 0; }
};
#ifdef MSL_TARGET_PTX
MSL_FN MSL_SYNC simd_vote simd_ballot(bool v) {
  return simd_vote(__nvvm_vote_ballot_sync(msl_active(), v));
}
MSL_FN MSL_SYNC bool simd_any(bool v) {
  return __nvvm_vote_any_sync(msl_active(), v);
}
MSL_FN MSL_SYNC bool simd_all(bool v) {
  return __nvvm_vote_all_sync(msl_active(), v);
}
#else
MSL_FN MSL_SYNC simd_vote simd_ballot(bool v) {
  const auto all = msl_exchange_value(static_cast<uint>(v));
  ulong bits = 0;
  for (uint lane = 0; lane < 32; ++lane) {
    const uint other = all.from(lane);
    if ((all.active >> lane & 1) != 0 && other != 0) bits |= 1ul << lane;
  }
  return simd_vote(bits);
}
MSL_FN MSL_SYNC bool simd_any(bool v) {
  return simd_or(static_cast<uint>(v)) != 0;
}
MSL_FN MSL_SYNC bool simd_all(bool v) {
  return simd_and(static_cast<uint>(v)) != 0;
}
#endif
MSL_FN MSL_SYNC simd_vote simd_active_threads_mask() {
  return simd_vote(msl_exchange_value(0u).active);
}
MSL_FN MSL_SYNC bool simd_is_first() {
  return static_cast<uint>(__builtin_ctz(msl_exchange_value(0u).active)) == msl_lane();
}

}  // namespace metal
