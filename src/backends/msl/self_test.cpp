#include "backends/msl/self_test.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>

#include "backends/msl/all_reduce.h"
#include "backends/msl/autotune.h"
#include "backends/msl/bf16_convert.h"
#include "backends/msl/dequantize.h"
#include "backends/msl/epilogue.h"
#include "backends/msl/experts.h"
#include "backends/msl/hadamard.h"
#include "backends/msl/latent_attention.h"
#include "backends/msl/low_rank.h"
#include "backends/msl/moe_dispatch.h"
#include "backends/msl/moe_router.h"
#include "backends/msl/packed_attention.h"
#include "backends/msl/paged_attention.h"
#include "backends/msl/rope.h"
#include "backends/msl/rwkv_wkv.h"
#include "backends/msl/sampling.h"
#include "backends/msl/shared_expert.h"
#include "backends/msl/sparse.h"
#include "backends/msl/vision.h"
#include "base/thread_pool.h"
#include "formats/packed_matrix.h"
#include "formats/small_floats.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::int64_t kRows = 24;
constexpr std::int64_t kCols = 96;

// Numbers of both signs that repeat late.
float number(std::int64_t i) {
  return static_cast<float>((i * 7919 + 13) % 251 - 125) / 97.0F;
}

struct Matrix {
  PackedMatrix packed;
  std::vector<float> decoded;
};

Matrix make_matrix(Format format, ThreadPool& pool) {
  const RowReader read = [](std::int64_t row, float* out) {
    for (std::int64_t k = 0; k < kCols; ++k) out[k] = number(row * kCols + k);
  };
  Matrix m{quantize_matrix(default_spec(format), kRows, kCols, read, 1, pool), {}};
  m.decoded.resize(static_cast<std::size_t>(kRows * kCols));
  for (std::int64_t row = 0; row < kRows; ++row) m.packed.view().decode_row(row, m.decoded.data() + row * kCols);
  return m;
}

bool product_matches(Device& device, const Weight& weight, const std::vector<float>& w, std::int64_t tokens,
                     Activations mode, ThreadPool& pool) {
  const Linear linear(device, "w", weight, kRows, kCols, pool);
  const LinearWorkspace workspace(device, tokens, kCols, kRows);
  std::vector<float> x(static_cast<std::size_t>(tokens * kCols));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = number(static_cast<std::int64_t>(i) + 1000);
  const auto x_buffer = device.allocate_with(x);
  const auto y_buffer = device.allocate(static_cast<std::size_t>(tokens * kRows) * sizeof(float));
  const auto commands = device.commands();
  Linear::Call call;
  call.x = x_buffer.get();
  call.y = y_buffer.get();
  call.tokens = tokens;
  call.mode = mode;
  linear.encode(*commands, call, workspace);
  commands->commit();
  commands->wait();
  std::vector<float> y(static_cast<std::size_t>(tokens * kRows));
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < kRows; ++r) {
      double sum = 0;
      double size = 0;
      for (std::int64_t k = 0; k < kCols; ++k) {
        const double term = static_cast<double>(w[static_cast<std::size_t>(r * kCols + k)]) *
                            x[static_cast<std::size_t>(t * kCols + k)];
        sum += term;
        size += std::fabs(term);
      }
      if (!(std::fabs(y[static_cast<std::size_t>(t * kRows + r)] - sum) <= size * 0x1.1p-10)) return false;
    }
  }
  return true;
}

bool products_match(Device& device, Format format, std::int64_t tokens, Activations mode, ThreadPool& pool) {
  const Matrix m = make_matrix(format, pool);
  return product_matches(device, {m.packed.view(), nullptr}, m.decoded, tokens, mode, pool);
}

bool dense_matches(Device& device, ThreadPool& pool) {
  const Matrix m = make_matrix(Format::kInt8, pool);
  const DenseView view{DType::kF32, {kRows, kCols}, std::as_bytes(std::span(m.decoded))};
  return product_matches(device, {view, nullptr}, m.decoded, 5, Activations::kInt8, pool) &&
         products_match(device, Format::kNf4, 3, Activations::kF32, pool);
}

bool dequantized_matches(Device& device, Format format, ThreadPool& pool) {
  const Matrix m = make_matrix(format, pool);
  const TiledMatrix units = make_tiled_matrix(device, m.packed.view(), pool);
  const auto out = device.allocate(m.decoded.size() * sizeof(float));
  const auto commands = device.commands();
  encode_dequantize(device, *commands, units, DType::kF32, *out);
  commands->commit();
  commands->wait();
  std::vector<float> found(m.decoded.size());
  out->download(std::as_writable_bytes(std::span(found)));
  return found == m.decoded;
}

