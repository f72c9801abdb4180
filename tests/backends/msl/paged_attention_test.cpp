// Paged attention on every executor against a softmax in double: ragged batches of
// prefill chunks and decodes, pages out of order and of every size, groups of heads, windows,
// caps, sinks, keys cut into splits, every kind of cache, latents.
#include "backends/msl/paged_attention.h"

#include <cmath>
#include <random>

#include "backends/linear_cases.h"
#include "backends/msl/attention_reference.h"
#include "backends/msl/cache_reference.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class PagedAttention : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, PagedAttention, testing::ValuesIn(executors()), executor_name);

struct PagedCase {
  std::uint32_t heads;
  std::uint32_t kv_heads;
  std::uint32_t key_dim;
  std::uint32_t value_dim;
  bool latent;
  std::uint32_t page_shift;
  std::uint32_t splits;
  std::uint32_t window;
  float soft_cap;
  bool sinks;
  DType type;
  CacheType cache;
  bool rounded = false;  // queries may be
  [[nodiscard]] std::size_t page() const { return std::size_t{1} << page_shift; }
};

constexpr CacheType kCaches[] = {CacheType::kF32,  CacheType::kF16,  CacheType::kBf16, CacheType::kFp8,
                                 CacheType::kInt8, CacheType::kInt4, CacheType::kFp4};

// Sequences that hold `past` tokens and get `count` new ones.
struct Length {
  std::size_t past;
  std::size_t count;
};

