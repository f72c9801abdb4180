// Every attention over packed sequences on every executor against softmaxes in double: ragged
// batches, groups of heads, causal to the end of the keys, windows, masks, caps, sinks, blocks.
#include "backends/msl/packed_attention.h"

#include <cmath>
#include <random>

#include "backends/linear_cases.h"
#include "backends/msl/cache_reference.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "io/safetensors.h"
#include "metal_marlin/error.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class PackedAttention : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, PackedAttention, testing::ValuesIn(executors()), executor_name);

// Queries and keys of each sequence; the last has more queries than keys.
using Lengths = std::vector<std::pair<std::size_t, std::size_t>>;
const Lengths kLengths = {{1, 40}, {5, 5}, {3, 70}, {4, 2}};
// For tiles of queries: with many of them.
const Lengths kLongLengths = {{70, 70}, {1, 40}, {18, 33}, {4, 2}};

struct PackedCase {
  PackedParams params;
  bool mask;
  bool sinks;
  DType type;
  CacheType cache;
};

// Keys or values: what a cache keeps of them.
struct Rows {
  Rows(std::size_t count, std::size_t row_width, const PackedCase& c, unsigned seed)
      : cache(c.cache), width(row_width), source(TypedData(c.type, normal_data(count * row_width, seed)).values) {
    for (std::size_t row = 0; row < count; ++row) {
      const auto begin = source.begin() + static_cast<std::ptrdiff_t>(row * width);
      const std::vector<float> kept = cached_row(cache, {begin, begin + static_cast<std::ptrdiff_t>(width)});
      values.insert(values.end(), kept.begin(), kept.end());
    }
  }
  // Stored by the device itself.
  [[nodiscard]] std::unique_ptr<Buffer> on(Device& device) const {
    const auto x = device.allocate_with(source);
    auto out = device.allocate(source.size() / width * cache_row_bytes(cache, static_cast<std::int64_t>(width)));
    const auto commands = device.commands();
    encode_store_rows(device, *commands, cache, static_cast<std::int64_t>(source.size() / width),
                      static_cast<std::int64_t>(width), *x, *out);
    commands->commit();
    commands->wait();
    return out;
  }
  CacheType cache;
  std::size_t width;
  std::vector<float> source;
  std::vector<float> values;
};

