// Paged attention on every executor against a softmax in double: ragged batches of
// prefill chunks and decodes, pages out of order, groups of heads, windows, caps, sinks.
#include "backends/msl/paged_attention.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class PagedAttention : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, PagedAttention, testing::ValuesIn(executors()), executor_name);

constexpr std::size_t kPage = 16;

struct Case {
  std::uint32_t heads;
  std::uint32_t kv_heads;
  std::uint32_t head_dim;
  std::uint32_t window;
  float soft_cap;
  bool sinks;
  DType type;
  DType cache;
};

// Sequences that hold `past` tokens and get `count` new ones.
struct Length {
  std::size_t past;
  std::size_t count;
};

// One head's answer to one query, from keys [begin, end) of [position][head_dim].
std::vector<double> answer(const Case& c, const float* q, const std::vector<float>& keys,
                           const std::vector<float>& values, std::size_t begin, std::size_t end, double scale,
                           const float* sink) {
  std::vector<double> scores(end - begin);
  double top = sink != nullptr ? *sink : -INFINITY;
  for (std::size_t i = begin; i < end; ++i) {
    double product = 0;
    for (std::size_t e = 0; e < c.head_dim; ++e) product += static_cast<double>(q[e]) * keys[i * c.head_dim + e];
    product *= scale;
    if (c.soft_cap != 0) product = c.soft_cap * std::tanh(product / c.soft_cap);
    scores[i - begin] = product;
    top = std::max(top, product);
  }
  double total = sink != nullptr ? std::exp(*sink - top) : 0;
  std::vector<double> out(c.head_dim);
  for (std::size_t i = begin; i < end; ++i) {
    const double weight = std::exp(scores[i - begin] - top);
    total += weight;
    for (std::size_t e = 0; e < c.head_dim; ++e) out[e] += weight * values[i * c.head_dim + e];
  }
  for (double& v : out) v /= total;
  return out;
}

