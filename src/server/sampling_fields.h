// What requests for text have in common: how it is sampled, where it ends, how it is delivered.
#pragma once

#include "server/fields.h"
#include "server/service.h"

namespace metal_marlin::server {

struct TextOptions {
  EngineRequest engine;  // all but the prompt
  bool stream = false;
  bool usage_at_end = false;  // stream_options.include_usage
};

// \throws ApiError naming the field.
TextOptions read_text_options(Fields& fields, std::int64_t vocabulary);

// max_tokens is left to what calls it so: `keys`, of which the first that is there counts.
std::optional<int> read_max_tokens(Fields& fields, std::span<const char* const> keys);

// Fields of OpenAI's API that this server does not do: their value must be one that asks for nothing. Then refuses
// fields that nobody knows. To be called after all others were read.
void refuse_unsupported(Fields& fields);

// \throws ApiError (400) when a prompt leaves no place for an answer.
void check_length(const std::vector<TokenId>& prompt, const ServedModel& model, const std::string& param);

// A request has so many answers at most: prompts times n.
constexpr std::int64_t kMaxChoices = 128;
constexpr std::int64_t kMaxLogprobs = 20;

}  // namespace metal_marlin::server
