// What a model's layer for the next tokens says of a text, straight from the backend.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "backends/registry.h"
#include "base/shared_pool.h"
#include "models/architectures.h"
#include "models/config.h"
#include "test_data.h"

namespace metal_marlin {

struct PredictionStates {
  std::vector<float> logits;  // behind each token but the first: of what follows it
  std::vector<float> next;    // behind the likeliest of the last row, from the layer's own hidden state
  std::size_t layer_bytes = 0;
  std::size_t layer_bytes_alone = 0;  // with an embedding and a head of its own

  [[nodiscard]] std::int32_t likeliest(std::size_t row, std::size_t vocab) const {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    return static_cast<std::int32_t>(std::max_element(begin, begin + static_cast<std::ptrdiff_t>(vocab)) - begin);
  }
};

inline PredictionStates prediction_states(const std::filesystem::path& folder, const std::vector<std::int32_t>& ids,
                                          const std::string& backend_name = "cpu") {
  const auto checkpoint = open_checkpoint(folder);
  const ModelConfig config = read_model_config(*checkpoint);
  const auto backend = make_backend(backend_name, {shared_pool(1), ""});
  const auto model = backend->prepare(build_plan(config, true), *checkpoint, {Activations::kF32, {}});
  const Plan plan = build_prediction_plan(config);
  const auto layer = backend->prepare(plan, *checkpoint, {Activations::kF32, {}, model});
  PredictionStates out;
  out.layer_bytes = layer->weight_bytes();
  out.layer_bytes_alone = backend->prepare(plan, *checkpoint, {Activations::kF32, {}})->weight_bytes();

  const auto count = static_cast<int>(ids.size());
  std::vector<std::int32_t> pages(static_cast<std::size_t>(pages_for(count + 1)));
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<int> all(ids.size() - 1);
  std::iota(all.begin(), all.end(), 0);
  const RunnerLimits limits{count, count, 1, static_cast<int>(pages.size())};
  const auto whole = model->make_runner(limits, CacheType::kF32);
  const std::vector<SequenceSlice> text{{0, count, 0, pages}};
  whole->step({ids, text, std::span(all).first(1)});
  const std::size_t hidden = static_cast<std::size_t>(config.hidden);
  const std::vector<float> states(whole->hidden(), whole->hidden() + static_cast<std::ptrdiff_t>(ids.size() * hidden));

  const auto runner = layer->make_runner(limits, CacheType::kF32);
  const std::vector<SequenceSlice> pairs{{0, count - 1, 0, pages}};
  const auto vocab = static_cast<std::size_t>(config.vocab);
  const float* rows = runner->step({std::span(ids).subspan(1), pairs, all, states.data()});
  out.logits.assign(rows, rows + static_cast<std::ptrdiff_t>(all.size() * vocab));
  const float* const last = runner->hidden() + static_cast<std::ptrdiff_t>((all.size() - 1) * hidden);
  const std::vector<float> own(last, last + static_cast<std::ptrdiff_t>(hidden));
  const std::vector<std::int32_t> guess{out.likeliest(all.size() - 1, vocab)};
  const std::vector<SequenceSlice> more{{0, 1, count - 1, pages}};
  rows = runner->step({guess, more, std::span(all).first(1), own.data()});
  out.next.assign(rows, rows + static_cast<std::ptrdiff_t>(vocab));
  return out;
}

}  // namespace metal_marlin