std::vector<float> numbers(std::int64_t n, std::int64_t first) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < n; ++i) out.push_back(number(first + i));
  return out;
}

// What kernels make of `x`, which they change in place.
template <typename Encode>
std::vector<float> changed(Device& device, const std::vector<float>& x, const Encode& encode) {
  const auto buffer = device.allocate_with(x);
  const auto commands = device.commands();
  encode(*commands, *buffer);
  commands->commit();
  commands->wait();
  std::vector<float> out(x.size());
  buffer->download(std::as_writable_bytes(std::span(out)));
  return out;
}

bool near(double found, double expected) {
  return std::fabs(found - expected) <= 1e-5 * (1 + std::fabs(expected));
}

bool rope_matches(Device& device) {
  const std::vector<float> x = numbers(8, 3);
  const std::vector<float> frequencies = {1, 0.1F, 0.01F, 0.001F};
  const std::vector<std::int32_t> positions = {100};
  const auto f = device.allocate_with(frequencies);
  const auto p = device.allocate_with(positions);
  const std::vector<float> y = changed(device, x, [&](Commands& commands, Buffer& buffer) {
    encode_rope(device, commands, {1, 0, 8, 0, 8, 8, 0, 0, 1}, DType::kF32, 1, buffer, nullptr, *f, *p);
  });
  bool good = true;
  for (std::size_t i = 0; i < 4; ++i) {
    const double angle = 100.0F * frequencies[i];
    good = good && near(y[i], x[i] * std::cos(angle) - x[i + 4] * std::sin(angle)) &&
           near(y[i + 4], x[i + 4] * std::cos(angle) + x[i] * std::sin(angle));
  }
  return good;
}

bool epilogue_matches(Device& device) {
  const std::vector<float> x = numbers(96, 5);
  const std::vector<float> weight = numbers(96, 500);
  const auto w = device.allocate_with(weight);
  const std::vector<float> y = changed(device, x, [&](Commands& commands, Buffer& buffer) {
    encode_rms_norm(device, commands, DType::kF32, 1, 96, 1e-6F, buffer, *w, buffer);
    encode_gated(device, commands, DType::kF32, 96, gate_params(GateActivation::kSilu), buffer, *w, buffer);
    encode_residual(device, commands, DType::kF32, 96, buffer, *w);
  });
  double squares = 0;
  for (const float v : x) squares += static_cast<double>(v) * v;
  bool good = true;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double v = x[i] / std::sqrt(squares / 96 + 1e-6) * weight[i];
    good = good && near(y[i], v / (1 + std::exp(-v)) * weight[i] + weight[i]);
  }
  return good;
}

// Two keys in the cache, a query that sees both.
bool paged_attention_matches(Device& device) {
  constexpr std::int64_t kDim = 40;
  const std::vector<float> k = numbers(2 * kDim, 11);
  const std::vector<float> v = numbers(2 * kDim, 300);
  const std::vector<float> q = numbers(kDim, 900);
  const auto keys = device.allocate(16 * kDim * sizeof(float));
  const auto values = device.allocate(16 * kDim * sizeof(float));
  const auto k_buffer = device.allocate_with(k);
  const auto v_buffer = device.allocate_with(v);
  const auto table = device.allocate_with(std::vector<std::int32_t>{0});
  const auto sequences = device.allocate_with(std::vector<std::int32_t>{0, 0});
  const auto positions = device.allocate_with(std::vector<std::int32_t>{0, 1});
  const auto last = device.allocate_with(std::vector<std::int32_t>{1});
  PagedParams p;
  p.heads = p.kv_heads = p.table_stride = 1;
  p.key_dim = p.value_dim = p.q_stride = p.k_stride = p.v_stride = p.out_stride = kDim;
  p.scale = 0.1F;
  const std::vector<float> y = changed(device, q, [&](Commands& commands, Buffer& buffer) {
    PagedBuffers b{keys.get(), values.get(), table.get(), sequences.get(), positions.get()};
    encode_store_kv(device, commands, p, DType::kF32, CacheType::kF32, 2, *k_buffer, *v_buffer, b);
    b.positions = last.get();
    encode_paged_attention(device, commands, p, DType::kF32, CacheType::kF32, 1, buffer, buffer, b);
  });
  double difference = 0;
  for (std::size_t i = 0; i < kDim; ++i) difference += 0.1 * q[i] * (static_cast<double>(k[kDim + i]) - k[i]);
  const double second = 1 / (1 + std::exp(-difference));
  bool good = true;
  for (std::size_t i = 0; i < kDim; ++i) good = good && near(y[i], v[i] + second * (v[kDim + i] - v[i]));
  return good;
}

