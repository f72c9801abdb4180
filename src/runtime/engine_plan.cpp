#include "runtime/engine_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "backends/backend.h"
#include "base/memory.h"

namespace metal_marlin {
namespace {

// While it grows, a cache lies beside its larger copy.
constexpr double kCacheShare = 0.6;
// A request is expected to need no more than so many tokens, where that decides how many run at a time.
constexpr std::int64_t kUsualTokens = 4096;
constexpr int kMostParallel = 64;

void require_option(bool ok, std::string_view option, std::int64_t found, const std::string& expected) {
  if (!ok) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("engine options: {} is {}, expected {}", option, found, expected));
  }
}

void check(const EngineOptions& o, const ModelInfo& model) {
  require_option(o.context >= 0 && o.context <= model.max_positions, "context", o.context,
                 fmt::format("0 to the {} that the model has", model.max_positions));
  require_option(o.parallel >= 0, "parallel", o.parallel, "0 or more");
  require_option(o.cache_tokens >= 0, "cache_tokens", o.cache_tokens, "0 or more");
  require_option(o.step_tokens > std::max(o.parallel, 1), "step_tokens", o.step_tokens,
                 "more than parallel, and at least 2");
  require_option(o.queue >= 1, "queue", o.queue, "1 or more");
  require_option(o.memory_share > 0 && o.memory_share <= 1, "memory_share, in hundredths,",
                 static_cast<std::int64_t>(o.memory_share * 100), "more than 0, 100 at most");
  require_option(o.prompt_delay.count() >= 1, "prompt_delay", o.prompt_delay.count(), "1 ms or more");
  require_option(o.hang_after.count() >= 1, "hang_after", o.hang_after.count(), "1 ms or more");
}

std::size_t bytes_of(std::int64_t tokens, const EngineMemory& memory) {
  return static_cast<std::size_t>(pages_for(tokens)) * memory.page_bytes;
}

// Tokens that the cache can hold in what is free.
std::int64_t tokens_that_fit(const EngineMemory& memory, const EngineOptions& options) {
  const int most_parallel = std::min(kMostParallel, options.step_tokens - 1);
  const std::size_t workspace = memory.workspace(options.parallel > 0 ? options.parallel : most_parallel);
  const std::size_t left = memory.available > workspace ? memory.available - workspace : 0;
  const auto pages = static_cast<std::int64_t>(kCacheShare * static_cast<double>(left)) /
                     static_cast<std::int64_t>(std::max<std::size_t>(memory.page_bytes, 1));
  return std::min(pages, memory.most_pages) * kCachePageTokens;
}

void require_fit(std::int64_t tokens, std::string_view what, std::int64_t fit, const EngineMemory& memory) {
  if (tokens <= fit) return;
  throw Error(ErrorCode::kOutOfMemory,
              fmt::format("{} of {} tokens needs {}; of {} free there is room for {} tokens", what, tokens,
                          byte_text(bytes_of(tokens, memory)), byte_text(memory.available), fit));
}

std::size_t swap_bytes(const EngineMemory& memory, const EngineOptions& options) {
  const std::size_t asked = options.swap_bytes;
  if (!memory.apart) {
    require_option(asked == 0, "swap_bytes", static_cast<std::int64_t>(asked),
                   "0, as this backend's caches lie in the memory that they would be swapped to");
    return 0;
  }
  require_memory(asked, memory.processor, "the memory that sequences are swapped to");
  return asked;
}

}  // namespace

EnginePlan plan_engine(const ModelInfo& model, const EngineMemory& memory, const EngineOptions& options) {
  check(options, model);
  const std::int64_t fit = tokens_that_fit(memory, options);
  EnginePlan plan;
  plan.available_bytes = memory.available;
  plan.kv_cache = model.kv_cache;
  if (options.cache_tokens > 0) {
    require_fit(options.cache_tokens, "a cache", fit, memory);
    require_option(options.context <= options.cache_tokens, "context", options.context,
                   fmt::format("no more than cache_tokens, {}", options.cache_tokens));
  }
  require_fit(std::max<std::int64_t>(options.context, kCachePageTokens), "a context", fit, memory);
  const std::int64_t most = options.cache_tokens > 0 ? options.cache_tokens : fit;
  plan.context = options.context > 0 ? options.context : std::min(model.max_positions, most);
  const std::int64_t parallel = most / std::min(plan.context, kUsualTokens);
  plan.parallel =
      options.parallel > 0
          ? options.parallel
          : static_cast<int>(std::clamp<std::int64_t>(parallel, 1, std::min(kMostParallel, options.step_tokens - 1)));
  plan.cache_tokens = options.cache_tokens > 0 ? options.cache_tokens : std::min(fit, plan.context * plan.parallel);
  plan.cache_bytes = bytes_of(plan.cache_tokens, memory);
  plan.swap_bytes = swap_bytes(memory, options);
  return plan;
}

std::string EnginePlan::text() const {
  const std::string swap =
      swap_bytes == 0 ? "" : fmt::format(", {} of the processor's memory to swap to", byte_text(swap_bytes));
  return fmt::format("context {} tokens, up to {} sequence{} at a time, cache {} tokens in {} ({} of {} free){}",
                     context, parallel, parallel == 1 ? "" : "s", cache_tokens, kv_cache, byte_text(cache_bytes),
                     byte_text(available_bytes), swap);
}

}  // namespace metal_marlin