// The batch of a test, on the host and on the device.
class PagedFixture {
 public:
  PagedFixture(Device& device, const PagedCase& c, const std::vector<Length>& lengths)
      : device_(device), case_(c), lengths_(lengths) {
    std::size_t pages = 0;
    for (const Length& l : lengths) {
      tokens_ += l.count;
      longest_ = std::max(longest_, pages_of(l));
      pages += pages_of(l);
    }
    p_.heads = c.heads;
    p_.kv_heads = c.kv_heads;
    p_.key_dim = c.key_dim;
    p_.value_dim = c.value_dim;
    p_.latent = c.latent ? 1 : 0;
    p_.page_shift = c.page_shift;
    p_.table_stride = static_cast<std::uint32_t>(longest_);
    p_.q_stride = c.heads * c.key_dim + 2;  // rows may lie apart
    p_.k_stride = c.kv_heads * c.key_dim + 1;
    p_.v_stride = c.kv_heads * c.value_dim + 1;
    p_.out_stride = c.heads * c.value_dim;
    p_.window = c.window;
    p_.splits = c.splits;
    p_.split_keys = 5;
    p_.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.key_dim)));
    p_.soft_cap = c.soft_cap;
    p_.rounded = c.rounded ? 1 : 0;
    const std::size_t rows = (pages + 1) * c.kv_heads * c.page();
    // Nobody reads what was not stored: numbers and scales of all ones are NaN.
    const auto nothing = [&](std::uint32_t width) {
      return device.allocate_with(std::vector<std::byte>(rows * cache_row_bytes(c.cache, width), std::byte{0xFF}));
    };
    keys_ = nothing(c.key_dim);
    values_ = nothing(c.value_dim);
    partial_ = device.allocate(std::max<std::size_t>(paged_partial_bytes(p_, static_cast<std::int64_t>(tokens_)), 4));
    std::vector<std::int32_t> tables(lengths.size() * longest_, -1);
    auto next = static_cast<std::int32_t>(pages);  // handed out from the back
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (std::size_t i = 0; i < pages_of(lengths[s]); ++i) tables[s * longest_ + i] = next--;
    }
    tables_ = device.allocate_with(tables);
    sink_values_ = normal_data(c.heads, 77);
    sinks_ = device.allocate_with(sink_values_);
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      const std::size_t n = (lengths[s].past + lengths[s].count) * c.kv_heads;
      k_.push_back(normal_data(n * c.key_dim, static_cast<unsigned>(10 + s)));
      v_.push_back(normal_data(n * c.value_dim, static_cast<unsigned>(20 + s)));
    }
  }

  // First the past, then the new tokens and their queries, by tokens or by tiles of them.
  void run(bool tiles = false) {
    store(true);
    store(false);
    const TypedData q(case_.type, normal_data(tokens_ * p_.q_stride, 3));
    q_ = q.values;
    const auto q_buffer = device_.allocate_with(q.bytes);
    const auto out = device_.allocate(tokens_ * p_.out_stride * q.size());
    const auto commands = device_.commands();
    const auto tokens = static_cast<std::int64_t>(tokens_);
    const auto q_starts = starts([](const Length& l) { return l.count; });
    const auto k_starts = starts([](const Length& l) { return l.past + l.count; });
    if (tiles) {
      encode_paged_tiles(device_, *commands, p_, case_.cache, tokens, *q_buffer, *out, buffers(),
                         {static_cast<std::int64_t>(lengths_.size()), q_starts.get(), k_starts.get()});
    } else {
      encode_paged_attention(device_, *commands, p_, case_.type, case_.cache, tokens, *q_buffer, *out, buffers());
    }
    commands->commit();
    commands->wait();
    out_ = TypedData(case_.type, *out).values;
  }

  void check() const {
    const double unit = TypedData(case_.type, std::vector<float>()).unit();
    std::size_t token = 0;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      for (std::size_t i = 0; i < lengths_[s].count; ++i, ++token) {
        const std::size_t end = lengths_[s].past + i + 1;
        const std::size_t begin = case_.window != 0 && end > case_.window ? end - case_.window : 0;
        for (std::size_t h = 0; h < case_.heads; ++h) check_head(s, token, h, begin, end, unit);
      }
    }
  }

 private:
  template <typename CountOf>
  std::unique_ptr<Buffer> starts(const CountOf& count_of) {
    std::vector<std::int32_t> out = {0};
    for (const Length& l : lengths_) out.push_back(out.back() + static_cast<std::int32_t>(count_of(l)));
    return device_.allocate_with(out);
  }

  [[nodiscard]] std::size_t pages_of(const Length& l) const {
    return (l.past + l.count + case_.page() - 1) / case_.page();
  }

  // As the cache holds it: rounded to the data's type, then to the cache's. The first `kept`
  // elements of rows of `width`.
  [[nodiscard]] std::vector<float> cached(const std::vector<float>& all, std::size_t head, std::size_t width,
                                          std::size_t kept) const {
    std::vector<float> out;
    for (std::size_t at = head * width; at < all.size(); at += case_.kv_heads * width) {
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
      const std::vector<float> row(begin, begin + static_cast<std::ptrdiff_t>(width));
      const std::vector<float> held = cached_row(case_.cache, TypedData(case_.type, row).values);
      out.insert(out.end(), held.begin(), held.begin() + static_cast<std::ptrdiff_t>(kept));
    }
    return out;
  }

  void check_head(std::size_t s, std::size_t token, std::size_t h, std::size_t begin, std::size_t end,
                  double unit) const {
    const std::size_t kv = h / (case_.heads / case_.kv_heads);
    const auto q = q_.begin() + static_cast<std::ptrdiff_t>(token * p_.q_stride + h * case_.key_dim);
    const Answer expected = answer({case_.key_dim, case_.value_dim, p_.scale, case_.soft_cap}, {q, q + case_.key_dim},
                                   cached(k_[s], kv, case_.key_dim, case_.key_dim),
                                   case_.latent ? cached(k_[s], kv, case_.key_dim, case_.value_dim)
                                                : cached(v_[s], kv, case_.value_dim, case_.value_dim),
                                   begin, end, case_.sinks ? &sink_values_[h] : nullptr);
    // Scores of f32 products: an error of d 2^-24 |q||k| scale moves a weight by as much.
    const double scores = static_cast<double>(case_.key_dim) * 0x1p-24 * 8 + 0x1p-20;
    // On the matrix units weights are rounded to the cache's type, and queries, if they are of another.
    const bool halves = case_.cache == CacheType::kF16 || case_.cache == CacheType::kBf16;
    const double cache_unit = case_.cache == CacheType::kF16 ? 0x1p-11 : 0x1p-8;
    const bool matrices = halves && (case_.rounded || case_.type != DType::kF32);
    const double query = matrices && case_.type == DType::kF32 ? expected.score_size * cache_unit : 0;
    for (std::size_t e = 0; e < case_.value_dim; ++e) {
      const double rounding = matrices ? expected.size[e] * (2 * cache_unit + 2 * query) : 0;
      ASSERT_NEAR(out_[token * p_.out_stride + h * case_.value_dim + e], expected.out[e],
                  4 * scores * 4 + rounding + std::fabs(expected.out[e]) * unit)
          << kv_type_name(case_.cache) << " width " << case_.key_dim << " sequence " << s << " token " << token
          << " head " << h << " element " << e;
    }
  }

  void store(bool past) {
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> sequences;
    std::vector<float> k;
    std::vector<float> v;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      const std::size_t begin = past ? 0 : lengths_[s].past;
      for (std::size_t i = begin; i < (past ? lengths_[s].past : begin + lengths_[s].count); ++i) {
        positions.push_back(static_cast<std::int32_t>(i));
        sequences.push_back(static_cast<std::int32_t>(s));
        const auto append = [i](std::vector<float>& to, const std::vector<float>& from, std::size_t width) {
          const auto row = from.begin() + static_cast<std::ptrdiff_t>(i * width);
          to.insert(to.end(), row, row + static_cast<std::ptrdiff_t>(width));
          to.push_back(0);  // rows lie apart
        };
        append(k, k_[s], std::size_t{case_.kv_heads} * case_.key_dim);
        append(v, v_[s], std::size_t{case_.kv_heads} * case_.value_dim);
      }
    }
    if (positions.empty()) return;
    positions_ = device_.allocate_with(positions);
    sequences_ = device_.allocate_with(sequences);
    const auto k_buffer = device_.allocate_with(TypedData(case_.type, k).bytes);
    const auto v_buffer = device_.allocate_with(TypedData(case_.type, v).bytes);
    const auto commands = device_.commands();
    encode_store_kv(device_, *commands, p_, case_.type, case_.cache, static_cast<std::int64_t>(positions.size()),
                    *k_buffer, *v_buffer, buffers());
    commands->commit();
    commands->wait();
  }

  [[nodiscard]] PagedBuffers buffers() const {
    PagedBuffers b;
    b.keys = keys_.get();
    b.values = values_.get();
    b.tables = tables_.get();
    b.sequences = sequences_.get();
    b.positions = positions_.get();
    b.sinks = case_.sinks ? sinks_.get() : nullptr;
    b.partial = partial_.get();
    return b;
  }

  Device& device_;
  PagedCase case_;
  std::vector<Length> lengths_;
  PagedParams p_;
  std::size_t tokens_ = 0;
  std::size_t longest_ = 1;
  std::vector<std::vector<float>> k_;
  std::vector<std::vector<float>> v_;
  std::vector<float> q_;
  std::vector<float> out_;
  std::vector<float> sink_values_;
  std::unique_ptr<Buffer> keys_;
  std::unique_ptr<Buffer> values_;
  std::unique_ptr<Buffer> tables_;
  std::unique_ptr<Buffer> sinks_;
  std::unique_ptr<Buffer> positions_;
  std::unique_ptr<Buffer> sequences_;
  std::unique_ptr<Buffer> partial_;
};