// Twice there and back, and the first sum.
bool hadamard_matches(Device& device) {
  const std::vector<float> x = numbers(48, 17);
  const auto transform = [&](const std::vector<float>& in, HadamardDirection direction) {
    return changed(device, in, [&](Commands& commands, Buffer& buffer) {
      encode_hadamard(device, commands, DType::kF32, 1, 48, 24, direction, buffer, buffer);
    });
  };
  const std::vector<float> y = transform(x, HadamardDirection::kForward);
  const std::vector<float> back = transform(y, HadamardDirection::kInverse);
  double sum = 0;
  for (std::size_t i = 0; i < 24; ++i) sum += x[i];
  bool good = near(y[0], sum / std::sqrt(24.0));
  for (std::size_t i = 0; i < x.size(); ++i) good = good && near(back[i], x[i]);
  return good;
}

// Of two rows the second has an adapter, of rank 3 behind one of rank 2.
bool low_rank_matches(Device& device) {
  constexpr std::int64_t kIn = 40, kOut = 7;
  const LowRank other{2, 1, numbers(2 * kIn, 3), numbers(kOut * 2, 4)};
  const LowRank own{3, 0.5F, numbers(3 * kIn, 5), numbers(kOut * 3, 6)};
  const LowRankStack stack(device, std::array<const LowRank*, 2>{&other, &own}, kIn, kOut);
  const std::vector<float> x = numbers(2 * kIn, 7);
  const std::vector<float> before = numbers(2 * kOut, 8);
  const auto in = device.allocate_with(x);
  const auto adapters = device.allocate_with(std::vector<std::int32_t>{-1, 1});
  const auto inner = device.allocate(2 * 3 * sizeof(float));
  const std::vector<float> y = changed(device, before, [&](Commands& commands, Buffer& buffer) {
    stack.encode(device, commands, {2, adapters.get(), in.get(), &buffer, inner.get()});
  });
  bool good = std::equal(y.begin(), y.begin() + kOut, before.begin());
  for (std::size_t row = 0; row < kOut; ++row) {
    double sum = before[kOut + row];
    for (std::size_t r = 0; r < 3; ++r) {
      for (std::size_t i = 0; i < kIn; ++i)
        sum += 0.5 * own.b[row * 3 + r] * static_cast<double>(own.a[r * kIn + i]) * x[kIn + i];
    }
    good = good && near(y[kOut + row], sum);
  }
  return good;
}

bool all_reduce_matches(Device& device) {
  const std::vector<float> shards = numbers(30, 7);
  const std::vector<float> y = changed(device, shards, [&](Commands& commands, Buffer& buffer) {
    encode_all_reduce(device, commands, DType::kF32, ReduceOp::kMean, 3, 10, buffer, buffer);
  });
  bool good = true;
  for (std::size_t i = 0; i < 10; ++i)
    good = good && near(y[i], (static_cast<double>(shards[i]) + shards[10 + i] + shards[20 + i]) / 3);
  return good;
}

// The best two of four by softmax, in order.
bool moe_router_matches(Device& device) {
  const auto logits = device.allocate_with(std::vector<float>{1, 3, -2, 2});
  const auto ids = device.allocate(2 * sizeof(std::int32_t));
  RouterOptions options;
  options.experts = 4;
  options.chosen = 2;
  const std::vector<float> weights = changed(device, {0, 0}, [&](Commands& commands, Buffer& buffer) {
    encode_moe_router(device, commands, options, 1, *logits, {}, *ids, buffer);
  });
  std::vector<std::int32_t> chosen(2);
  ids->download(std::as_writable_bytes(std::span(chosen)));
  const double first = 1 / (1 + std::exp(-1.0));
  return chosen == std::vector<std::int32_t>{1, 3} && near(weights[0], first) && near(weights[1], 1 - first);
}