// The batch of a test: `twice` queries and keys a head.
class TestBatch {
 public:
  TestBatch(Device& device, const PackedCase& c, std::size_t twice, const Lengths& some = kLengths)
      : lengths(some),
        p(c.params),
        q(c.type, normal_data(queries() * p.heads * p.key_width * twice, 1)),
        keys(count_keys() * p.kv_heads, p.key_width * twice, c, 2),
        values(count_keys() * p.kv_heads, p.value_width, c, 3),
        mask(normal_data(queries() * 70, 4)),
        sinks(normal_data(p.heads, 5)) {
    std::vector<std::int32_t> sequences;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      sequences.insert(sequences.end(), lengths[s].first, static_cast<std::int32_t>(s));
      q_starts.push_back(q_starts.back() + static_cast<std::int32_t>(lengths[s].first));
      k_starts.push_back(k_starts.back() + static_cast<std::int32_t>(lengths[s].second));
    }
    for (std::size_t i = 0; i < mask.size(); i += 3) mask[i] = -INFINITY;
    std::fill_n(mask.begin() + 70, 70, -INFINITY);  // a query that sees nothing
    if (c.mask) p.mask_stride = 70;
    sequences_ = sequences;
    buffers_.push_back(device.allocate_with(q.bytes));
    buffers_.push_back(keys.on(device));
    buffers_.push_back(values.on(device));
    buffers_.push_back(device.allocate(queries() * p.heads * p.value_width * q.size()));
    for (const auto* const numbers : {&sequences, &q_starts, &k_starts})
      buffers_.push_back(device.allocate_with(*numbers));
    buffers_.push_back(device.allocate_with(mask));
    buffers_.push_back(device.allocate_with(sinks));
    batch.queries = static_cast<std::int64_t>(queries());
    batch.sequence_count = static_cast<std::int64_t>(lengths.size());
    Buffer** const places[] = {&batch.q,        &batch.keys,     &batch.values, &batch.out,  &batch.sequences,
                               &batch.q_starts, &batch.k_starts, &batch.mask,   &batch.sinks};
    for (std::size_t i = 0; i < buffers_.size(); ++i) *places[i] = buffers_[i].get();
    if (!c.mask) batch.mask = nullptr;
    if (!c.sinks) batch.sinks = nullptr;
  }
  [[nodiscard]] std::size_t queries() const {
    std::size_t n = 0;
    for (const auto& length : lengths) n += length.first;
    return n;
  }
  [[nodiscard]] std::size_t count_keys() const {
    std::size_t n = 0;
    for (const auto& length : lengths) n += length.second;
    return n;
  }

  // One softmax: q and k from `offset` on in heads of `width`.
  [[nodiscard]] std::vector<double> answer(std::size_t token, std::size_t head, std::size_t width,
                                           std::size_t offset) const {
    const auto s = static_cast<std::size_t>(sequences_[token]);
    const auto first = static_cast<std::size_t>(k_starts[s]);
    const auto count = static_cast<std::int64_t>(lengths[s].second);
    const std::int64_t i = static_cast<std::int64_t>(token) - q_starts[s];
    std::int64_t end = count;
    if (p.causal != 0) end = std::max<std::int64_t>(0, count - static_cast<std::int64_t>(lengths[s].first) + i + 1);
    const std::int64_t begin = p.window != 0 ? std::max<std::int64_t>(0, end - p.window) : 0;
    const std::size_t kv = head / (p.heads / p.kv_heads);
    std::vector<double> scores;
    double top = batch.sinks != nullptr ? sinks[head] : -INFINITY;
    for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
      double score = 0;
      for (std::size_t e = 0; e < p.key_width; ++e) {
        score += static_cast<double>(q.values[(token * p.heads + head) * width + offset + e]) *
                 keys.values[((first + k) * p.kv_heads + kv) * width + offset + e];
      }
      score *= p.scale;
      if (p.soft_cap != 0) score = p.soft_cap * std::tanh(score / p.soft_cap);
      if (batch.mask != nullptr) score += mask[token * 70 + k];
      if (blocks.map != nullptr &&
          block_map[static_cast<std::size_t>(i) / blocks.size * blocks.stride + k / blocks.size] == 0) {
        score = -INFINITY;
      }
      scores.push_back(score);
      top = std::max(top, score);
    }
    std::vector<double> out(p.value_width, 0);
    if (top == -INFINITY) return out;
    double total = batch.sinks != nullptr ? std::exp(sinks[head] - top) : 0;
    for (std::size_t n = 0; n < scores.size(); ++n) {
      const double weight = std::exp(scores[n] - top);
      total += weight;
      const std::size_t row = ((first + static_cast<std::size_t>(begin) + n) * p.kv_heads + kv) * p.value_width;
      for (std::size_t e = 0; e < p.value_width; ++e) out[e] += weight * values.values[row + e];
    }
    for (double& v : out) v /= total;
    return out;
  }

  // Blocks of `size` in a checkered order, their diagonal kept.
  void make_blocks(Device& device, std::uint32_t size) {
    blocks.size = size;
    blocks.stride = (70 + size - 1) / size;
    std::vector<std::uint8_t> map(std::size_t{blocks.stride} * blocks.stride);
    for (std::size_t i = 0; i < map.size(); ++i) {
      const std::size_t row = i / blocks.stride;
      const std::size_t column = i % blocks.stride;
      map[i] = row == column || (row + 2 * column) % 3 == 0 ? 1 : 0;
    }
    block_map = map;
    buffers_.push_back(device.allocate_with(map));
    blocks.map = buffers_.back().get();
  }

  Lengths lengths;
  AttentionBlocks blocks;
  std::vector<std::uint8_t> block_map;
  PackedParams p;
  TypedData q;
  Rows keys;
  Rows values;
  std::vector<float> mask;
  std::vector<float> sinks;
  std::vector<std::int32_t> q_starts = {0};
  std::vector<std::int32_t> k_starts = {0};
  PackedBatch batch;

 private:
  std::vector<std::int32_t> sequences_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// Scores are sums of f32 products: a weight moves by as much as its score.