// The batch of a test, on the host and on the device.
class Fixture {
 public:
  Fixture(Device& device, const Case& c, const std::vector<Length>& lengths)
      : device_(device), case_(c), lengths_(lengths) {
    std::size_t pages = 0;
    for (const Length& l : lengths) {
      tokens_ += l.count;
      longest_ = std::max(longest_, (l.past + l.count + kPage - 1) / kPage);
      pages += (l.past + l.count + kPage - 1) / kPage;
    }
    p_ = {c.heads,
          c.kv_heads,
          c.head_dim,
          kPage,
          static_cast<std::uint32_t>(longest_),
          c.heads * c.head_dim + 2,
          c.kv_heads * c.head_dim + 1,
          c.heads * c.head_dim,
          c.window,
          static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_dim))),
          c.soft_cap,
          0};
    const std::size_t cached = (pages + 1) * c.kv_heads * kPage * c.head_dim;
    const TypedData zeros(c.cache, std::vector<float>(cached, std::nanf("")));  // nobody reads what was not stored
    keys_ = device.allocate_with(zeros.bytes);
    values_ = device.allocate_with(zeros.bytes);
    std::vector<std::int32_t> tables(lengths.size() * longest_, -1);
    auto next = static_cast<std::int32_t>(pages);  // handed out from the back
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (std::size_t i = 0; i < (lengths[s].past + lengths[s].count + kPage - 1) / kPage; ++i)
        tables[s * longest_ + i] = next--;
    }
    tables_ = device.allocate_with(tables);
    sink_values_ = normal_data(c.heads, 77);
    sinks_ = device.allocate_with(sink_values_);
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      const std::size_t n = (lengths[s].past + lengths[s].count) * c.kv_heads * c.head_dim;
      k_.push_back(normal_data(n, static_cast<unsigned>(10 + s)));
      v_.push_back(normal_data(n, static_cast<unsigned>(20 + s)));
    }
  }

  // First the past, then the new tokens and their queries.
  void run() {
    store(true);
    store(false);
    const TypedData q(case_.type, normal_data(tokens_ * p_.q_stride, 3));
    q_ = q.values;
    const auto q_buffer = device_.allocate_with(q.bytes);
    const auto out = device_.allocate(tokens_ * p_.out_stride * q.size());
    const auto commands = device_.commands();
    encode_paged_attention(device_, *commands, p_, case_.type, case_.cache, static_cast<std::int64_t>(tokens_),
                           *q_buffer, *out, buffers());
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
  // As the cache holds it: rounded to the data's type, then to the cache's.
  [[nodiscard]] std::vector<float> cached(const std::vector<float>& all, std::size_t head) const {
    const std::size_t d = case_.head_dim;
    const std::size_t width = case_.kv_heads * d;
    std::vector<float> out;
    for (std::size_t i = 0; i < all.size() / width; ++i) {
      const auto at = all.begin() + static_cast<std::ptrdiff_t>(i * width + head * d);
      out.insert(out.end(), at, at + static_cast<std::ptrdiff_t>(d));
    }
    return TypedData(case_.cache, TypedData(case_.type, out).values).values;
  }

  void check_head(std::size_t s, std::size_t token, std::size_t h, std::size_t begin, std::size_t end,
                  double unit) const {
    const std::size_t kv = h / (case_.heads / case_.kv_heads);
    const std::vector<double> expected =
        answer(case_, q_.data() + token * p_.q_stride + h * case_.head_dim, cached(k_[s], kv), cached(v_[s], kv), begin,
               end, p_.scale, case_.sinks ? &sink_values_[h] : nullptr);
    // Scores of f32 products: an error of d 2^-24 |q||k| scale moves a weight by as much.
    const double scores = static_cast<double>(case_.head_dim) * 0x1p-24 * 8 + 0x1p-20;
    for (std::size_t e = 0; e < case_.head_dim; ++e) {
      ASSERT_NEAR(out_[token * p_.out_stride + h * case_.head_dim + e], expected[e],
                  4 * scores * 4 + std::fabs(expected[e]) * unit)
          << "sequence " << s << " token " << token << " head " << h << " element " << e;
    }
  }

  void store(bool past) {
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> sequences;
    std::vector<float> k;
    std::vector<float> v;
    const std::size_t width = case_.kv_heads * case_.head_dim;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      const std::size_t begin = past ? 0 : lengths_[s].past;
      for (std::size_t i = begin; i < (past ? lengths_[s].past : begin + lengths_[s].count); ++i) {
        positions.push_back(static_cast<std::int32_t>(i));
        sequences.push_back(static_cast<std::int32_t>(s));
        const auto at = static_cast<std::ptrdiff_t>(i * width);
        k.insert(k.end(), k_[s].begin() + at, k_[s].begin() + at + static_cast<std::ptrdiff_t>(width));
        v.insert(v.end(), v_[s].begin() + at, v_[s].begin() + at + static_cast<std::ptrdiff_t>(width));
        k.push_back(0);  // rows may lie apart
        v.push_back(0);
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
    return {keys_.get(),
            values_.get(),
            0,
            tables_.get(),
            sequences_.get(),
            positions_.get(),
            case_.sinks ? sinks_.get() : nullptr};
  }

  Device& device_;
  Case case_;
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
};

TEST_P(PagedAttention, RaggedBatches) {
  const std::vector<Case> cases = {
      {4, 2, 64, 0, 0, false, DType::kF32, DType::kF32},   {3, 3, 80, 0, 0, false, DType::kF32, DType::kF16},
      {2, 1, 128, 5, 0, false, DType::kF32, DType::kBf16}, {2, 2, 96, 0, 20, false, DType::kF16, DType::kF16},
      {4, 1, 256, 0, 0, true, DType::kBf16, DType::kBf16}, {1, 1, 7, 20, 3, true, DType::kF32, DType::kF32},
      {6, 2, 112, 0, 0, false, DType::kF32, DType::kF32},  {2, 2, 192, 33, 0, true, DType::kF32, DType::kF16},
  };
  const std::vector<Length> lengths = detectors() ? std::vector<Length>{{0, 1}, {17, 2}, {30, 4}}
                                                  : std::vector<Length>{{0, 1}, {0, 19}, {70, 1}, {15, 3}, {16, 1}};
  for (const Case& c : cases) {
    Fixture fixture(*device, c, lengths);
    fixture.run();
    fixture.check();
  }
}

TEST_P(PagedAttention, RefusesWhatItCannotDo) {
  const auto buffer = device->allocate(64);
  const auto commands = device->commands();
  const PagedBuffers b{buffer.get(), buffer.get(), 0, buffer.get(), buffer.get(), buffer.get(), nullptr};
  const auto encode = [&](const PagedParams& p) {
    encode_paged_attention(*device, *commands, p, DType::kF32, DType::kF32, 1, *buffer, *buffer, b);
  };
  PagedParams p;
  p.heads = 3;
  p.kv_heads = 2;
  p.head_dim = 64;
  EXPECT_THROW(encode(p), Error);
  p.kv_heads = 3;
  p.head_dim = 320;
  EXPECT_THROW(encode(p), Error);
  p.head_dim = 64;
  p.page_tokens = 32;
  EXPECT_THROW(encode(p), Error);
}

}  // namespace
}  // namespace metal_marlin::msl