// Two tokens whose choices cross: to the experts and back, x twice over.
bool moe_dispatch_matches(Device& device) {
  const std::vector<float> x = numbers(12, 31);
  const auto ids = device.allocate_with(std::vector<std::int32_t>{2, 0, 0, 1});
  const auto weights = device.allocate_with(std::vector<float>{0.5F, 1.5F, 1.25F, 0.75F});
  const auto counts = device.allocate(3 * sizeof(std::int32_t));
  const auto offsets = device.allocate(4 * sizeof(std::int32_t));
  const auto order = device.allocate(4 * sizeof(std::int32_t));
  const auto places = device.allocate(4 * sizeof(std::int32_t));
  const auto rows = device.allocate(24 * sizeof(float));
  const MoeGroups groups{counts.get(), offsets.get(), order.get(), places.get()};
  const std::vector<float> y = changed(device, x, [&](Commands& commands, Buffer& buffer) {
    encode_moe_groups(device, commands, 3, 2, 2, *ids, groups);
    encode_moe_gather(device, commands, DType::kF32, 3, 2, 2, 6, buffer, groups, *rows);
    encode_moe_combine(device, commands, DType::kF32, 2, 2, 6, *rows, groups, *weights, false, buffer);
  });
  std::vector<std::int32_t> found(4);
  order->download(std::as_writable_bytes(std::span(found)));
  bool good = found == std::vector<std::int32_t>{1, 2, 3, 0};
  for (std::size_t i = 0; i < x.size(); ++i) good = good && near(y[i], 2.0 * x[i]);
  return good;
}

// Two experts of one format, each token's one: `tokens` of them, so that both ways of going
// about it can be asked for.
bool experts_match(Device& device, std::int64_t tokens, ThreadPool& pool) {
  const Matrix gate = make_matrix(Format::kFp4, pool);
  const Matrix down = make_matrix(Format::kFp4, pool);
  const Weight up{gate.packed.view(), nullptr};
  std::vector<float> transposed(down.decoded.size());  // [cols, rows] in f16
  std::vector<std::uint16_t> halves(transposed.size());
  for (std::size_t i = 0; i < transposed.size(); ++i) {
    halves[i] = f32_to_f16(down.decoded[i]);
    transposed[i] = f16_to_f32(halves[i]);
  }
  const Weight down_weight{DenseView{DType::kF16, {kCols, kRows}, std::as_bytes(std::span(halves))}, nullptr};
  const Experts experts(
      device, "experts.", 2, kCols, kRows,
      [&](std::int64_t, const char* projection) { return std::string_view(projection) == "down" ? down_weight : up; },
      pool);
  const ExpertsWorkspace workspace(device, tokens, 1, 2, kCols, kRows);
  const std::vector<float> x = numbers(tokens * kCols, 3);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
  for (std::size_t t = 0; t < ids.size(); ++t) ids[t] = static_cast<std::int32_t>(t % 2);
  const auto ids_buffer = device.allocate_with(ids);
  const auto weights = device.allocate_with(std::vector<float>(ids.size(), 2.0F));
  const auto x_buffer = device.allocate_with(x);
  const std::vector<float> y = changed(device, x, [&](Commands& commands, Buffer& buffer) {
    experts.encode(commands, {x_buffer.get(), ids_buffer.get(), weights.get(), &buffer, tokens, 1}, workspace);
  });
  bool good = true;
  for (std::size_t t = 0; t < ids.size(); t += 7) {
    std::vector<double> act(kRows);
    double largest = 0;
    for (std::size_t r = 0; r < kRows; ++r) {
      double sum = 0;
      for (std::size_t k = 0; k < kCols; ++k)
        sum += static_cast<double>(gate.decoded[r * kCols + k]) * x[t * kCols + k];
      act[r] = sum * sum / (1 + std::exp(-sum));
      largest = std::max(largest, std::fabs(act[r]));
    }
    for (std::size_t n = 0; n < kCols; ++n) {
      double sum = 0;
      double size = 0;
      for (std::size_t r = 0; r < kRows; ++r) {
        sum += 2 * transposed[n * kRows + r] * act[r];
        size += 2 * std::fabs(transposed[n * kRows + r]) * largest;
      }
      good = good && std::fabs(y[t * kCols + n] - sum) <= 0x1p-7 * size;
    }
  }
  return good;
}

