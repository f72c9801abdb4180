#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "server/service.h"

namespace metal_marlin::server {
namespace {

using Counters = prometheus::Family<prometheus::Counter>;
using Gauges = prometheus::Family<prometheus::Gauge>;
using Histograms = prometheus::Family<prometheus::Histogram>;
using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kFirstToken = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                             0.75,  1,     2.5,  5,    7.5,  10,   20,   40,  80,   160};
const Buckets kToken = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5};
const Buckets kWhole = {0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920};
const Buckets kSizes = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

// A counter to what its source has counted.
void raise_to(prometheus::Counter& counter, double value) {
  if (value > counter.Value()) counter.Increment(value - counter.Value());
}

// What two engines counted, one after the other.
EngineStats together(const EngineStats& before, const EngineStats& now) {
  EngineStats sum = now;
  sum.cache.asked_tokens += before.cache.asked_tokens;
  sum.cache.reused_tokens += before.cache.reused_tokens;
  sum.preemptions += before.preemptions;
  sum.swapped_out += before.swapped_out;
  sum.swapped_in += before.swapped_in;
  sum.speculation.drafts += before.speculation.drafts;
  sum.speculation.draft_tokens += before.speculation.draft_tokens;
  sum.speculation.accepted_tokens += before.speculation.accepted_tokens;
  sum.speculation.accepted_at.resize(
      std::max(sum.speculation.accepted_at.size(), before.speculation.accepted_at.size()));
  for (std::size_t i = 0; i < before.speculation.accepted_at.size(); ++i)
    sum.speculation.accepted_at[i] += before.speculation.accepted_at[i];
  return sum;
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;
  std::mutex collecting;

  template <class Family, class Builder>
  static Family& make(prometheus::Registry& registry, Builder builder, const char* name, const char* help) {
    return builder().Name(std::string("metal_marlin:") + name).Help(help).Register(registry);
  }
  Counters& counter(const char* name, const char* help) {
    return make<Counters>(registry, prometheus::BuildCounter, name, help);
  }
  Gauges& gauge(const char* name, const char* help) {
    return make<Gauges>(registry, prometheus::BuildGauge, name, help);
  }
  Histograms& histogram(const char* name, const char* help) {
    return make<Histograms>(registry, prometheus::BuildHistogram, name, help);
  }

  Gauges& running = gauge("num_requests_running", "Samples in the cache.");
  Gauges& waiting = gauge("num_requests_waiting", "Samples that wait for a place.");
  Gauges& usage = gauge("kv_cache_usage_perc", "Part of the cache that is held, 1: all.");
  Counters& queries = counter("prefix_cache_queries_total", "Prompt tokens looked for in the prefix cache.");
  Counters& hits = counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.");
  Counters& preemptions = counter("num_preemptions_total", "Samples that lost their place to others.");
  Gauges& swapped = gauge("num_requests_swapped", "Samples that wait with their pages in the processor's memory.");
  Gauges& swap_usage = gauge("cpu_cache_usage_perc", "Part of the memory to swap to that is used, 1: all.");
  Counters& swapped_out = counter("num_swaps_out_total", "Samples whose pages were copied to the processor's memory.");
  Counters& swapped_in = counter("num_swaps_in_total", "Samples whose pages were copied back.");
  Counters& drafts = counter("spec_decode_num_drafts_total", "Guesses of the tokens that follow.");
  Counters& draft_tokens = counter("spec_decode_num_draft_tokens_total", "Tokens that were guessed.");
  Counters& accepted_tokens = counter("spec_decode_num_accepted_tokens_total", "Tokens that were guessed right.");
  Counters& accepted_at = counter("spec_decode_num_accepted_tokens_per_pos_total",
                                  "Tokens that were guessed right, by their place in the guess.");
  Counters& prompt_tokens = counter("prompt_tokens_total", "Tokens of the prompts of requests that ended.");
  Counters& generation_tokens = counter("generation_tokens_total", "Tokens that were generated.");
  Counters& success = counter("request_success_total", "Samples that ended, by their reason.");
  Counters& answers =
      counter("http_requests_total",
              "Requests, by the HTTP status of their answer; none: the client went before there was one.");
  Counters& lost = counter("log_lines_lost_total", "Lines of the log that could not be written.");
  Histograms& first_token = histogram("time_to_first_token_seconds", "From a request's arrival to its first token.");
  Histograms& per_token = histogram("time_per_output_token_seconds", "From a token to the next of its sample.");
  Histograms& whole = histogram("e2e_request_latency_seconds", "From a request's arrival to its end.");
  Histograms& queued = histogram("request_queue_time_seconds", "From a request's arrival to its first step.");
  Histograms& prompt_sizes = histogram("request_prompt_tokens", "Tokens of a request's prompt.");
  Histograms& answer_sizes = histogram("request_generation_tokens", "Tokens of a sample.");

  Gauges& is_loaded = gauge("model_loaded", "1: the model is loaded, 0: it is not.");
  Counters& loads = counter("model_loads_total", "Times that the model was loaded.");
  Counters& unloads = counter("model_unloads_total", "Times that the model was unloaded.");
  Gauges& embedding_requests = gauge("num_embedding_requests", "Requests for vectors that are open.");
  std::map<std::string, EngineStats> before;  // of engines that are gone, by model; `collecting` is for these too

  // Counters of an engine begin at 0 when its model is loaded again.
  void engine(const std::string& model, const EngineStats& now, std::size_t swap_bytes) {
    const EngineStats stats = together(before[model], now);
    const prometheus::Labels labels = {{"model_name", model}};
    const auto limit = static_cast<double>(now.cache.limit);
    running.Add(labels).Set(now.running);
    waiting.Add(labels).Set(now.waiting);
    usage.Add(labels).Set(limit > 0 ? static_cast<double>(now.cache.held) / limit : 0);
    raise_to(queries.Add(labels), static_cast<double>(stats.cache.asked_tokens));
    raise_to(hits.Add(labels), static_cast<double>(stats.cache.reused_tokens));
    raise_to(preemptions.Add(labels), static_cast<double>(stats.preemptions));
    const auto swap = static_cast<double>(swap_bytes);
    swapped.Add(labels).Set(now.swapped);
    swap_usage.Add(labels).Set(swap > 0 ? static_cast<double>(now.swapped_bytes) / swap : 0);
    raise_to(swapped_out.Add(labels), static_cast<double>(stats.swapped_out));
    raise_to(swapped_in.Add(labels), static_cast<double>(stats.swapped_in));
    speculation(model, stats.speculation);
  }

  void embedding(const std::string& model, const EmbedderStats& stats) {
    embedding_requests.Add({{"model_name", model}}).Set(stats.open);
  }

  void speculation(const std::string& model, const SpeculationStats& stats) {
    const prometheus::Labels labels = {{"model_name", model}};
    raise_to(drafts.Add(labels), static_cast<double>(stats.drafts));
    raise_to(draft_tokens.Add(labels), static_cast<double>(stats.draft_tokens));
    raise_to(accepted_tokens.Add(labels), static_cast<double>(stats.accepted_tokens));
    for (std::size_t i = 0; i < stats.accepted_at.size(); ++i)
      raise_to(accepted_at.Add({{"model_name", model}, {"position", std::to_string(i)}}),
               static_cast<double>(stats.accepted_at[i]));
  }
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::tokens(const std::string& model, std::size_t count, double seconds) {
  impl_->generation_tokens.Add({{"model_name", model}}).Increment(static_cast<double>(count));
  if (seconds <= 0) return;  // the first ones
  auto& histogram = impl_->per_token.Add({{"model_name", model}}, kToken);
  for (std::size_t i = 0; i < count; ++i) histogram.Observe(seconds / static_cast<double>(count));
}

void Metrics::sample_ended(const std::string& model, const EngineUsage& usage, const char* reason, bool prompt) {
  const prometheus::Labels labels = {{"model_name", model}};
  impl_->success.Add({{"model_name", model}, {"finished_reason", reason}}).Increment();
  if (prompt) {
    impl_->prompt_tokens.Add(labels).Increment(static_cast<double>(usage.prompt_tokens));
    impl_->prompt_sizes.Add(labels, kSizes).Observe(static_cast<double>(usage.prompt_tokens));
  }
  impl_->answer_sizes.Add(labels, kSizes).Observe(static_cast<double>(usage.generated_tokens));
  if (usage.first_token_seconds > 0) impl_->first_token.Add(labels, kFirstToken).Observe(usage.first_token_seconds);
  impl_->queued.Add(labels, kWhole).Observe(usage.queue_seconds);
  impl_->whole.Add(labels, kWhole).Observe(usage.total_seconds);
}

void Metrics::embedded(const std::string& model, std::size_t tokens, const char* reason) {
  impl_->success.Add({{"model_name", model}, {"finished_reason", reason}}).Increment();
  impl_->prompt_tokens.Add({{"model_name", model}}).Increment(static_cast<double>(tokens));
}

void Metrics::answered(int status) {
  impl_->answers.Add({{"status", status == 0 ? "none" : std::to_string(status)}}).Increment();
}

void Metrics::unloaded(const std::string& model, const EngineStats& stats) {
  const std::scoped_lock lock(impl_->collecting);
  EngineStats& before = impl_->before[model];
  before = together(before, stats);
}

std::string Metrics::text(const Models& models, std::uint64_t lost_log_lines) {
  const std::scoped_lock lock(impl_->collecting);
  for (const ModelStatus& status : models.all()) {
    if (!status.parent.empty()) continue;  // an adapter: its model's engine is told of once
    const prometheus::Labels labels = {{"model_name", status.name}};
    impl_->is_loaded.Add(labels).Set(status.state == std::string_view("loaded") ? 1 : 0);
    raise_to(impl_->loads.Add(labels), static_cast<double>(status.loads));
    raise_to(impl_->unloads.Add(labels), static_cast<double>(status.unloads));
    impl_->engine(status.name, {}, 0);  // what is not loaded runs nothing
  }
  for (const ModelLease& model : models.loaded()) {
    impl_->engine(model->name, model->engine->stats(), model->engine->plan().swap_bytes);
    if (model->embedder) {
      const EmbedderStats stats = model->embedder->stats();
      impl_->embedding(model->name, stats);
    }
  }
  raise_to(impl_->lost.Add({}), static_cast<double>(lost_log_lines));
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace metal_marlin::server
