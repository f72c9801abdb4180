#include "backends/msl/sampling.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {

SampleParams sample_params(const SamplerOptions& options, double uniform) {
  validate(options);
  if (!(uniform >= 0 && uniform < 1))
    throw Error(ErrorCode::kInvalidArgument, fmt::format("sampling: uniform is {}, expected [0, 1)", uniform));
  return {options.temperature,
          static_cast<std::uint32_t>(options.top_k),
          options.typical_p,
          options.top_p,
          options.min_p,
          options.repeat_penalty,
          options.frequency_penalty,
          options.presence_penalty,
          static_cast<float>(std::floor(uniform * 0x1p24)) * 0x1p-24F,  // not rounded up to 1
          0,
          0};
}

void encode_sample(Device& device, Commands& commands, DType type, const SampleCall& call) {
  if (call.vocab < 1) throw Error(ErrorCode::kInvalidArgument, "sampling: the vocabulary is empty");
  if (call.rows == 0) return;
  commands.dispatch(device.pipeline("sampling", fmt::format("sample_{}", shader_type(type))),
                    {static_cast<std::uint32_t>(call.rows), 1, 1}, {1024, 1, 1},
                    Arguments()
                        .buffer(0, *call.logits)
                        .buffer(1, *call.seen)
                        .buffer(2, *call.ids)
                        .buffer(3, call.probabilities != nullptr ? *call.probabilities : *call.ids)
                        .buffer(4, *call.params)
                        .bytes(5, static_cast<std::uint32_t>(call.vocab))
                        .bytes(6, std::uint32_t{call.probabilities != nullptr ? 1U : 0U}));
}

TokenDraw::TokenDraw(Device& device, std::int64_t max_rows, std::int64_t vocab)
    : device_(device),
      vocab_(vocab),
      params_(device.allocate(static_cast<std::size_t>(max_rows) * sizeof(SampleParams))),
      seen_(device.allocate(sizeof(SeenToken))),
      ids_(device.allocate(static_cast<std::size_t>(max_rows) * sizeof(std::int32_t))) {}

bool TokenDraw::grow(std::span<Sampler* const> samplers) {
  std::size_t bytes = 0;
  for (const Sampler* const sampler : samplers) bytes += sampler != nullptr ? sampler->seen().size_bytes() : 0;
  if (bytes <= seen_->size()) return false;
  seen_ = device_.allocate(std::bit_ceil(bytes));
  return true;
}

void TokenDraw::upload(Queue& queue, std::span<Sampler* const> samplers, std::int64_t rows) {
  host_seen_.clear();
  host_params_.assign(static_cast<std::size_t>(rows), sample_params({}, 0));
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    if (samplers[i] == nullptr) continue;
    Sampler& sampler = *samplers[i];
    SampleParams& params = host_params_[i];
    params = sample_params(sampler.options(), sampler.options().temperature > 0 ? sampler.next_uniform() : 0);
    params.first_seen = static_cast<std::uint32_t>(host_seen_.size());
    host_seen_.insert(host_seen_.end(), sampler.seen().begin(), sampler.seen().end());
    params.last_seen = static_cast<std::uint32_t>(host_seen_.size());
  }
  queue.upload(*params_, std::as_bytes(std::span(host_params_)));
  queue.upload(*seen_, std::as_bytes(std::span(host_seen_)));
}

void TokenDraw::encode(Commands& commands, std::int64_t rows, Buffer& logits) const {
  encode_sample(device_, commands, DType::kF32,
                {&logits, rows, vocab_, params_.get(), seen_.get(), ids_.get(), nullptr});
}

void TokenDraw::download(Queue& queue, std::span<Sampler* const> samplers, std::span<TokenId> next) const {
  queue.download(*ids_, std::as_writable_bytes(next));
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    if (samplers[i] != nullptr) samplers[i]->accept(next[i]);
  }
}

}  // namespace metal_marlin::msl