// Two items: one matrix and its like.
bool batched_matches(Device& device, ThreadPool& pool) {
  const Matrix m = make_matrix(Format::kS4, pool);
  const std::vector<Weight> weights(2, Weight{m.packed.view(), nullptr});
  const MatrixStack stack(device, "w", weights, kRows, kCols, pool);
  const std::vector<float> x = numbers(2 * kCols, 21);
  const auto x_buffer = device.allocate_with(x);
  const LinearWorkspace workspace(device, 2, kCols, 1);
  const std::vector<float> y = changed(device, std::vector<float>(2 * kRows), [&](Commands& commands, Buffer& buffer) {
    BatchedCall call;
    call.x = x_buffer.get();
    call.x_stride = kCols;
    call.y = &buffer;
    call.y_stride = kRows;
    call.rows = 2;
    call.mode = Activations::kF32;
    encode_batched(device, commands, stack, call, workspace);
  });
  bool good = true;
  for (std::size_t i = 0; i < y.size(); ++i) {
    double sum = 0;
    double size = 0;
    for (std::size_t k = 0; k < kCols; ++k) {
      const double term = static_cast<double>(m.decoded[i % kRows * kCols + k]) * x[i / kRows * kCols + k];
      sum += term;
      size += std::fabs(term);
    }
    good = good && std::fabs(y[i] - sum) <= size * 0x1p-18;
  }
  return good;
}

// Weights of which every second is zero.
bool sparse_product_matches(Device& device, ThreadPool& pool) {
  const RowReader read = [](std::int64_t row, float* out) {
    for (std::int64_t k = 0; k < kCols; ++k) out[k] = (k + row) % 2 == 0 ? number(row * kCols + k) : 0.0F;
  };
  FormatSpec spec = default_spec(Format::kFp4);
  spec.sparse = true;
  const PackedMatrix packed = quantize_matrix(spec, kRows, kCols, read, 1, pool);
  const Linear linear(device, make_sparse_tiled_matrix(device, "w", packed.view(), pool));
  const LinearWorkspace workspace(device, 1, kCols, kRows);
  const std::vector<float> x = numbers(kCols, 8);
  const auto x_buffer = device.allocate_with(x);
  const std::vector<float> y = changed(device, std::vector<float>(kRows), [&](Commands& commands, Buffer& buffer) {
    linear.encode(commands, {x_buffer.get(), &buffer, DType::kF32, 1}, workspace);
  });
  bool good = true;
  std::vector<float> w(kCols);
  for (std::int64_t r = 0; r < kRows; ++r) {
    packed.view().decode_row(r, w.data());
    double sum = 0;
    double size = 0;
    for (std::size_t k = 0; k < w.size(); ++k) {
      sum += static_cast<double>(w[k]) * x[k];
      size += std::fabs(static_cast<double>(w[k]) * x[k]);
    }
    good = good && std::fabs(y[static_cast<std::size_t>(r)] - sum) <= size * 0x1.1p-10;
  }
  return good;
}

// Two tokens that cannot be told apart but by the penalty.
bool sampling_matches(Device& device) {
  const auto ids = device.allocate(sizeof(std::int32_t));
  const auto seen = device.allocate_with(std::vector<SeenToken>{{1, 1}});
  SamplerOptions options;
  options.presence_penalty = 1;
  SampleParams one = sample_params(options, 0);
  one.last_seen = 1;
  const auto params = device.allocate_with(std::vector<SampleParams>{one});
  const std::vector<float> probabilities = changed(device, {2, 5, 5}, [&](Commands& commands, Buffer& buffer) {
    encode_sample(device, commands, DType::kF32, {&buffer, 1, 3, params.get(), seen.get(), ids.get(), &buffer});
  });
  return probabilities == std::vector<float>{0, 0, 1};
}

// A row of two grey pixels as four: a bilinear filter's quarters.
bool vision_matches(Device& device) {
  const auto in = device.allocate_with(std::vector<std::uint8_t>{40, 200});
  const auto out = device.allocate(4);
  const ImageResize resize(device, ImageFilter::kBilinear, {1, 2, 1}, 1, 4);
  PatchOptions options;
  options.patch = 1;
  options.scale = 1;
  const std::vector<float> y = changed(device, std::vector<float>(4), [&](Commands& commands, Buffer& buffer) {
    resize.encode(commands, *in, *out);
    encode_image_patches(device, commands, DType::kF32, {1, 4, 1}, options, *out, buffer);
  });
  return y == std::vector<float>{40, 80, 160, 200};
}

// Every tile gives the exact product, or it is not offered.
bool tuned_matches(Device& device, ThreadPool& pool) {
  const Matrix m = make_matrix(Format::kFp4, pool);
  const Linear linear(device, "w", {m.packed.view(), nullptr}, kRows, kCols, pool);
  Autotuner tuner(device, TunedTiles({}));
  tuner.choose(linear, 5);
  return std::all_of(tuner.trials().begin(), tuner.trials().end(), [](const TunedTrial& t) { return t.right; });
}

