// What requests for text have in common: how it is sampled, where it ends, how it is delivered.
#pragma once

#include "server/fields.h"
#include "server/service.h"

namespace metal_marlin::server {

struct TextOptions {
  EngineRequest engine;  // all but the prompt
  bool stream = false;
  bool usage_at_end = false;     // stream_options.include_usage
  bool usage_in_chunks = false;  // stream_options.continuous_usage_stats
};

// What a request does not say, the model's generation_config.json does. \throws ApiError naming the field.
TextOptions read_text_options(Fields& fields, const ModelInfo& model);
// As Anthropic's API has them: one answer, stop_sequences.
TextOptions read_message_options(Fields& fields, const ModelInfo& model);

// Max_tokens is left to what calls it so: `keys`, of which the first that is there counts; `least` that they may be.
std::optional<int> read_max_tokens(Fields& fields, std::span<const char* const> keys, int least);

enum class Api { kOpenAi, kAnthropic };
// Fields of an API that this server does not do: their value must be one that asks for nothing. Then refuses fields
// that nobody knows. To be called after all others were read.
void refuse_unsupported(Fields& fields, Api api = Api::kOpenAi);
// By name, what these fields and those that change nothing may be, as JSON Schema.
OrderedJson schemas_of_idle_fields(Api api);

// Whether a request as it goes to the engine holds together. `prompt` and `limit` are what its fields are called.
// \throws ApiError (400) when a prompt leaves no place for its answer, or fields do not go together.
void check_request(const EngineRequest& request, const ServedModel& model, const std::string& prompt,
                   const std::string& limit);

// A request has so many answers at most: prompts times n.
constexpr std::int64_t kMaxChoices = 128;
constexpr std::int64_t kMaxSlot = 1023;  // of --parallel
constexpr std::int64_t kMaxLogprobs = 20;
constexpr std::size_t kMaxStops = 16;

}  // namespace metal_marlin::server
