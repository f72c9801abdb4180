#include "runtime/embedding_batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backends/backend.h"

namespace metal_marlin {
namespace {

// Sequences in one step; texts are short as a rule, and a step is full before there are more.
constexpr int kEmbeddingSequences = 32;

SessionOptions embedding_session(std::int64_t longest, int step_tokens) {
  SessionOptions out;
  out.max_sequences = std::min(kEmbeddingSequences, step_tokens);
  out.cache_tokens = std::max<std::int64_t>(longest, 2 * step_tokens);
  out.batch_tokens = step_tokens;
  out.batch_logits = step_tokens;
  out.one_order = true;
  out.hidden_states = true;
  return out;
}

void normalize_vector(std::vector<float>& vector) {
  double squares = 0;
  for (const float value : vector) squares += static_cast<double>(value) * value;
  const double length = std::max(std::sqrt(squares), 1e-12);  // as in the reference: a vector of zeros stays one
  for (float& value : vector) value = static_cast<float>(value / length);
}

}  // namespace

void check_embedding(std::span<const std::vector<TokenId>> inputs, const EmbeddingForm& form, std::size_t skipped,
                     const std::string& adapter, const ModelInfo& model, std::int64_t context) {
  if (!adapter.empty() && std::find(model.adapters.begin(), model.adapters.end(), adapter) == model.adapters.end())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("adapter is {}, which was not loaded", adapter));
  if (form.dimensions < 0 || form.dimensions > model.hidden) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("dimensions is {}, expected 1 to the {} that the model has",
                                                         form.dimensions, model.hidden));
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<TokenId>& input = inputs[i];
    if (input.empty()) throw Error(ErrorCode::kInvalidArgument, fmt::format("input {} has no tokens", i));
    if (static_cast<std::int64_t>(input.size()) > context) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("input {} has {} tokens, the context of embeddings has {}", i, input.size(), context));
    }
    if (skipped >= input.size() && form.pooling == Pooling::kMean) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("input {} has nothing behind its prompt of {} tokens", i, skipped));
    }
    const auto outside =
        std::find_if(input.begin(), input.end(), [&](TokenId id) { return id < 0 || id >= model.vocab; });
    if (outside != input.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("input {}: token id {} is outside the vocabulary of {}", i, *outside, model.vocab));
    }
  }
}

EmbeddingBatch::EmbeddingBatch(const std::shared_ptr<const Model>& model, std::int64_t longest, int step_tokens)
    : step_tokens_(step_tokens),
      width_(static_cast<std::size_t>(model->info().hidden)),
      session_(model, embedding_session(longest, step_tokens)) {}

bool EmbeddingBatch::admit(EmbeddingItem& item) {
  const std::int64_t pages = pages_for(static_cast<std::int64_t>(item.tokens.size()));
  const CacheStats stats = session_.cache_stats();
  if (promised_pages_ + pages > stats.limit) return false;
  try {
    item.sequence = session_.open(item.adapter);
  } catch (const Error&) {  // no place: that is the only reason that it has
    return false;
  }
  promised_pages_ += pages;
  return true;
}

void EmbeddingBatch::leave(EmbeddingItem& item) {
  if (item.sequence < 0) return;
  session_.close(item.sequence);
  item.sequence = -1;
  promised_pages_ -= pages_for(static_cast<std::int64_t>(item.tokens.size()));
}

std::int64_t EmbeddingBatch::step(std::span<EmbeddingItem* const> items, int tokens) {
  std::vector<SequenceInput> inputs;
  std::vector<EmbeddingItem*> of;
  auto left = static_cast<std::size_t>(std::clamp(tokens, 1, step_tokens_));
  std::int64_t computed = 0;
  for (EmbeddingItem* const item : items) {
    if (left == 0) break;
    const std::size_t count = std::min(left, item->tokens.size() - item->done);
    const bool is_last = item->done + count == item->tokens.size();
    std::size_t from = 0;
    if (item->form.pooling == Pooling::kLast) from = is_last ? kLastLogits : kNoLogits;
    if (item->form.pooling == Pooling::kCls && item->done > 0) from = kNoLogits;
    inputs.push_back({item->sequence, item->tokens.subspan(item->done, count), from});
    of.push_back(item);
    left -= count;
    computed += static_cast<std::int64_t>(count);
  }
  session_.step(inputs, [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows) {
      EmbeddingItem& item = *of[static_cast<std::size_t>(row.input)];
      take(item, item.done + row.token, row.values);
    }
  });
  for (std::size_t i = 0; i < of.size(); ++i) {
    EmbeddingItem& item = *of[i];
    item.done += inputs[i].tokens.size();
    if (!item.is_ready()) continue;
    const double count =
        item.form.pooling == Pooling::kMean ? static_cast<double>(item.tokens.size() - item.skipped) : 1;
    const std::size_t kept = item.form.dimensions > 0 ? static_cast<std::size_t>(item.form.dimensions) : width_;
    for (std::size_t j = 0; j < kept; ++j) item.vector.push_back(static_cast<float>(item.sum[j] / count));
    if (item.form.normalize) normalize_vector(item.vector);
  }
  return computed;
}

void EmbeddingBatch::take(EmbeddingItem& item, std::size_t token, std::span<const float> row) const {
  if (item.form.pooling == Pooling::kMean && token < item.skipped) return;
  if (item.form.pooling == Pooling::kCls && token > 0) return;
  item.sum.resize(width_);
  for (std::size_t i = 0; i < width_; ++i) item.sum[i] += static_cast<double>(row[i]);
}

}  // namespace metal_marlin
