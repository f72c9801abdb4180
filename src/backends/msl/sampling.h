// The next token of each row of logits on a device (shaders/sampling.metal).
#pragma once

#include "backends/msl/device.h"
#include "metal_marlin/sampler.h"

namespace metal_marlin::msl {

// As SampleParams in shaders/sampling.metal.
struct SampleParams {
  float temperature;
  std::uint32_t top_k;
  float typical_p;
  float top_p;
  float min_p;
  float repeat_penalty;
  float frequency_penalty;
  float presence_penalty;
  float uniform;
};
// uniform: of [0, 1), for the draw. \throws Error (kInvalidArgument) naming the option.
SampleParams sample_params(const SamplerOptions& options, float uniform);

struct SampleCall {
  Buffer* logits = nullptr;  // f32, f16 or bf16 [rows][vocab]
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  Buffer* params = nullptr;         // SampleParams [rows]
  Buffer* counts = nullptr;         // i32 [rows][vocab]: how often each id was, for penalties; or null
  Buffer* ids = nullptr;            // i32 [rows]
  Buffer* probabilities = nullptr;  // f32 [rows][vocab]: of what the draw was made; or null
};
void encode_sample(Device& device, Commands& commands, DType type, const SampleCall& call);
// counts[row][ids[row]] += 1.
void encode_sample_accept(Device& device, Commands& commands, std::int64_t rows, std::int64_t vocab, Buffer& ids,
                          Buffer& counts);

}  // namespace metal_marlin::msl