double tolerance(const PackedParams& p, double expected, double unit) {
  return static_cast<double>(p.key_width) * 0x1p-21 * p.scale * 4 + 0x1p-17 + std::fabs(expected) * unit;
}

PackedParams params(std::uint32_t heads, std::uint32_t kv_heads, std::uint32_t key_width, std::uint32_t value_width,
                    bool causal, std::uint32_t window, float soft_cap) {
  return {heads,
          kv_heads,
          key_width,
          value_width,
          causal ? 1U : 0U,
          window,
          0,
          0,
          static_cast<float>(1 / std::sqrt(static_cast<double>(key_width))),
          soft_cap};
}

// What `encode` makes of the batch; `unit`: of the products' inputs.
template <typename Encode>
void check(const TestBatch& b, DType type, double unit, const Encode& encode) {
  encode();
  const TypedData found(type, *b.batch.out);
  for (std::size_t token = 0; token < b.queries(); ++token) {
    for (std::size_t h = 0; h < b.p.heads; ++h) {
      const std::vector<double> expected = b.answer(token, h, b.p.key_width, 0);
      for (std::size_t e = 0; e < b.p.value_width; ++e) {
        ASSERT_NEAR(found.values[(token * b.p.heads + h) * b.p.value_width + e], expected[e],
                    tolerance(b.p, expected[e], found.unit()) + unit * 4)
            << "width " << b.p.key_width << " token " << token << " head " << h << " element " << e;
      }
    }
  }
}

std::vector<PackedCase> fused_cases() {
  return {
      {params(4, 2, 64, 64, true, 0, 0), false, false, DType::kF32, CacheType::kF32},
      {params(2, 2, 80, 96, false, 0, 0), true, false, DType::kF32, CacheType::kF16},
      {params(3, 1, 128, 128, true, 6, 0), false, true, DType::kF32, CacheType::kBf16},
      {params(2, 1, 192, 128, true, 0, 15), true, true, DType::kF16, CacheType::kF16},
      {params(1, 1, 256, 256, true, 0, 0), false, false, DType::kBf16, CacheType::kBf16},
      {params(2, 2, 5, 3, false, 0, 0), false, false, DType::kF32, CacheType::kF32},
      {params(2, 1, 576, 512, true, 0, 0), false, false, DType::kF32, CacheType::kF16},
      {params(2, 2, 64, 80, true, 0, 0), false, true, DType::kF32, CacheType::kInt8},
      {params(4, 1, 112, 50, false, 0, 0), true, false, DType::kF32, CacheType::kInt4},
      {params(2, 1, 37, 37, true, 9, 0), false, false, DType::kF32, CacheType::kFp8},
      {params(1, 1, 128, 128, true, 0, 8), false, false, DType::kF32, CacheType::kFp4},
  };
}

TEST_P(PackedAttention, Fused) {
  for (const PackedCase& c : fused_cases()) {
    const TestBatch b(*device, c, 1);
    check(b, c.type, 0, [&] {
      run([&](Commands& commands) { encode_flash_attention(*device, commands, b.p, c.type, c.cache, b.batch); });
    });
  }
}

TEST_P(PackedAttention, InThreeSteps) {
  for (const PackedCase& c : fused_cases()) {
    const TestBatch b(*device, c, 1);
    const auto scores = device->allocate(b.queries() * b.p.heads * 71 * sizeof(float));
    check(b, c.type, 0, [&] {
      run([&](Commands& commands) { encode_attention(*device, commands, b.p, c.type, c.cache, b.batch, *scores, 71); });
    });
  }
}