bool gate_up_matches(Device& device, ThreadPool& pool) {
  const Matrix m = make_matrix(Format::kFp4, pool);
  const Linear linear(device, "w", {m.packed.view(), nullptr}, kRows, kCols, pool);
  const LinearWorkspace workspace(device, 1, kCols, kRows);
  const std::vector<float> x = numbers(kCols, 8);
  const auto x_buffer = device.allocate_with(x);
  const std::vector<float> y = changed(device, std::vector<float>(kRows), [&](Commands& commands, Buffer& buffer) {
    encode_gate_up(device, commands, linear, linear, {x_buffer.get(), &buffer, 1}, workspace);
    encode_shared_add(device, commands, 1, kRows, buffer, nullptr, buffer);
  });
  bool good = true;
  for (std::size_t r = 0; r < kRows; ++r) {
    double sum = 0;
    double size = 0;
    for (std::size_t k = 0; k < kCols; ++k) {
      sum += static_cast<double>(m.decoded[r * kCols + k]) * x[k];
      size += std::fabs(static_cast<double>(m.decoded[r * kCols + k]) * x[k]);
    }
    const double expected = 2 * sum * sum / (1 + std::exp(-sum));
    good = good && std::fabs(y[r] - expected) <= 0x1p-8 * size * (std::fabs(sum) + size * 0x1p-8);
  }
  return good;
}

// One token that sees itself alone: its value is what its latent expands to.
bool mla_matches(Device& device, ThreadPool& pool) {
  const LatentAttentionOp op{0, 0, 0, "n", 1e-6F, "w", 0, 2, 3, 4, 5, 8, 0.3F, true};
  const std::vector<float> expand = numbers(2 * (3 + 5) * 8, 13);
  const Weight weight{DenseView{DType::kF32, {16, 8}, std::as_bytes(std::span(expand))}, nullptr};
  const LatentAttention attention(device, op, weight, Activations::kF32, pool);
  const LatentWorkspace workspace(device, op, 1);
  const std::vector<float> latent = numbers(12, 4);
  const std::vector<float> norm = numbers(8, 40);
  const auto q = device.allocate_with(numbers(14, 70));
  const auto latent_buffer = device.allocate_with(latent);
  const auto norm_buffer = device.allocate_with(norm);
  const auto frequencies = device.allocate_with(std::vector<float>{1, 0.1F});
  const auto zero = device.allocate_with(std::vector<std::int32_t>{0});
  const auto cache = device.allocate(16 * 12 * sizeof(float));
  const std::vector<float> y = changed(device, std::vector<float>(10), [&](Commands& commands, Buffer& buffer) {
    LatentCall call;
    call.q = q.get();
    call.latent = latent_buffer.get();
    call.out = &buffer;
    call.tokens = 1;
    call.norm = norm_buffer.get();
    call.frequencies = frequencies.get();
    call.paged.keys = cache.get();
    call.paged.tables = call.paged.sequences = call.paged.positions = zero.get();
    call.table_stride = 1;
    attention.encode(commands, call, workspace);
  });
  double squares = 0;
  for (std::size_t r = 0; r < 8; ++r) squares += static_cast<double>(latent[r]) * latent[r];
  bool good = true;
  for (std::size_t i = 0; i < 10; ++i) {
    double sum = 0;
    for (std::size_t r = 0; r < 8; ++r) {
      sum += static_cast<double>(expand[(i / 5 * 8 + 3 + i % 5) * 8 + r]) * latent[r] / std::sqrt(squares / 8 + 1e-6) *
             norm[r];
    }
    good = good && near(y[i], sum);
  }
  return good;
}

// One step of RWKV-7 from a state of zeros: y = v (k r).
bool rwkv_matches(Device& device) {
  const std::vector<float> r = numbers(8, 1);
  const std::vector<float> k = numbers(8, 101);
  const std::vector<float> v = numbers(8, 201);
  const auto r_buffer = device.allocate_with(r);
  const auto k_buffer = device.allocate_with(k);
  const auto v_buffer = device.allocate_with(v);
  const auto state = device.allocate_with(std::vector<float>(64));
  const auto starts = device.allocate_with(std::vector<std::int32_t>{0, 1});
  const std::vector<float> y = changed(device, std::vector<float>(8), [&](Commands& commands, Buffer& buffer) {
    encode_wkv7(device, commands, DType::kF32, {1, 1, 8}, *r_buffer, *r_buffer, *k_buffer, *v_buffer, *r_buffer,
                *k_buffer, *state, buffer, *starts);
  });
  double product = 0;
  for (std::size_t j = 0; j < 8; ++j) product += static_cast<double>(k[j]) * r[j];
  bool good = true;
  for (std::size_t i = 0; i < 8; ++i) good = good && near(y[i], v[i] * product);
  return good;
}