void check_cases(Device& device, bool small, const std::vector<PagedCase>& cases) {
  const std::vector<Length> lengths = small ? std::vector<Length>{{0, 1}, {17, 2}, {30, 4}}
                                            : std::vector<Length>{{0, 1}, {0, 19}, {70, 1}, {15, 3}, {16, 1}};
  for (const PagedCase& c : cases) {
    PagedFixture fixture(device, c, lengths);
    fixture.run();
    fixture.check();
  }
}

TEST_P(PagedAttention, RaggedBatches) {
  check_cases(*device, few_shapes(),
              {{4, 2, 64, 64, false, 4, 1, 0, 0, false, DType::kF32, CacheType::kF32},
               {3, 3, 80, 80, false, 4, 1, 0, 0, false, DType::kF32, CacheType::kF16},
               {2, 1, 128, 128, false, 3, 1, 5, 0, false, DType::kF32, CacheType::kBf16},
               {2, 2, 96, 96, false, 5, 1, 0, 20, false, DType::kF16, CacheType::kF16},
               {5, 1, 256, 256, false, 4, 1, 0, 0, true, DType::kBf16, CacheType::kBf16},
               {1, 1, 7, 7, false, 4, 1, 20, 3, true, DType::kF32, CacheType::kF32},
               {6, 2, 112, 40, false, 5, 1, 0, 0, false, DType::kF32, CacheType::kF32},
               {2, 2, 192, 128, false, 3, 1, 33, 0, true, DType::kF32, CacheType::kF16}});
}

