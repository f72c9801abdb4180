// The cache's and attention's part of the kernels' one text (kernels_impl.h, which includes it after what it needs).

#include "backends/cpu/kernels.h"

namespace metal_marlin::cpu {
namespace {

// Rows of n elements, padded with zeros.
inline void store_row(bool f16, const float* x, int n, std::byte* page, std::int64_t at) {
  for (int d = 0; d < n; d += 16) {
    const F32 part = f_load_part(x + d, static_cast<int>(lesser(16, n - d)));
    if (f16) {
      f_store_f16(reinterpret_cast<std::uint16_t*>(page) + at + d, part);
    } else {
      f_store(reinterpret_cast<float*>(page) + at + d, part);
    }
  }
}

void store_kv(const CachePage& layout, const float* k, const float* v, int slot, std::byte* page) {
  const bool f16 = layout.type == CacheType::kF16;
  if (layout.latent) return store_row(f16, k, layout.key_dim, page, slot * page_row(layout));
  for (int d = 0; d < layout.key_dim; d += 16) {
    const int left = static_cast<int>(lesser(16, layout.key_dim - d));
    if (f16) {
      std::uint16_t keys[16];
      f_store_f16(keys, f_load_part(k + d, left));
      auto* const halves = reinterpret_cast<std::uint16_t*>(page);
      for (int i = 0; i < left; ++i) halves[(d + i) * kCachePageTokens + slot] = keys[i];
    } else {
      auto* const floats = reinterpret_cast<float*>(page);
      for (int i = 0; i < left; ++i) floats[(d + i) * kCachePageTokens + slot] = k[d + i];
    }
  }
  const std::int64_t values = static_cast<std::int64_t>(layout.key_dim) * kCachePageTokens;
  store_row(f16, v, layout.value_dim, page, values + slot * page_row(layout));
}

// A quantized row's elements, and zeros up to a multiple of 16.
inline void decode_cache_row(CacheType type, const std::byte* row, int width, float* out) {
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(row);
  const auto* const scales = reinterpret_cast<const std::uint16_t*>(row + cache_scales_at(type, width));
  for (int begin = 0; begin < width; begin += kCacheGroup) {
    const int count = static_cast<int>(lesser(kCacheGroup, width - begin));
    std::uint16_t halves[16] = {scales[begin / kCacheGroup]};
    const float scale = f_first(f_load_f16(halves));
    float* const to = out + begin;
    if (type == CacheType::kInt8) {
      for (int i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<std::int8_t>(codes[begin + i])) * scale;
    } else if (type == CacheType::kFp8) {
      // The bits of a float of a smaller exponent.
      for (int i = 0; i < count; ++i) {
        const std::uint32_t c = codes[begin + i];
        to[i] = __builtin_bit_cast(float, (c & 0x80U) << 24 | (c & 0x7FU) << 20) * 0x1p120F * scale;
      }
    } else {
      for (int i = 0; i < count; ++i) {
        const std::uint32_t c = codes[(begin + i) / 2] >> (i % 2 * 4) & 0xFU;
        to[i] = type == CacheType::kInt4
                    ? static_cast<float>(static_cast<std::int32_t>(c ^ 8U) - 8) * scale
                    : __builtin_bit_cast(float, (c & 8U) << 28 | (c & 7U) << 22) * 0x1p126F * scale;
      }
    }
  }
  for (int i = width; i < (width + 15) / 16 * 16; ++i) out[i] = 0;
}

template <bool kF16>
inline F32 load_cache(const std::byte* base, std::int64_t at) {
  if constexpr (kF16) return f_load_f16(reinterpret_cast<const std::uint16_t*>(base) + at);
  return f_load(reinterpret_cast<const float*>(base) + at);
}

struct AttentionScratch {
  int out_row;    // value_dim padded to 16
  float* q;       // [rows][key_dim], scaled
  float* scores;  // [rows][kKeyBlock]
  float* out;     // [rows][out_row]
  float* top;     // [rows], running maximum
  float* sum;     // [rows]
  float* keys;    // [kKeyBlock][key_dim padded to 16], of a quantized cache
  float* values;  // [kKeyBlock][page_row], likewise; latent: the keys
};

template <bool kF16, int kRows>
inline void scores_of_page(const AttentionTile& tile, const AttentionScratch& s, int row, const std::byte* page,
                           int column) {
  F32 acc[kRows];
  for (int r = 0; r < kRows; ++r) acc[r] = f_set(0.0F);
  for (int d = 0; d < tile.page.key_dim; ++d) {
    const F32 key = load_cache<kF16>(page, static_cast<std::int64_t>(d) * kCachePageTokens);
    MM_UNROLL(4)
    for (int r = 0; r < kRows; ++r) acc[r] = f_fma(f_set(s.q[(row + r) * tile.page.key_dim + d]), key, acc[r]);
  }
  for (int r = 0; r < kRows; ++r) f_store(s.scores + (row + r) * kKeyBlock + column, acc[r]);
}

// Latent and decoded keys lie the other way: each score is a dot product over the key.
template <bool kF16, int kRows>
inline void scores_of_rows(const AttentionTile& tile, const AttentionScratch& s, int row, const std::byte* page,
                           int column) {
  constexpr int kKeys = 4;
  const std::int64_t stride = (tile.page.key_dim + 15) / 16 * 16;
  for (int first = 0; first < kCachePageTokens; first += kKeys) {
    F32 acc[kRows * kKeys];
    for (F32& sum : acc) sum = f_set(0.0F);
    for (int d = 0; d < tile.page.key_dim; d += 16) {
      const int left = static_cast<int>(lesser(16, tile.page.key_dim - d));
      F32 q[kRows];
      for (int r = 0; r < kRows; ++r) q[r] = f_load_part(s.q + (row + r) * tile.page.key_dim + d, left);
      MM_UNROLL(4)
      for (int i = 0; i < kKeys; ++i) {
        const F32 key = load_cache<kF16>(page, (first + i) * stride + d);
        MM_UNROLL(4)
        for (int r = 0; r < kRows; ++r) acc[r * kKeys + i] = f_fma(q[r], key, acc[r * kKeys + i]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kKeys; ++i)
        s.scores[(row + r) * kKeyBlock + column + first + i] = f_reduce_add(acc[r * kKeys + i]);
    }
  }
}

template <bool kF16, int kRows>
inline void values_of_block(const AttentionTile& tile, const AttentionScratch& s, int row, std::int64_t first_page,
                            int keys) {
  const std::int64_t values = tile.page.latent ? 0 : static_cast<std::int64_t>(tile.page.key_dim) * kCachePageTokens;
  const std::int64_t stride = page_row(tile.page);
  for (int d = 0; d < s.out_row; d += 16) {
    F32 acc[kRows];
    for (int r = 0; r < kRows; ++r) acc[r] = f_load(s.out + (row + r) * s.out_row + d);
    for (int key = 0; key < keys; ++key) {
      F32 value;
      if (is_quantized(tile.page.type)) {
        value = f_load(s.values + key * stride + d);
      } else {
        const std::byte* const page =
            tile.cache + static_cast<std::size_t>(tile.pages[first_page + key / kCachePageTokens]) * tile.page_stride;
        value = load_cache<kF16>(page, values + (key % kCachePageTokens) * stride + d);
      }
      MM_UNROLL(4)
      for (int r = 0; r < kRows; ++r) acc[r] = f_fma(f_set(s.scores[(row + r) * kKeyBlock + key]), value, acc[r]);
    }
    for (int r = 0; r < kRows; ++r) f_store(s.out + (row + r) * s.out_row + d, acc[r]);
  }
}

// Scores of one row against a block of keys become weights; the running
// maximum, sum and output are brought to the new maximum.
inline void softmax_row(const AttentionTile& tile, const AttentionScratch& s, int row, std::int64_t first_key,
                        int keys) {
  const std::int64_t position = tile.first_position + row / tile.group;
  const std::int64_t end = position + 1;
  const std::int64_t begin = tile.window > 0 ? greater(0, end - tile.window) : 0;
  float* const scores = s.scores + row * kKeyBlock;
  if (tile.soft_cap != 0) scale_row(scores, keys, 1.0F, tile.soft_cap);
  for (int i = 0; i < keys; ++i) {
    if (first_key + i < begin || first_key + i >= end) scores[i] = kMinusInfinity;
  }
  F32 largest = f_load(scores);
  for (int i = 16; i < keys; i += 16) largest = f_max(largest, f_load(scores + i));
  const float top = f_reduce_max(largest) > s.top[row] ? f_reduce_max(largest) : s.top[row];
  if (top == kMinusInfinity) {  // nothing visible yet
    for (int i = 0; i < keys; ++i) scores[i] = 0;
    return;
  }
  F32 sum = f_set(0.0F);
  const F32 shift = f_set(top);
  for (int i = 0; i < keys; i += 16) {
    const F32 weight = f_exp_or_zero(f_sub(f_load(scores + i), shift));
    f_store(scores + i, weight);
    sum = f_add(sum, weight);
  }
  const F32 correction = f_exp_or_zero(f_set(s.top[row] - top));
  s.sum[row] = s.sum[row] * f_first(correction) + f_reduce_add(sum);
  s.top[row] = top;
  for (int d = 0; d < s.out_row; d += 16) {
    float* const out = s.out + row * s.out_row + d;
    f_store(out, f_mul(f_load(out), correction));
  }
}

template <typename Work>
inline void by_rows(int rows, const Work& work) {
  int row = 0;
  for (; row + 4 <= rows; row += 4) work.template run<4>(row);
  if (rows - row == 3) work.template run<3>(row);
  if (rows - row == 2) work.template run<2>(row);
  if (rows - row == 1) work.template run<1>(row);
}

template <bool kF16>
struct ScoreWork {
  const AttentionTile& tile;
  const AttentionScratch& s;
  const std::byte* page;
  int column;
  template <int kRows>
  void run(int row) const {
    if (tile.page.latent || is_quantized(tile.page.type)) {
      scores_of_rows<kF16, kRows>(tile, s, row, page, column);
    } else {
      scores_of_page<kF16, kRows>(tile, s, row, page, column);
    }
  }
};

template <bool kF16>
struct ValueWork {
  const AttentionTile& tile;
  const AttentionScratch& s;
  std::int64_t first_page;
  int keys;
  template <int kRows>
  void run(int row) const {
    values_of_block<kF16, kRows>(tile, s, row, first_page, keys);
  }
};

// A page's keys and values, the first of them at `column` of the block.
inline void decode_page(const CachePage& layout, const std::byte* page, const AttentionScratch& s, int column) {
  const std::int64_t key_row = (layout.key_dim + 15) / 16 * 16;
  const std::size_t key_bytes = cache_row_bytes(layout.type, layout.key_dim);
  for (int t = 0; t < kCachePageTokens; ++t) {
    decode_cache_row(layout.type, page + static_cast<std::size_t>(t) * key_bytes, layout.key_dim,
                     s.keys + (column + t) * key_row);
  }
  if (layout.latent) return;
  const std::size_t value_bytes = cache_row_bytes(layout.type, layout.value_dim);
  for (int t = 0; t < kCachePageTokens; ++t) {
    decode_cache_row(layout.type, page + kCachePageTokens * key_bytes + static_cast<std::size_t>(t) * value_bytes,
                     layout.value_dim, s.values + (column + t) * page_row(layout));
  }
}

template <bool kF16>
void attend(const AttentionTile& tile) {
  const int rows = tile.tokens * tile.group;
  const int key_dim = tile.page.key_dim;
  AttentionScratch s{};
  s.out_row = (tile.page.value_dim + 15) / 16 * 16;
  s.q = tile.scratch;
  s.scores = s.q + rows * key_dim;
  s.out = s.scores + rows * kKeyBlock;
  s.top = s.out + rows * s.out_row;
  s.sum = s.top + rows;
  s.keys = s.sum + rows;
  const std::int64_t key_row = (key_dim + 15) / 16 * 16;
  s.values = tile.page.latent ? s.keys : s.keys + kKeyBlock * key_row;
  for (int row = 0; row < rows; ++row) {
    const float* const q = tile.q + (row / tile.group) * tile.q_stride + (row % tile.group) * key_dim;
    for (int d = 0; d < key_dim; ++d) s.q[row * key_dim + d] = q[d] * tile.scale;
    for (int d = 0; d < s.out_row; ++d) s.out[row * s.out_row + d] = 0;
    // A sink is what each of its head's softmaxes begins with.
    s.top[row] = tile.sinks == nullptr ? kMinusInfinity : tile.sinks[row % tile.group];
    s.sum[row] = tile.sinks == nullptr ? 0.0F : 1.0F;
  }
  const std::int64_t end = tile.first_position + tile.tokens;
  const std::int64_t oldest = tile.window > 0 ? greater(0, tile.first_position + 1 - tile.window) : 0;
  // Blocks that begin at multiples of their size are the same for every token, whichever others are in its tile.
  const std::int64_t step = tile.one_order ? kKeyBlock : kCachePageTokens;
  for (std::int64_t key = oldest / step * step; key < end; key += kKeyBlock) {
    const int keys =
        static_cast<int>(lesser(kKeyBlock, (end - key + kCachePageTokens - 1) / kCachePageTokens * kCachePageTokens));
    for (int i = 0; i < keys; i += kCachePageTokens) {
      const std::byte* const page =
          tile.cache + static_cast<std::size_t>(tile.pages[(key + i) / kCachePageTokens]) * tile.page_stride;
      if (is_quantized(tile.page.type)) {
        decode_page(tile.page, page, s, i);
        by_rows(rows, ScoreWork<kF16>{tile, s, reinterpret_cast<const std::byte*>(s.keys + i * key_row), i});
      } else {
        by_rows(rows, ScoreWork<kF16>{tile, s, page, i});
      }
    }
    for (int row = 0; row < rows; ++row) softmax_row(tile, s, row, key, keys);
    // Keys past the end have weight zero but may be uninitialised: leave them out.
    const int present = static_cast<int>(lesser(keys, end - key));
    by_rows(rows, ValueWork<kF16>{tile, s, key / kCachePageTokens, present});
  }
  for (int row = 0; row < rows; ++row) {
    const float inverse = s.sum[row] > 0 ? 1.0F / s.sum[row] : 0.0F;
    float* const out = tile.out + (row / tile.group) * tile.out_stride + (row % tile.group) * tile.out_head;
    for (int d = 0; d < tile.page.value_dim; ++d) out[d] = s.out[row * s.out_row + d] * inverse;
  }
}

void attention(const AttentionTile& tile) {
  if (tile.page.type == CacheType::kF16) {
    attend<true>(tile);
  } else {
    attend<false>(tile);
  }
}

}  // namespace
}  // namespace metal_marlin::cpu