// More keys than a threadgroup has threads.
TEST_P(PackedAttention, ManyKeys) {
  const Lengths lengths = {{2, 300}, {1, 129}};
  const PackedCase c{params(2, 1, 16, 16, true, 0, 0), false, true, DType::kF32, CacheType::kF32};
  const TestBatch b(*device, c, 1, lengths);
  const auto scores = device->allocate(b.queries() * b.p.heads * 300 * sizeof(float));
  check(b, c.type, 0, [&] {
    run([&](Commands& commands) { encode_attention(*device, commands, b.p, c.type, c.cache, b.batch, *scores, 300); });
  });
  check(b, c.type, 0, [&] {
    run([&](Commands& commands) { encode_flash_attention(*device, commands, b.p, c.type, c.cache, b.batch); });
  });
}

TEST_P(PackedAttention, TilesOfQueries) {
  for (const PackedCase& c : fused_cases()) {
    for (const std::uint32_t block : {0U, 16U, 24U}) {
      if (few_shapes() && block == 16) continue;
      TestBatch b(*device, c, 1, kLongLengths);
      if (block != 0) b.make_blocks(*device, block);
      check(b, c.type, 0, [&] {
        run([&](Commands& commands) {
          encode_flash_attention_v2(*device, commands, b.p, c.type, c.cache, b.batch, b.blocks);
        });
      });
    }
  }
}

TEST_P(PackedAttention, OnTheMatrixUnits) {
  for (const DType type : {DType::kF16, DType::kBf16}) {
    const CacheType cache = type == DType::kF16 ? CacheType::kF16 : CacheType::kBf16;
    const std::vector<PackedCase> cases = {
        {params(4, 2, 64, 64, true, 0, 0), false, false, type, cache},
        {params(2, 2, 80, 96, false, 0, 0), true, false, type, cache},
        {params(3, 1, 128, 128, true, 6, 0), false, true, type, cache},
        {params(2, 1, 192, 128, true, 0, 15), true, true, type, cache},
        {params(2, 2, 5, 3, false, 0, 0), false, false, type, cache},
        {params(2, 1, 67, 131, true, 0, 0), false, true, type, cache},
        {params(1, 1, 129, 192, false, 0, 0), false, false, type, cache},
        // A tile of keys that all queries are past, but that the newest see only in part.
        {params(1, 1, 16, 16, true, 60, 0), false, false, type, cache},
    };
    for (const PackedCase& c : cases) {
      for (const std::uint32_t block : {0U, 24U}) {
        if (few_shapes() && (block != 0) != (c.params.key_width == 80)) continue;
        TestBatch b(*device, c, 1, kLongLengths);
        if (block != 0) b.make_blocks(*device, block);
        // Weights are rounded to the type before they multiply values, whose size is 1 or so.
        check(b, type, type == DType::kF16 ? 0x1p-11 : 0x1p-8, [&] {
          run([&](Commands& commands) { encode_simdgroup_attention(*device, commands, b.p, type, b.batch, b.blocks); });
        });
      }
    }
  }
}

TEST(StagedPackedAttention, HasNoRaces) {
  const auto device = staging_device();
  for (const PackedCase& c :
       {PackedCase{params(4, 2, 64, 64, true, 0, 0), false, false, DType::kF16, CacheType::kF16},
        PackedCase{params(2, 2, 80, 96, false, 0, 0), true, true, DType::kBf16, CacheType::kBf16},
        PackedCase{params(1, 1, 192, 140, true, 0, 0), false, false, DType::kF16, CacheType::kF16}}) {
    const TestBatch b(*device, c, 1, kLongLengths);
    check(b, c.type, c.type == DType::kF16 ? 0x1p-11 : 0x1p-8, [&] {
      const auto commands = device->commands();
      encode_simdgroup_attention(*device, *commands, b.p, c.type, b.batch, b.blocks);
      commands->commit();
      commands->wait();
    });
  }
}