TEST_P(PagedAttention, OnMatrixUnits) {
  check_cases(*device, few_shapes(),
              {{4, 2, 64, 64, false, 4, 1, 0, 0, false, DType::kF16, CacheType::kF16},
               {8, 1, 128, 128, false, 3, 1, 0, 0, true, DType::kF32, CacheType::kF16, true},
               {20, 2, 80, 96, false, 5, 3, 0, 0, true, DType::kBf16, CacheType::kBf16},
               {9, 1, 256, 200, false, 4, 2, 21, 0, true, DType::kF32, CacheType::kBf16, true},
               {1, 1, 8, 16, false, 4, 1, 7, 5, false, DType::kF16, CacheType::kF16},
               {3, 3, 192, 256, false, 4, 1, 0, 0, false, DType::kBf16, CacheType::kBf16},
               {5, 1, 192, 192, false, 4, 1, 0, 0, false, DType::kF16, CacheType::kF16},
               {3, 1, 136, 72, false, 4, 1, 0, 9, false, DType::kBf16, CacheType::kBf16}});
}

TEST(StagedPagedAttention, HasNoRaces) {
  check_cases(*staging_device(), true,
              {{4, 2, 64, 64, false, 4, 1, 0, 0, false, DType::kF16, CacheType::kF16},
               {9, 1, 256, 200, false, 4, 2, 21, 0, true, DType::kF32, CacheType::kBf16, true}});
  const auto device = staging_device();
  for (const std::uint32_t width : {64U, 136U}) {
    PagedFixture fixture(*device, {2, 1, width, width, false, 4, 1, 0, 0, false, DType::kF32, CacheType::kF16, true},
                         {{0, 19}, {17, 2}});
    fixture.run(true);
    fixture.check();
  }
}

TEST_P(PagedAttention, KeysCutIntoParts) {
  check_cases(*device, few_shapes(),
              {{4, 2, 64, 64, false, 4, 3, 0, 0, false, DType::kF32, CacheType::kF32},
               {8, 1, 128, 128, false, 3, 8, 0, 0, true, DType::kF32, CacheType::kF16},
               {2, 1, 40, 96, false, 5, 2, 11, 12, true, DType::kBf16, CacheType::kBf16}});
}

TEST_P(PagedAttention, QuantizedCaches) {
  for (const CacheType cache : {CacheType::kInt8, CacheType::kInt4, CacheType::kFp8, CacheType::kFp4}) {
    check_cases(*device, few_shapes(),
                {{4, 2, 64, 64, false, 4, 1, 0, 0, false, DType::kF32, cache},
                 {2, 2, 45, 70, false, 3, 2, 0, 0, true, DType::kF32, cache},
                 {2, 1, 33, 65, false, 3, 1, 0, 0, false, DType::kF32, cache},
                 {5, 1, 192, 130, false, 5, 1, 9, 0, false, DType::kF32, cache}});
  }
}