// One query and two keys of ten elements (twice five for differential attention), values of
// ten: the second key's weight is a logistic function of the difference of the scores.
enum class PackedKind { kSteps, kFused, kTiles, kMatrixUnits, kDifferential };
bool packed_attention_matches(Device& device, PackedKind kind) {
  const bool differential = kind == PackedKind::kDifferential;
  const std::vector<float> k = numbers(20, 41);
  const std::vector<float> v = numbers(20, 141);
  const std::vector<float> q = numbers(10, 241);
  const auto keys = device.allocate_with(k);
  const auto values = device.allocate_with(v);
  const auto sequence = device.allocate_with(std::vector<std::int32_t>{0});
  const auto q_starts = device.allocate_with(std::vector<std::int32_t>{0, 1});
  const auto k_starts = device.allocate_with(std::vector<std::int32_t>{0, 2});
  const auto lambda = device.allocate_with(std::vector<float>{0.25F});
  const auto scores = device.allocate(2 * sizeof(float));
  std::array<std::unique_ptr<Buffer>, 4> halves;
  for (auto& buffer : halves) buffer = device.allocate(20 * sizeof(std::uint16_t));
  const std::uint32_t width = differential ? 5 : 10;
  const std::vector<float> y = changed(device, q, [&](Commands& commands, Buffer& buffer) {
    const PackedParams p{1, 1, width, 10, 1, 0, 0, 0, 0.5F, 0};
    const PackedBatch batch{
        1, &buffer, keys.get(), values.get(), &buffer, sequence.get(), q_starts.get(), k_starts.get(), 1};
    switch (kind) {
      case PackedKind::kSteps:
        return encode_attention(device, commands, p, DType::kF32, CacheType::kF32, batch, *scores, 2);
      case PackedKind::kFused: return encode_flash_attention(device, commands, p, DType::kF32, CacheType::kF32, batch);
      case PackedKind::kTiles:
        return encode_flash_attention_v2(device, commands, p, DType::kF32, CacheType::kF32, batch);
      case PackedKind::kMatrixUnits: {
        const std::array<Buffer*, 4> numbers{&buffer, keys.get(), values.get(), &buffer};
        for (std::size_t i = 0; i < 3; ++i)
          encode_bf16_convert(device, commands, DType::kF32, DType::kBf16, i == 0 ? 10 : 20, *numbers[i], *halves[i]);
        PackedBatch narrow = batch;
        narrow.q = halves[0].get();
        narrow.keys = halves[1].get();
        narrow.values = halves[2].get();
        narrow.out = halves[3].get();
        encode_simdgroup_attention(device, commands, p, DType::kBf16, narrow);
        return encode_bf16_convert(device, commands, DType::kBf16, DType::kF32, 10, *halves[3], buffer);
      }
      case PackedKind::kDifferential:
        return encode_diff_attention(device, commands, p, DType::kF32, batch, {lambda.get(), nullptr, 0, 1});
    }
  });
  const auto second = [&](std::size_t offset) {
    double difference = 0;
    for (std::size_t e = offset; e < offset + width; ++e)
      difference += 0.5 * q[e] * (static_cast<double>(k[10 + e]) - k[e]);
    return 1 / (1 + std::exp(-difference));
  };
  bool good = true;
  for (std::size_t e = 0; e < 10; ++e) {
    double expected = v[e] + second(0) * (v[10 + e] - v[e]);
    if (differential) expected -= 0.25 * (v[e] + second(5) * (v[10 + e] - v[e]));
    // bf16 has 8 bits, in queries, keys, values and weights.
    good = good && (kind == PackedKind::kMatrixUnits ? std::fabs(y[e] - expected) < 0.06 : near(y[e], expected));
  }
  return good;
}

// 2:4 of eight weights: there and back.
bool sparse_matches(Device& device) {
  const SparseMatrix matrix = make_sparse_matrix(device, {2, 4}, DType::kF32, 1, 8);
  const std::vector<float> y = changed(device, {1, -4, 2, 3, 0, 5, 0, -6}, [&](Commands& commands, Buffer& buffer) {
    encode_sparse_compress(device, commands, buffer, matrix);
    encode_sparse_decompress(device, commands, matrix, buffer);
  });
  return y == std::vector<float>{0, -4, 0, 3, 0, 5, 0, -6};
}

