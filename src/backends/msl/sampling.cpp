#include "backends/msl/sampling.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {

SampleParams sample_params(const SamplerOptions& options, float uniform) {
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
          uniform};
}

void encode_sample(Device& device, Commands& commands, DType type, const SampleCall& call) {
  if (call.vocab < 1) throw Error(ErrorCode::kInvalidArgument, "sampling: the vocabulary is empty");
  if (call.rows == 0) return;
  commands.dispatch(device.pipeline("sampling", fmt::format("sample_{}", shader_type(type))),
                    {static_cast<std::uint32_t>(call.rows), 1, 1}, {1024, 1, 1},
                    Arguments()
                        .buffer(0, *call.logits)
                        .buffer(1, call.counts != nullptr ? *call.counts : *call.ids)
                        .buffer(2, *call.ids)
                        .buffer(3, call.probabilities != nullptr ? *call.probabilities : *call.ids)
                        .buffer(4, *call.params)
                        .bytes(5, static_cast<std::uint32_t>(call.vocab))
                        .bytes(6, std::uint32_t{call.counts != nullptr ? 1U : 0U})
                        .bytes(7, std::uint32_t{call.probabilities != nullptr ? 1U : 0U}));
}

void encode_sample_accept(Device& device, Commands& commands, std::int64_t rows, std::int64_t vocab, Buffer& ids,
                          Buffer& counts) {
  if (rows == 0) return;
  const auto count = static_cast<std::uint32_t>(rows);
  commands.dispatch_threads(device.pipeline("sampling", "sample_accept"), {count, 1, 1}, {32, 1, 1},
                            Arguments().buffer(0, ids).buffer(1, counts).bytes(2, static_cast<std::uint32_t>(vocab)));
}

}  // namespace metal_marlin::msl