// Tiles of every kernel: full, part empty and of one query, of sequences with and without a past.
TEST_P(PagedAttention, ByTiles) {
  std::vector<PagedCase> cases = {{8, 1, 128, 128, false, 3, 1, 0, 0, true, DType::kF32, CacheType::kF16, true},
                                  {4, 2, 64, 64, false, 4, 1, 21, 0, false, DType::kF32, CacheType::kBf16, true},
                                  {3, 3, 192, 136, false, 5, 1, 0, 9, false, DType::kF32, CacheType::kF16, true},
                                  {5, 1, 72, 56, false, 4, 1, 0, 0, false, DType::kF32, CacheType::kF16},
                                  {2, 1, 128, 128, false, 4, 1, 9, 12, true, DType::kF32, CacheType::kF32},
                                  {2, 2, 256, 256, false, 3, 1, 0, 0, false, DType::kF32, CacheType::kBf16},
                                  {1, 1, 7, 7, false, 4, 1, 20, 3, true, DType::kF32, CacheType::kF32}};
  for (const CacheType cache : {CacheType::kInt8, CacheType::kInt4, CacheType::kFp8, CacheType::kFp4})
    cases.push_back({4, 2, 64, 45, false, 4, 1, 0, 0, false, DType::kF32, cache});
  const std::vector<Length> lengths = few_shapes() ? std::vector<Length>{{0, 19}, {17, 2}, {4, 0}, {30, 1}}
                                                   : std::vector<Length>{{0, 1}, {0, 75}, {3, 0}, {70, 1}, {15, 34}};
  for (const PagedCase& c : cases) {
    PagedFixture fixture(*device, c, lengths);
    fixture.run(true);
    fixture.check();
  }
}

TEST_P(PagedAttention, TilesAreForManyTokensOfOneSequence) {
  PagedParams p;
  p.heads = 32;
  p.kv_heads = 8;
  p.key_dim = p.value_dim = 128;
  const auto tiled = [&](const std::vector<SequenceSlice>& batch, CacheType cache = CacheType::kF16) {
    std::int64_t tokens = 0;
    for (const SequenceSlice& slice : batch) tokens += slice.count;
    p.splits = paged_splits(*device, p, DType::kF32, cache, tokens, 32);
    return tiles_cost_less(*device, p, cache, batch);
  };
  for (const std::uint32_t rounded : {0U, 1U}) {
    p.rounded = rounded;
    EXPECT_TRUE(tiled({{0, 2048, 0, {}, 0}}));
    EXPECT_TRUE(tiled({{0, 2048, 100000, {}, 0}}));
    EXPECT_TRUE(tiled({{0, 1024, 0, {}, 0}, {1024, 1024, 500, {}, 0}}));
    EXPECT_FALSE(tiled({{0, 1, 4000, {}, 0}}));
    EXPECT_FALSE(tiled({{0, 8, 4000, {}, 0}}));
    EXPECT_FALSE(tiled(std::vector<SequenceSlice>(2048, {0, 1, 300, {}, 0})));
  }
  EXPECT_TRUE(tiled({{0, 2048, 0, {}, 0}}, CacheType::kInt4));
  p.latent = 1;
  EXPECT_FALSE(tiled({{0, 2048, 0, {}, 0}}));
  p.latent = 0;
  p.rounded = 1;
  p.key_dim = 256;
  EXPECT_FALSE(tiled({{0, 2048, 0, {}, 0}}));  // its matrix kernel has no tiles
  const auto buffer = device->allocate(64);
  const auto commands = device->commands();
  expect_error(ErrorCode::kUnsupported, "no tiles for heads of 256 and 128", [&] {
    encode_paged_tiles(*device, *commands, p, CacheType::kF16, 1, *buffer, *buffer, {},
                       {1, buffer.get(), buffer.get()});
  });
}

