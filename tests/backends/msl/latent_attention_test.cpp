// Multi-head latent attention on every executor against its definition in double: ragged batches
// of prefill chunks and decodes, odd widths, both orders of pairs, every kind of cache, packed
// and dense expansions.
#include "backends/msl/latent_attention.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/attention_reference.h"
#include "backends/msl/cache_reference.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"

namespace metal_marlin::msl {
namespace {

class LatentAttentions : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, LatentAttentions, testing::ValuesIn(executors()), executor_name);

struct LatentCase {
  std::size_t heads;
  std::size_t nope;
  std::size_t rope;
  std::size_t value;
  std::size_t rank;
  bool interleaved;
  CacheType cache = CacheType::kF32;
  std::uint32_t splits = 1;
  [[nodiscard]] std::size_t width() const { return rank + rope; }
};

constexpr float kLatentEps = 1e-3F;
constexpr float kRopeScale = 1.25F;
constexpr double kRotated = 10;  // no smaller than what rotated elements are sums of
constexpr std::size_t kPage = 16;

// Tokens of all sequences, one call's after another's.
struct Token {
  std::size_t sequence;
  std::size_t position;
};

// A double and the sum of the magnitudes that it came of.
struct Sum {
  double value = 0;
  double size = 0;
  void add(double v) {
    value += v;
    size += std::fabs(v);
  }
};

class LatentFixture {
 public:
  LatentFixture(Device& device, const LatentCase& c, TestMatrix expand, const std::vector<std::size_t>& lengths)
      : device_(device),
        case_(c),
        expand_(std::move(expand)),
        decoded_(expand_.decoded()),
        lengths_(lengths),
        norm_(normal_data(c.rank, 1)) {
    for (std::size_t i = 0; i < c.rope / 2; ++i) frequencies_.push_back(1.0F / static_cast<float>(1 + 3 * i));
    std::size_t pages = 0;
    for (const std::size_t length : lengths) {
      stride_ = std::max(stride_, pages_of(length));
      pages += pages_of(length);
    }
    tables_.assign(lengths.size() * stride_, -1);
    auto next = static_cast<std::int32_t>(pages);  // handed out from the back
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (std::size_t i = 0; i < pages_of(lengths[s]); ++i) tables_[s * stride_ + i] = next--;
    }
    row_bytes_ = cache_row_bytes(c.cache, static_cast<std::int64_t>(c.width()));
    // Nobody reads what was not stored: numbers and scales of all ones are NaN.
    cache_ = device.allocate_with(std::vector<std::byte>((pages + 1) * kPage * row_bytes_, std::byte{0xFF}));
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      rows_.emplace_back();
      latents_.push_back(normal_data(lengths[s] * c.width(), static_cast<unsigned>(10 + s)));
      queries_.push_back(normal_data(lengths[s] * c.heads * (c.nope + c.rope), static_cast<unsigned>(20 + s)));
    }
    std::fill_n(latents_[0].begin(), c.width(), 0.0F);  // a token without a latent
  }

  // First all tokens but the last of each sequence, then those.
  void check() {
    std::vector<Token> chunk;
    std::vector<Token> last;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      for (std::size_t i = 0; i + 1 < lengths_[s]; ++i) chunk.push_back({s, i});
      last.push_back({s, lengths_[s] - 1});
    }
    for (const auto& tokens : {chunk, last}) {
      run(tokens);
      for (std::size_t t = 0; t < tokens.size(); ++t) check_row(tokens[t]);
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        for (std::size_t h = 0; h < case_.heads; ++h) check_head(tokens[t], t, h);
      }
    }
  }

 private:
  static std::size_t pages_of(std::size_t tokens) { return (tokens + kPage - 1) / kPage; }

  void run(const std::vector<Token>& tokens) {
    const auto n = static_cast<std::int64_t>(tokens.size());
    const LatentAttentionOp op{0,
                               0,
                               0,
                               "norm",
                               kLatentEps,
                               "expand",
                               0,
                               static_cast<std::int64_t>(case_.heads),
                               static_cast<std::int64_t>(case_.nope),
                               static_cast<std::int64_t>(case_.rope),
                               static_cast<std::int64_t>(case_.value),
                               static_cast<std::int64_t>(case_.rank),
                               kScale,
                               case_.interleaved};
    const LatentAttention attention(device_, op, expand_.weight, Activations::kF32, test_pool());
    const LatentWorkspace workspace(device_, op, n);
    std::vector<float> q;
    std::vector<float> latents;
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> sequences;
    const auto append = [](std::vector<float>& to, const std::vector<float>& from, std::size_t row, std::size_t width) {
      const auto begin = from.begin() + static_cast<std::ptrdiff_t>(row * width);
      to.insert(to.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
    };
    for (const Token& t : tokens) {
      append(q, queries_[t.sequence], t.position, case_.heads * (case_.nope + case_.rope));
      append(latents, latents_[t.sequence], t.position, case_.width());
      positions.push_back(static_cast<std::int32_t>(t.position));
      sequences.push_back(static_cast<std::int32_t>(t.sequence));
    }
    const auto out = device_.allocate(tokens.size() * case_.heads * case_.value * sizeof(float));
    const std::unique_ptr<Buffer> buffers[] = {device_.allocate_with(q),        device_.allocate_with(latents),
                                               device_.allocate_with(norm_),    device_.allocate_with(frequencies_),
                                               device_.allocate_with(tables_),  device_.allocate_with(sequences),
                                               device_.allocate_with(positions)};
    LatentCall call;
    Buffer** const places[] = {&call.q,
                               &call.latent,
                               &call.norm,
                               &call.frequencies,
                               &call.paged.tables,
                               &call.paged.sequences,
                               &call.paged.positions};
    for (std::size_t i = 0; i < std::size(places); ++i) *places[i] = buffers[i].get();
    call.out = out.get();
    call.tokens = n;
    call.rope_scale = kRopeScale;
    call.cache = case_.cache;
    call.paged.keys = cache_.get();
    call.table_stride = static_cast<std::uint32_t>(stride_);
    call.splits = case_.splits;
    call.split_keys = 5;
    PagedParams paged = latent_paged_params(op);
    paged.splits = case_.splits;
    const auto partial = device_.allocate(std::max<std::size_t>(paged_partial_bytes(paged, n), 4));
    call.paged.partial = partial.get();
    const auto commands = device_.commands();
    attention.encode(*commands, call, workspace);
    commands->commit();
    commands->wait();
    out_ = TypedData(DType::kF32, *out).values;
    cached_.resize(cache_->size());
    cache_->download(cached_);
  }

  // Pair i of `x` at a position: the angle a product in f32 as in the kernel.
  void rotate(const float* x, std::size_t position, double* out) const {
    for (std::size_t i = 0; i < case_.rope / 2; ++i) {
      const std::size_t a = case_.interleaved ? 2 * i : i;
      const std::size_t b = case_.interleaved ? 2 * i + 1 : i + case_.rope / 2;
      const double angle = static_cast<float>(position) * frequencies_[i];
      out[a] = (x[a] * std::cos(angle) - x[b] * std::sin(angle)) * kRopeScale;
      out[b] = (x[b] * std::cos(angle) + x[a] * std::sin(angle)) * kRopeScale;
    }
  }

  // The row that the cache holds of a token is its normed and rotated latent, rounded to the cache's type.
  void check_row(const Token& t) {
    const float* const latent = latents_[t.sequence].data() + t.position * case_.width();
    std::vector<double> expected(case_.width());
    double squares = 0;
    for (std::size_t r = 0; r < case_.rank; ++r) squares += static_cast<double>(latent[r]) * latent[r];
    const double factor = 1 / std::sqrt(squares / static_cast<double>(case_.rank) + kLatentEps);
    for (std::size_t r = 0; r < case_.rank; ++r) expected[r] = latent[r] * factor * norm_[r];
    rotate(latent + case_.rank, t.position, expected.data() + case_.rank);

    const std::size_t page = static_cast<std::size_t>(tables_[t.sequence * stride_ + t.position / kPage]);
    const std::byte* const bytes = cached_.data() + (page * kPage + t.position % kPage) * row_bytes_;
    const HeldRow held = held_row(case_.cache, bytes, case_.width());
    for (std::size_t e = 0; e < case_.width(); ++e) {
      // Sums and products in f32, and the rounding to half a step.
      const double size = e < case_.rank ? std::fabs(expected[e]) : kRotated;
      const double product = (static_cast<double>(case_.rank) / 128 + 16) * 0x1p-24 * size;
      ASSERT_NEAR(held.values[e], expected[e], held.steps[e] / 2 + product)
          << kv_type_name(case_.cache) << " sequence " << t.sequence << " position " << t.position << " element " << e;
    }
    std::vector<float>& rows = rows_[t.sequence];
    rows.insert(rows.end(), held.values.begin(), held.values.end());
  }

  // A head's sums over the rows that the cache holds.
  void check_head(const Token& t, std::size_t index, std::size_t h) const {
    const std::size_t q_width = case_.nope + case_.rope;
    const float* const q = queries_[t.sequence].data() + (t.position * case_.heads + h) * q_width;
    const float* const keys = decoded_.data() + h * (case_.nope + case_.value) * case_.rank;
    const float* const values = keys + case_.nope * case_.rank;
    std::vector<double> latent_q(case_.width());
    std::vector<double> q_size(case_.width());
    for (std::size_t r = 0; r < case_.rank; ++r) {
      Sum sum;
      for (std::size_t n = 0; n < case_.nope; ++n) sum.add(static_cast<double>(keys[n * case_.rank + r]) * q[n]);
      latent_q[r] = sum.value;
      q_size[r] = sum.size;
    }
    rotate(q + case_.nope, t.position, latent_q.data() + case_.rank);
    for (std::size_t e = case_.rank; e < case_.width(); ++e) q_size[e] = kRotated;
    const std::vector<float>& rows = rows_[t.sequence];
    std::vector<float> latents;
    for (std::size_t at = 0; at < rows.size(); at += case_.width()) {
      const auto row = rows.begin() + static_cast<std::ptrdiff_t>(at);
      latents.insert(latents.end(), row, row + static_cast<std::ptrdiff_t>(case_.rank));
    }
    const AnswerParams params{case_.width(), case_.rank, kScale};
    const std::size_t end = t.position + 1;
    const Answer expected = answer(params, latent_q, rows, latents, 0, end);
    // What a score's terms come of: an error of it moves a weight by as much.
    const double score = answer(params, q_size, rows, latents, 0, end).score_size;
    const auto terms = static_cast<double>(case_.nope + case_.width() + 16);
    const double relative =
        0x1p-24 * (2 * score * terms + static_cast<double>(end) + terms + static_cast<double>(case_.rank));
    for (std::size_t v = 0; v < case_.value; ++v) {
      Sum sum;
      double size = 0;
      for (std::size_t r = 0; r < case_.rank; ++r) {
        sum.add(values[v * case_.rank + r] * expected.out[r]);
        size += std::fabs(values[v * case_.rank + r]) * expected.size[r];
      }
      ASSERT_NEAR(out_[(index * case_.heads + h) * case_.value + v], sum.value, relative * size)
          << kv_type_name(case_.cache) << " width " << case_.width() << " sequence " << t.sequence << " position "
          << t.position << " head " << h << " element " << v;
    }
  }

  static constexpr float kScale = 0.2F;
  Device& device_;
  LatentCase case_;
  TestMatrix expand_;
  std::vector<float> decoded_;
  std::vector<std::size_t> lengths_;
  std::vector<float> norm_;
  std::vector<float> frequencies_;
  std::size_t stride_ = 1;
  std::size_t row_bytes_ = 0;
  std::vector<std::int32_t> tables_;
  std::unique_ptr<Buffer> cache_;
  std::vector<std::vector<float>> latents_;
  std::vector<std::vector<float>> queries_;
  std::vector<std::vector<float>> rows_;  // of each sequence, as the cache holds them
  std::vector<float> out_;                // of the last call,
  std::vector<std::byte> cached_;         // and the cache after it
};