// Widths about those of tiles and groups, few and many keys and heads, drawn at random.
TEST_P(PackedAttention, RandomShapes) {
  std::mt19937 generator(9);
  const auto one_of = [&](const std::vector<std::uint32_t>& sizes) { return sizes[generator() % sizes.size()]; };
  const int count = few_shapes() ? 6 : 20;
  for (int i = 0; i < count; ++i) {
    const std::uint32_t kv_heads = one_of({1, 2, 3});
    const bool causal = one_of({0, 1}) != 0;
    const bool halves = one_of({0, 1}) != 0;
    const DType type = halves ? (one_of({0, 1}) != 0 ? DType::kF16 : DType::kBf16) : DType::kF32;
    const CacheType caches[] = {CacheType::kF32,  CacheType::kF16,  CacheType::kBf16, CacheType::kFp8,
                                CacheType::kInt8, CacheType::kInt4, CacheType::kFp4};
    const CacheType cache =
        halves ? (type == DType::kF16 ? CacheType::kF16 : CacheType::kBf16) : caches[generator() % 7];
    const PackedCase c{
        params(kv_heads * one_of({1, 2, 5}), kv_heads, one_of({1, 2, 7, 8, 16, 31, 32, 33, 64, 65, 129, 192}),
               one_of({1, 2, 7, 8, 16, 31, 32, 33, 64, 65, 129, 192}), causal, causal ? one_of({0, 1, 2, 8, 33}) : 0,
               static_cast<float>(one_of({0, 0, 9}))),
        one_of({0, 1}) != 0, one_of({0, 1}) != 0, type, cache};
    Lengths lengths;
    for (std::uint32_t n = one_of({2, 3}); n > 0; --n)
      lengths.emplace_back(one_of({0, 1, 2, 7, 8, 9, 16, 17, 33}), one_of({0, 1, 2, 15, 16, 17, 32, 33, 64, 65, 70}));
    lengths.emplace_back(2, 1);
    const TestBatch b(*device, c, 1, lengths);
    const auto scores = device->allocate(b.queries() * b.p.heads * 71 * sizeof(float));
    check(b, c.type, 0, [&] {
      run([&](Commands& commands) { encode_flash_attention(*device, commands, b.p, c.type, c.cache, b.batch); });
    });
    check(b, c.type, 0, [&] {
      run([&](Commands& commands) { encode_attention(*device, commands, b.p, c.type, c.cache, b.batch, *scores, 71); });
    });
    check(b, c.type, 0, [&] {
      run([&](Commands& commands) {
        encode_flash_attention_v2(*device, commands, b.p, c.type, c.cache, b.batch, b.blocks);
      });
    });
    if (!halves) continue;
    check(b, type, type == DType::kF16 ? 0x1p-11 : 0x1p-8, [&] {
      run([&](Commands& commands) { encode_simdgroup_attention(*device, commands, b.p, type, b.batch, b.blocks); });
    });
  }
}

TEST_P(PackedAttention, Differential) {
  for (const bool normed : {true, false}) {
    for (const PackedCase& c :
         {PackedCase{params(4, 2, 32, 64, true, 0, 0), false, false, DType::kF32, CacheType::kF32},
          PackedCase{params(2, 1, 40, 80, false, 0, 0), false, false, DType::kF16, CacheType::kF16},
          PackedCase{params(2, 2, 128, 256, true, 7, 0), false, false, DType::kBf16, CacheType::kBf16}}) {
      const TestBatch b(*device, c, 2);
      const auto lambdas = normal_data(b.p.heads, 8);
      const auto weight = normal_data(b.p.value_width, 9);
      const auto lambda_buffer = device->allocate_with(lambdas);
      const auto weight_buffer = device->allocate_with(weight);
      const DiffOptions options{lambda_buffer.get(), normed ? weight_buffer.get() : nullptr, 1e-5F, 0.2F};
      run([&](Commands& commands) { encode_diff_attention(*device, commands, b.p, c.type, b.batch, options); });
      const TypedData found(c.type, *b.batch.out);
      for (std::size_t token = 0; token < b.queries(); ++token) {
        for (std::size_t h = 0; h < b.p.heads; ++h) {
          std::vector<double> expected = b.answer(token, h, std::size_t{2} * b.p.key_width, 0);
          const std::vector<double> second = b.answer(token, h, std::size_t{2} * b.p.key_width, b.p.key_width);
          double squares = 0;
          for (std::size_t e = 0; e < expected.size(); ++e) {
            expected[e] -= lambdas[h] * second[e];
            squares += expected[e] * expected[e];
          }
          const double scale = normed ? 0.2 / std::sqrt(squares / static_cast<double>(expected.size()) + 1e-5) : 1;
          for (std::size_t e = 0; e < expected.size(); ++e) {
            const double v = expected[e] * scale * (normed ? weight[e] : 1);
            ASSERT_NEAR(found.values[(token * b.p.heads + h) * b.p.value_width + e], v,
                        tolerance(b.p, v, found.unit()) * (1 + std::fabs(lambdas[h])) *
                            (1 + scale * (normed ? std::fabs(weight[e]) : 1)))
                << "width " << b.p.key_width << " token " << token << " head " << h << " element " << e;
          }
        }
      }
    }
  }
}