// 1 + 2^-8 lies halfway: to even, down; 1 + 3 2^-8 up.
bool bf16_matches(Device& device) {
  const std::vector<float> x = {1 + 0x1p-8F, 1 + 3 * 0x1p-8F};
  const auto bits = device.allocate(2 * sizeof(std::uint16_t));
  const std::vector<float> y = changed(device, x, [&](Commands& commands, Buffer& buffer) {
    encode_bf16_convert(device, commands, DType::kF32, DType::kBf16, 2, buffer, *bits);
    encode_bf16_convert(device, commands, DType::kBf16, DType::kF32, 2, *bits, buffer);
  });
  return y == std::vector<float>{1, 1 + 0x1p-6F};
}

}  // namespace

std::vector<ShaderStatus> self_test(Device& device) {
  ThreadPool pool(1);
  const std::map<std::string_view, std::function<bool()>> tests = {
      {"all_reduce", [&] { return all_reduce_matches(device); }},
      {"attention", [&] { return packed_attention_matches(device, PackedKind::kSteps); }},
      {"batched_gemm", [&] { return batched_matches(device, pool); }},
      {"bf16_compat", [&] { return bf16_matches(device); }},
      {"decode_gemv", [&] { return products_match(device, Format::kFp4, 3, Activations::kInt8, pool); }},
      {"dense_gemm", [&] { return dense_matches(device, pool); }},
      {"dequant", [&] { return dequantized_matches(device, Format::kFp4, pool); }},
      {"dequant_fp8", [&] { return dequantized_matches(device, Format::kFp8E4M3, pool); }},
      {"dequant_int8", [&] { return dequantized_matches(device, Format::kInt8, pool); }},
      {"dequant_sub4bit", [&] { return dequantized_matches(device, Format::kInt3, pool); }},
      {"diff_attention", [&] { return packed_attention_matches(device, PackedKind::kDifferential); }},
      {"flash_attention", [&] { return packed_attention_matches(device, PackedKind::kFused); }},
      {"flash_attention_v2", [&] { return packed_attention_matches(device, PackedKind::kTiles); }},
      {"gemm_epilogue", [&] { return epilogue_matches(device); }},
      {"gemm_fp4_optimized", [&] { return products_match(device, Format::kFp4, 130, Activations::kInt8, pool); }},
      {"hadamard", [&] { return hadamard_matches(device); }},
      {"kernels_autotune", [&] { return tuned_matches(device, pool); }},
      {"low_rank", [&] { return low_rank_matches(device); }},
      {"marlin_gemm", [&] { return products_match(device, Format::kS4, 40, Activations::kInt8, pool); }},
      {"mla_proj", [&] { return mla_matches(device, pool); }},
      {"moe_dispatch", [&] { return moe_dispatch_matches(device); }},
      {"moe_dispatch_optimized", [&] { return experts_match(device, 3, pool); }},
      {"moe_expert_gemm", [&] { return experts_match(device, Experts::kFewAssignments + 8, pool); }},
      {"moe_router", [&] { return moe_router_matches(device); }},
      {"moe_shared_expert", [&] { return gate_up_matches(device, pool); }},
      {"paged_attention", [&] { return paged_attention_matches(device); }},
      {"rope", [&] { return rope_matches(device); }},
      {"rwkv_wkv", [&] { return rwkv_matches(device); }},
      {"sampling", [&] { return sampling_matches(device); }},
      {"simdgroup_attention", [&] { return packed_attention_matches(device, PackedKind::kMatrixUnits); }},
      {"sparse", [&] { return sparse_matches(device); }},
      {"sparse_gemm", [&] { return sparse_product_matches(device, pool); }},
      {"vision_preprocess", [&] { return vision_matches(device); }},
  };
  std::vector<ShaderStatus> out;
  for (const EmbeddedShader& shader : embedded_shaders()) {
    ShaderStatus status;
    status.shader = shader.name;
    status.kernels = shader.library->kernel_count;
    const auto test = tests.find(shader.name);
    try {
      if (test == tests.end()) throw Error(ErrorCode::kInternal, "no test of this shader");
      status.matched = test->second();
      status.executed = true;
      if (!status.matched) status.fault = "results differ from the reference";
    } catch (const Error& error) {
      status.fault = error.what();
    }
    out.push_back(std::move(status));
  }
  return out;
}

}  // namespace metal_marlin::msl