std::int64_t expanded_rows(const LatentCase& c) {
  return static_cast<std::int64_t>(c.heads * (c.nope + c.value));
}

void check_case(Device& device, bool small, const LatentCase& c, TestMatrix expand) {
  LatentFixture(device, c, std::move(expand),
                small ? std::vector<std::size_t>{2, 18} : std::vector<std::size_t>{3, 1, 37, 16})
      .check();
}

TEST_P(LatentAttentions, RaggedBatchesOfOddWidths) {
  for (const LatentCase& c : {LatentCase{3, 5, 6, 7, 20, true}, LatentCase{2, 16, 64, 24, 96, false},
                              LatentCase{1, 1, 2, 1, 1, true}, LatentCase{5, 33, 8, 3, 33, false, CacheType::kF16, 3},
                              LatentCase{2, 8, 2, 9, 128, true, CacheType::kBf16, 2}}) {
    check_case(*device, few_shapes(), c,
               dense_matrix(DType::kF32, expanded_rows(c), static_cast<std::int64_t>(c.rank), 31));
  }
}

TEST_P(LatentAttentions, QuantizedCaches) {
  for (const CacheType cache : {CacheType::kFp8, CacheType::kInt8, CacheType::kInt4, CacheType::kFp4}) {
    for (const LatentCase& c :
         {LatentCase{2, 7, 4, 5, 30, false, cache, 2}, LatentCase{3, 4, 10, 6, 55, true, cache}}) {
      check_case(*device, few_shapes(), c,
                 dense_matrix(DType::kF32, expanded_rows(c), static_cast<std::int64_t>(c.rank), 32));
    }
  }
}

// The widest that the cache's rows may be, and GLM-4.7-Flash's and DeepSeek's latents.
TEST_P(LatentAttentions, WideLatents) {
  for (const LatentCase& c :
       {LatentCase{2, 16, 64, 16, 512, true, CacheType::kF16}, LatentCase{1, 3, 64, 5, 576, false}}) {
    check_case(*device, true, c, dense_matrix(DType::kF16, expanded_rows(c), static_cast<std::int64_t>(c.rank), 33));
  }
}

TEST_P(LatentAttentions, PackedExpansions) {
  for (const Format format : {Format::kFp4, Format::kFp8E4M3, Format::kInt2}) {
    const LatentCase c{3, 12, 4, 10, 64, true};
    check_case(*device, few_shapes(), c,
               packed_matrix(default_spec(format), expanded_rows(c), static_cast<std::int64_t>(c.rank), 34));
  }
}

}  // namespace
}  // namespace metal_marlin::msl
