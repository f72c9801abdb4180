// The next token of each row of logits on a device (shaders/sampling.metal).
#pragma once

#include <span>
#include <vector>

#include "backends/msl/device.h"
#include "common/sampling_params.h"
#include "metal_marlin/sampler.h"

namespace metal_marlin::msl {

// uniform: of [0, 1), for the draw. \throws Error (kInvalidArgument) naming the option.
SampleParams sample_params(const SamplerOptions& options, double uniform);

struct SampleCall {
  Buffer* logits = nullptr;  // f32, f16 or bf16 [rows][vocab]; those of penalized tokens change
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  Buffer* params = nullptr;         // SampleParams [rows]
  Buffer* seen = nullptr;           // SeenToken, of all rows; in a row each id once
  Buffer* ids = nullptr;            // i32 [rows]; -1 where logits are not finite
  Buffer* probabilities = nullptr;  // f32 [rows][vocab]: of what the draw was made; or null
};
void encode_sample(Device& device, Commands& commands, DType type, const SampleCall& call);

// Draws the tokens that follow a step's rows of logits as their samplers would. The random numbers are theirs;
// sums are in f32 here and in f64 there, so that another token can come where a number falls within some
// 1e-6 of the border between two.
class TokenDraw {
 public:
  TokenDraw(Device& device, std::int64_t max_rows, std::int64_t vocab);
  // Makes room for all tokens that are penalized; true: encodings that were made before are of no use.
  bool grow(std::span<Sampler* const> samplers);
  // Each sampler's options and next random number, and greedy ones for rows without and further ones, `rows` in all.
  void upload(Queue& queue, std::span<Sampler* const> samplers, std::int64_t rows);
  void encode(Commands& commands, std::int64_t rows, Buffer& logits) const;
  // The tokens, which their samplers count; -1 where the logits are not finite. Of no use where there is no sampler.
  void download(Queue& queue, std::span<Sampler* const> samplers, std::span<TokenId> next) const;

 private:
  Device& device_;
  std::int64_t vocab_;
  std::unique_ptr<Buffer> params_;
  std::unique_ptr<Buffer> seen_;
  std::unique_ptr<Buffer> ids_;
  std::vector<SampleParams> host_params_;
  std::vector<SeenToken> host_seen_;
};

}  // namespace metal_marlin::msl
