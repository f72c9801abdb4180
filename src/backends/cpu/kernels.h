// The CPU kernels' interface: what differs between instruction sets, and
// nothing else. Each kernels_*.cpp is compiled with its own flags and gives one
// table; the backend picks one at start-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backends/cache_type.h"

namespace metal_marlin::cpu {

constexpr int kPanelRows = 16;  // outputs computed together
constexpr int kBlock = 32;      // inputs that share an activation scale
constexpr int kChunks = 8;      // groups of 4 inputs in a block
constexpr int kKeyBlock = 64;   // keys whose scores are held at once

// Kernel layout of a weight matrix (panel_matrix.h makes it). Rows are taken in
// panels of 16, inputs in blocks of 32. For codes of b bits a block takes 64*b
// bytes in planes of 4, 2 or 1 bits; in a plane of p bits, chunk c of 4 inputs
// is bits [p*(c mod 8/p), +p) of bytes 64*(c / (8/p)) + 4*row + input. Dense
// matrices are [input][row] in a panel, bf16 ones [pair of inputs][row][2].
// Of a 2:4 sparse matrix a block has a plane of 4 bits for the 16 inputs that are
// kept, two of each chunk, and 64 bytes of which bits [4*c, +4) of the four at
// 4*row tell which of a chunk's inputs they are: 0 to 5 for (0,1) (0,2) (0,3)
// (1,2) (1,3) (2,3). Code 0 is zero's.
enum class PanelKind : std::uint8_t {
  kCodes2,
  kCodes3,
  kCodes4,
  kCodes5,
  kCodes6,
  kCodes8,
  kSparse4,
  kE4m3,
  kE5m2,
  kF16,
  kBf16,
  kF32
};
// For each number of two positions and the half of a kept chunk, eight numbers apart: which of its bytes
// goes to each place, the first in the low bits; 0x80: none, a zero.
static constexpr std::uint32_t kSpreadSources[16] = {
    0x80800100, 0x80018000, 0x01808000, 0x80010080, 0x01800080, 0x01008080, 0, 0,
    0x80800302, 0x80038002, 0x03808002, 0x80030280, 0x03800280, 0x03028080, 0, 0};

// Bits of a code, or of an element of a dense matrix. Functions here have
// internal linkage: each instruction set's file keeps its own copy.
static constexpr int code_bits(PanelKind kind) {
  switch (kind) {
    case PanelKind::kCodes2: return 2;
    case PanelKind::kCodes3: return 3;
    case PanelKind::kSparse4: return 3;  // positions included
    case PanelKind::kCodes4: return 4;
    case PanelKind::kCodes5: return 5;
    case PanelKind::kCodes6: return 6;
    case PanelKind::kF16:
    case PanelKind::kBf16: return 16;
    case PanelKind::kF32: return 32;
    default: return 8;
  }
}

enum class PanelScale : std::uint8_t { kNone, kF16, kBf16, kF32, kE8m0 };

struct PanelView {
  PanelKind kind = PanelKind::kF32;
  PanelScale scale_type = PanelScale::kNone;
  bool integer = false;  // elements are small integers times level_scale
  bool table = false;    // codes index `levels`
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t blocks = 0;
  std::int64_t groups = 0;
  std::int64_t group = 0;  // inputs that share a scale: 16, a multiple of 32, or >= cols
  std::size_t panel_bytes = 0;
  const std::uint8_t* codes = nullptr;
  const void* scales = nullptr;         // [panels][groups][16]
  const void* minima = nullptr;         // likewise, null for none
  const std::uint8_t* zeros = nullptr;  // likewise, integer zero points
  float multiplier = 1;                 // on every scale
  float level_scale = 1;                // element = level * level_scale
  float offset = 0;                     // element = code - offset, without a table
  float levels[16] = {};                // integral where `integer`
};

// 32 activations in 8 bits; sums are of the dequantized values.
struct Q8Block {
  float scale;
  float sum;
  float low_sum;   // first 16
  float high_sum;  // last 16
  std::int8_t q[kBlock];
};

// What a linear multiplies its weights by.
enum class LinearInput : std::uint8_t { kF32, kQ8, kBf16 };

// As GateActivation, and the GateClamp of kClamped.
enum class Gate : std::uint8_t { kSilu, kGeluTanh, kGelu, kClamped };
struct GateForm {
  Gate gate = Gate::kSilu;
  float alpha = 0;
  float limit = 0;
};

// One panel of 16 outputs for some tokens. With `gate`, the result is
// activation(gate * x) * (matrix * x), or what the activation makes of both.
struct LinearTile {
  const PanelView* matrix;
  const PanelView* gate;  // null: plain
  std::int64_t panel;
  std::int64_t tokens;
  const Q8Block* q8;          // 8-bit activations, or
  const float* x;             // f32 ones, padded with zeros to whole blocks, or
  const std::uint16_t* bf16;  // bf16 ones, padded likewise
  std::int64_t x_stride;      // between tokens, in elements of the type
  float* out;
  std::int64_t out_stride;
  const float* bias;  // null: none
  const float* gate_bias;
  bool accumulate;  // add to `out`
  float* scratch;   // scratch_floats(matrix) floats, twice with a gate
  // A token's sums are made in the same order whatever the tokens beside it: slower for one alone.
  bool one_order = false;
  GateForm form = {};  // of a gate
};
[[maybe_unused]] static inline std::int64_t scratch_floats(const PanelView& matrix) {
  return matrix.groups * kPanelRows * 2;
}

// Outputs of a matrix taken the other way: out[c] = sum over rows of x[r] * W[r, c].
struct TransposedTile {
  const PanelView* matrix;
  std::int64_t tokens;
  const float* x;
  std::int64_t x_stride;  // floats between tokens
  float* out;
  std::int64_t out_stride;
  float* scratch;  // transposed_scratch_floats(matrix) floats
};
constexpr std::int64_t kTransposedTokens = 4;  // that share a decoding of the weights
[[maybe_unused]] static inline std::int64_t transposed_scratch_floats(const PanelView& matrix) {
  return scratch_floats(matrix) + kTransposedTokens * matrix.blocks * kBlock * kPanelRows;
}

// How a page of the cache holds a token's key and value, in f16 or f32. Apart:
// keys as [key_dim][16], values as [16][value_dim padded to 16]. Latent: keys
// alone, as [16][key_dim padded to 16]; a value is the first value_dim elements
// of its key. Quantized: 16 rows of keys, then of values; a row is its codes, then
// its scales, each padded to 4 bytes.
struct CachePage {
  int key_dim;
  int value_dim;
  bool latent;
  CacheType type;
};
constexpr int kCacheGroup = 32;  // elements that share a scale
[[maybe_unused]] static inline int cache_code_bits(CacheType type) {
  return type == CacheType::kInt4 || type == CacheType::kFp4 ? 4 : 8;
}
// Where in a quantized row of `width` elements the scales begin, and its size.
[[maybe_unused]] static inline std::size_t cache_scales_at(CacheType type, int width) {
  return (static_cast<std::size_t>(width) * static_cast<std::size_t>(cache_code_bits(type)) + 31) / 32 * 4;
}
[[maybe_unused]] static inline std::size_t cache_row_bytes(CacheType type, int width) {
  return (cache_scales_at(type, width) + static_cast<std::size_t>((width + kCacheGroup - 1) / kCacheGroup * 2) + 3) /
         4 * 4;
}
// Elements of a row of values, or of latent keys.
[[maybe_unused]] static inline std::int64_t page_row(const CachePage& page) {
  return ((page.latent ? page.key_dim : page.value_dim) + 15) / 16 * 16;
}
[[maybe_unused]] static inline std::size_t page_bytes(const CachePage& page) {
  if (is_quantized(page.type)) {
    const std::size_t values = page.latent ? 0 : cache_row_bytes(page.type, page.value_dim);
    return kCachePageTokens * (cache_row_bytes(page.type, page.key_dim) + values);
  }
  const std::int64_t elements = (page.latent ? 0 : page.key_dim) + page_row(page);
  return static_cast<std::size_t>(elements) * kCachePageTokens * (page.type == CacheType::kF16 ? 2 : 4);
}

// The queries of a few consecutive tokens of one sequence that share a key head.
struct AttentionTile {
  const float* q;  // a token's query heads lie side by side
  std::int64_t q_stride;
  float* out;
  std::int64_t out_stride;  // between tokens
  std::int64_t out_head;    // between heads
  int tokens;
  int group;  // query heads
  CachePage page;
  float scale;
  std::int64_t first_position;
  std::int64_t window;  // 0: none
  float soft_cap;       // on scores; 0: none
  const float* sinks;   // [group]: scores that have no value; null: none
  const std::int32_t* pages;
  const std::byte* cache;  // of this layer and head
  std::size_t page_stride;
  float* scratch;          // attention_scratch_floats(...)
  bool one_order = false;  // as a LinearTile's
};
[[maybe_unused]] static inline std::int64_t attention_scratch_floats(std::int64_t rows, const CachePage& page) {
  // A block's keys and values out of their codes.
  const std::int64_t decoded =
      is_quantized(page.type) ? kKeyBlock * ((page.key_dim + 15) / 16 * 16 + (page.latent ? 0 : page_row(page))) : 0;
  return rows * (page.key_dim + (page.value_dim + 15) / 16 * 16 + kKeyBlock + 2) + decoded;
}

struct Kernels {
  const char* name;
  void (*linear_q8)(const LinearTile&);
  void (*linear_f32)(const LinearTile&);
  // For bf16 matrices; null where the processor does not multiply bf16.
  // Subnormal weights and activations count as zero.
  void (*linear_bf16)(const LinearTile&);
  // ceil(n / 32) blocks; missing elements are zero.
  void (*quantize_q8)(const float* x, std::int64_t n, Q8Block* out);
  // n a multiple of 32; null like linear_bf16.
  void (*round_bf16)(const float* x, std::int64_t n, std::uint16_t* out);
  void (*rms_norm)(const float* x, const float* weight, std::int64_t n, float eps, float* out);
  void (*layer_norm)(const float* x, const float* weight, std::int64_t n, float eps, float* out);
  void (*gated)(const GateForm& form, const float* gate, const float* up, std::int64_t n, float* out);
  // x *= factor, then, unless it is 0, the soft cap.
  void (*scale)(float* x, std::int64_t n, float factor, float soft_cap);
  // x += factor * y
  void (*add)(float* x, const float* y, std::int64_t n, float factor);
  void (*linear_transposed)(const TransposedTile&);
  // x: [heads][head_dim], of each the first 2 * pairs elements; cosines, sines: [pairs]
  void (*rope)(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t pairs, const float* cosines,
               const float* sines);
  // One head, of pairs (2i, 2i+1).
  void (*rope_interleaved)(float* x, std::int64_t pairs, const float* cosines, const float* sines);
  // Puts a token's key and value (not read where latent) into slot `slot` of a page in f16 or f32.
  void (*store_kv)(const CachePage& layout, const float* k, const float* v, int slot, std::byte* page);
  void (*attention)(const AttentionTile&);
};

// Tables this processor can run, best first; the last is plain C++.
std::span<const Kernels* const> available_kernels();
// \throws Error (kUnsupported) naming those that can run.
const Kernels& find_kernels(const char* name);

}  // namespace metal_marlin::cpu