TEST_P(PagedAttention, Latents) {
  check_cases(*device, few_shapes(),
              {{5, 1, 576, 512, true, 4, 1, 0, 0, false, DType::kF32, CacheType::kF16},
               {3, 1, 80, 64, true, 3, 2, 0, 0, false, DType::kF32, CacheType::kF32},
               {2, 1, 75, 50, true, 4, 1, 0, 0, true, DType::kF32, CacheType::kFp8},
               {4, 1, 130, 110, true, 5, 3, 0, 0, false, DType::kF16, CacheType::kF16}});
}

// Widths about those of tiles and groups, pasts about those of pages, drawn at random.
TEST_P(PagedAttention, RandomShapes) {
  std::mt19937 generator(19);
  const auto one_of = [&](const std::vector<std::uint32_t>& sizes) { return sizes[generator() % sizes.size()]; };
  const int count = few_shapes() ? 8 : 30;
  for (int i = 0; i < count; ++i) {
    const CacheType cache = kCaches[generator() % std::size(kCaches)];
    const bool halves = cache == CacheType::kF16 || cache == CacheType::kBf16;
    const DType type = !halves || one_of({0, 1}) != 0 ? DType::kF32
                       : cache == CacheType::kBf16    ? DType::kBf16
                                                      : DType::kF16;
    const std::uint32_t kv_heads = one_of({1, 2, 3});
    const bool latent = one_of({0, 0, 1}) != 0;
    const std::uint32_t key = one_of({1, 2, 7, 8, 16, 31, 32, 33, 64, 65, 128, 129, 192, 256});
    const std::uint32_t value = one_of({1, 2, 7, 8, 16, 31, 32, 33, 64, 65, 128, 129, 192, 256});
    const PagedCase c{kv_heads * one_of({1, 2, 5, 9}),
                      kv_heads,
                      key,
                      latent ? std::min(key, value) : value,
                      latent,
                      one_of({3, 4, 5}),
                      one_of({1, 1, 2, 4}),
                      one_of({0, 0, 1, 9, 33}),
                      static_cast<float>(one_of({0, 0, 9})),
                      one_of({0, 1}) != 0,
                      type,
                      cache,
                      halves && one_of({0, 1}) != 0};
    std::vector<Length> lengths;
    for (std::uint32_t n = one_of({1, 2, 4}); n > 0; --n)
      lengths.push_back({one_of({0, 1, 7, 8, 15, 16, 31, 32, 33, 64}), one_of({0, 1, 1, 2, 8, 17})});
    lengths.push_back({one_of({0, 5}), 1});
    PagedFixture fixture(*device, c, lengths);
    fixture.run();
    fixture.check();
  }
}

TEST_P(PagedAttention, RefusesWhatItCannotDo) {
  const auto buffer = device->allocate(64);
  const auto commands = device->commands();
  PagedBuffers b;
  b.keys = b.values = b.tables = b.sequences = b.positions = buffer.get();
  const auto encode = [&](const PagedParams& p) {
    encode_paged_attention(*device, *commands, p, DType::kF32, CacheType::kF32, 1, *buffer, *buffer, b);
  };
  PagedParams p;
  p.heads = 3;
  p.kv_heads = 2;
  p.key_dim = p.value_dim = 64;
  expect_error(ErrorCode::kInvalidArgument, "3 heads are no multiple of 2 kv heads", [&] { encode(p); });
  p.kv_heads = 3;
  p.key_dim = 641;
  expect_error(ErrorCode::kUnsupported, "heads of 641 and 64, expected 1 to 640", [&] { encode(p); });
  p.key_dim = 64;
  p.page_shift = 6;
  expect_error(ErrorCode::kUnsupported, "pages of 2^6 tokens", [&] { encode(p); });
  p.page_shift = 4;
  p.latent = 1;
  p.value_dim = 65;
  expect_error(ErrorCode::kInvalidArgument, "values of 65 in keys of 64", [&] { encode(p); });
}

}  // namespace
}  // namespace metal_marlin::msl
