#include "metal_marlin/embed.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/embedding_batch.h"

namespace metal_marlin {
namespace {

constexpr std::array<std::pair<std::string_view, Pooling>, 3> kPoolings = {
    {{"mean", Pooling::kMean}, {"last", Pooling::kLast}, {"cls", Pooling::kCls}}};

std::vector<std::vector<float>> embed_inputs(const std::shared_ptr<const Model>& model,
                                             std::span<const std::vector<TokenId>> inputs, std::size_t skipped,
                                             const EmbedOptions& options) {
  const ModelInfo& info = model->info();
  const std::int64_t context = options.context > 0 ? std::min(options.context, info.max_positions) : info.max_positions;
  if (options.step_tokens < 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("embed: step_tokens is {}, expected 1 or more", options.step_tokens));
  }
  check_embedding(inputs, options.form, skipped, options.adapter, info, context);
  std::vector<EmbeddingItem> items;
  std::int64_t longest = 1;
  std::int64_t total = 0;
  for (const std::vector<TokenId>& input : inputs) {
    items.push_back({input, options.form, skipped, options.adapter});
    longest = std::max(longest, static_cast<std::int64_t>(input.size()));
    total += static_cast<std::int64_t>(input.size());
  }
  EmbeddingBatch batch(model, longest, options.step_tokens);
  std::vector<EmbeddingItem*> running;
  std::size_t next = 0;
  for (std::int64_t done = 0; done < total;) {
    while (next < items.size() && batch.admit(items[next])) running.push_back(&items[next++]);
    done += batch.step(running, options.step_tokens);
    std::erase_if(running, [&](EmbeddingItem* item) {
      if (item->is_ready()) batch.leave(*item);
      return item->is_ready();
    });
    if (options.progress && !options.progress(done, total))
      throw Error(ErrorCode::kCancelled, "the embedding was cancelled");
  }
  std::vector<std::vector<float>> out;
  for (EmbeddingItem& item : items) out.push_back(std::move(item.vector));
  return out;
}

}  // namespace

std::size_t prompt_tokens(const Tokenizer& tokenizer, const std::string& prompt) {
  if (prompt.empty()) return 0;
  const std::vector<TokenId> ids = tokenizer.encode(prompt);
  // What ends a text comes behind what the prompt goes before.
  return ids.size() - (!ids.empty() && tokenizer.is_special(ids.back()) ? 1 : 0);
}

Pooling parse_pooling(std::string_view name) {
  for (const auto& [known, pooling] : kPoolings) {
    if (known == name) return pooling;
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("pooling is {}, expected mean, last or cls", name));
}

std::string_view pooling_name(Pooling pooling) {
  return std::find_if(kPoolings.begin(), kPoolings.end(), [&](const auto& each) { return each.second == pooling; })
      ->first;
}

std::vector<std::vector<float>> embed_tokens(const std::shared_ptr<const Model>& model,
                                             std::span<const std::vector<TokenId>> inputs,
                                             const EmbedOptions& options) {
  return embed_inputs(model, inputs, 0, options);
}

std::vector<std::vector<float>> embed(const std::shared_ptr<const Model>& model, std::span<const std::string> texts,
                                      const EmbedOptions& options) {
  const auto tokenizer = model->tokenizer();
  std::vector<std::vector<TokenId>> inputs;
  for (const std::string& text : texts) inputs.push_back(tokenizer->encode(options.prompt + text));
  const std::size_t skipped = options.include_prompt ? 0 : prompt_tokens(*tokenizer, options.prompt);
  return embed_inputs(model, inputs, skipped, options);
}

}  // namespace metal_marlin