// What transformers' DiffLlama gives (tools/make_formula_vectors.py).
TEST_P(PackedAttention, DifferentialAsAPublicImplementation) {
  const SafetensorsFile file(test_data("formulas.safetensors"));
  const auto golden = [&](const char* name) { return read_tensor<float>(file, std::string("diff.") + name); };
  PackedParams p = params(4, 2, 16, 32, true, 0, 0);
  p.scale = 0.25F;
  const std::vector<float> expected = golden("y");
  std::vector<std::unique_ptr<Buffer>> in;
  for (const char* const name : {"q", "k", "v", "lambdas"}) in.push_back(device->allocate_with(golden(name)));
  const auto out = device->allocate(expected.size() * sizeof(float));
  const auto sequences = device->allocate_with(std::vector<std::int32_t>(9, 0));
  const auto starts = device->allocate_with(std::vector<std::int32_t>{0, 9});
  const auto ones = device->allocate_with(std::vector<float>(32, 1.0F));
  PackedBatch batch;
  batch.q = in[0].get();
  batch.keys = in[1].get();
  batch.values = in[2].get();
  batch.out = out.get();
  batch.sequences = sequences.get();
  batch.q_starts = batch.k_starts = starts.get();
  batch.queries = 9;
  batch.sequence_count = 1;
  const DiffOptions options{in[3].get(), ones.get(), 1e-5F, golden("factor")[0]};
  run([&](Commands& commands) { encode_diff_attention(*device, commands, p, DType::kF32, batch, options); });
  const TypedData found(DType::kF32, *out);
  for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(found.values[i], expected[i], 2e-5) << i;
}

TEST_P(PackedAttention, RefusesWhatItCannotDo) {
  const TestBatch b(*device, {params(2, 2, 8, 8, true, 0, 0), false, false, DType::kF32, CacheType::kF32}, 1);
  const auto commands = device->commands();
  const auto encode = [&](const PackedParams& p) {
    encode_flash_attention(*device, *commands, p, DType::kF32, CacheType::kF32, b.batch);
  };
  EXPECT_THROW(encode(params(3, 2, 8, 8, true, 0, 0)), Error);
  EXPECT_THROW(encode(params(2, 2, 641, 8, true, 0, 0)), Error);
  EXPECT_THROW(encode(params(2, 2, 8, 8, false, 4, 0)), Error);
  expect_error(ErrorCode::kUnsupported, "simdgroup_attention: data of F32",
               [&] { encode_simdgroup_attention(*device, *commands, b.p, DType::kF32, b.batch); });
  expect_error(ErrorCode::kUnsupported, "heads of 200 and 8, expected 1 to 192", [&] {
    encode_simdgroup_attention(*device, *commands, params(2, 2, 200, 8, true, 0, 0), DType::kF16, b.batch);
  });
  PackedBatch unknown = b.batch;
  unknown.sequence_count = 0;
  expect_error(ErrorCode::kInvalidArgument, "flash_attention_v2: 0 sequences",
               [&] { encode_flash_attention_v2(*device, *commands, b.p, DType::kF32, CacheType::kF32, unknown); });
}

}  // namespace
}  // namespace metal_marlin::msl
