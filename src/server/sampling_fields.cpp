#include "server/sampling_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "base/parse_number.h"
#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

// A field, and the values that ask for nothing (null does always).
struct Unsupported {
  const char* key;
  const char* why;
  std::vector<OrderedJson> idle;
};

const std::vector<Unsupported>& unsupported_fields(Api api) {
  static const OrderedJson keeps_thoughts = {
      {"edits", OrderedJson::array({{{"type", "clear_thinking_20251015"}, {"keep", "all"}}})}};
  static const std::vector<Unsupported> of_messages = {
      {"mcp_servers", "no servers are called", {OrderedJson::array()}},
      {"container", "nothing is run here", {}},
      {"thread", "conversations are not kept", {}},
      {"context_management",
       "conversations are not edited",
       {OrderedJson::object(), {{"edits", OrderedJson::array()}}, keeps_thoughts}},
      {"diagnostics",
       "nothing is known of earlier requests",
       {OrderedJson::object(), {{"previous_message_id", nullptr}}}}};
  static const std::vector<Unsupported> all = {
      {"tools", "completions have no tools", {OrderedJson::array()}},
      {"tool_choice", "completions have no tools", {"none", "auto"}},
      {"functions", "chats alone have functions", {OrderedJson::array()}},
      {"function_call", "chats alone have functions", {"none", "auto"}},
      {"response_format", "a response has text.format in its place", {{{"type", "text"}}}},
      {"modalities", "answers are text", {OrderedJson::array({"text"})}},
      {"audio", "answers are text", {}},
      {"web_search_options", "nothing is searched", {}},
      {"suffix", "text is continued, not filled in", {""}},
      {"best_of", "answers are not ranked", {1}},
      {"use_beam_search", "there is no beam search", {false}},
      {"length_penalty", "there is no beam search", {1, 1.0}},
      {"skip_special_tokens", "special tokens are not part of texts", {true}},
      {"background", "answers are not kept", {false}},
      {"previous_response_id", "answers are not kept", {}},
      {"conversation", "answers are not kept", {}},
      {"prompt", "there are no stored prompts", {}},
      {"max_tool_calls", "no tools are run here", {}},
      {"truncation", "prompts are not cut", {"disabled"}},
      {"text",
       "it is a response's; here it is response_format",
       {{{"format", {{"type", "text"}}}}, OrderedJson::object()}},
      {"truncate_prompt_tokens", "prompts are not cut", {}},
      {"prompt_logprobs", "a completion with echo and logprobs has them", {}},
  };
  return api == Api::kAnthropic ? of_messages : all;
}

// Fields that name, file or bill a request, or say how fast it should be.
constexpr std::array<std::string_view, 12> kHarmless = {"user",
                                                        "metadata",
                                                        "store",
                                                        "service_tier",
                                                        "safety_identifier",
                                                        "prompt_cache_key",
                                                        "prompt_cache_retention",
                                                        "parallel_tool_calls",
                                                        "prediction",
                                                        "request_id",
                                                        "verbosity",
                                                        "spaces_between_special_tokens"};

constexpr std::array<std::string_view, 5> kHarmlessInMessages = {"metadata", "service_tier", "cache_control",
                                                                 "inference_geo", "speed"};

std::span<const std::string_view> harmless_fields(Api api) {
  return api == Api::kAnthropic ? std::span<const std::string_view>(kHarmlessInMessages) : kHarmless;
}

// As it is written in decimal, and in no other way, so that none is there twice.
std::optional<TokenId> token_id(const std::string& text, std::int64_t vocabulary) {
  const auto id = parse_number<TokenId>(text);
  if (!id || *id < 0 || *id >= vocabulary || fmt::format("{}", *id) != text) return std::nullopt;
  return id;
}

std::vector<std::pair<TokenId, float>> read_logit_bias(Fields& fields, std::int64_t vocabulary) {
  std::vector<std::pair<TokenId, float>> biases;
  const OrderedJson* const map = fields.find("logit_bias");
  if (map == nullptr) return biases;
  if (!map->is_object()) fields.wrong("logit_bias", "an object of token ids and numbers");
  for (const auto& [key, value] : map->items()) {
    const std::optional<TokenId> id = token_id(key, vocabulary);
    if (!id) {
      throw ApiError(400, fmt::format("logit_bias.{}: expected a token id from 0 to {}", key, vocabulary - 1),
                     "logit_bias");
    }
    if (!value.is_number() || !(std::abs(value.get<double>()) <= 100)) {
      throw ApiError(400,
                     fmt::format("logit_bias.{} is {}, expected a number from -100 to 100", key, shown_json(value)),
                     "logit_bias");
    }
    biases.emplace_back(*id, value.get<float>());
  }
  return biases;
}

SamplerOptions read_sampler(Fields& fields, const ModelInfo& model) {
  const auto number = [&](const char* key, double low, double high, float fallback) {
    return static_cast<float>(fields.number(key, low, high).value_or(fallback));
  };
  SamplerOptions sampler = model.sampling;
  sampler.temperature = number("temperature", 0, 2, sampler.temperature);
  sampler.top_p = number("top_p", 1e-6, 1, sampler.top_p);
  sampler.min_p = number("min_p", 0, 1, sampler.min_p);
  sampler.typical_p = number("typical_p", 1e-6, 1, sampler.typical_p);
  const auto top_k = fields.integer("top_k", -1, INT32_MAX);
  if (top_k) sampler.top_k = static_cast<int>(std::max<std::int64_t>(0, *top_k));
  sampler.frequency_penalty = number("frequency_penalty", -2, 2, 0);
  sampler.presence_penalty = number("presence_penalty", -2, 2, 0);
  sampler.repeat_penalty = number("repetition_penalty", 0.01, 100, sampler.repeat_penalty);
  const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  std::random_device random;
  sampler.seed = seed ? static_cast<std::uint64_t>(*seed) : (static_cast<std::uint64_t>(random()) << 32 | random());
  sampler.logit_bias = read_logit_bias(fields, model.vocab);
  return sampler;
}

// What all requests for text have, however they call what ends an answer.
TextOptions read_options(Fields& fields, const ModelInfo& model, const char* stop_key) {
  TextOptions out;
  out.engine.sampler = read_sampler(fields, model);
  out.engine.stop = fields.texts(stop_key);
  if (std::any_of(out.engine.stop.begin(), out.engine.stop.end(), [](const auto& text) { return text.empty(); }))
    throw ApiError(400, fmt::format("{} has a text that is empty, expected texts that can end an answer", stop_key),
                   stop_key);
  if (out.engine.stop.size() > kMaxStops) fields.wrong(stop_key, fmt::format("at most {} texts", kMaxStops));
  out.engine.stop_ids = fields.token_ids("stop_token_ids", model.vocab);
  out.engine.ignore_end = fields.boolean("ignore_eos", false);
  out.engine.min_tokens = static_cast<int>(fields.integer("min_tokens", 0, INT32_MAX).value_or(0));
  out.engine.priority = static_cast<int>(fields.integer("priority", INT32_MIN, INT32_MAX).value_or(0));
  out.stream = fields.boolean("stream", false);
  return out;
}

}  // namespace

TextOptions read_text_options(Fields& fields, const ModelInfo& model) {
  TextOptions out = read_options(fields, model, "stop");
  out.engine.samples = static_cast<int>(fields.integer("n", 1, kMaxChoices).value_or(1));
  out.engine.slot = static_cast<int>(fields.integer("id_slot", -1, kMaxSlot).value_or(-1));
  out.engine.show_stop = fields.boolean("include_stop_str_in_output", false);
  if (auto options = fields.object("stream_options")) {
    if (!out.stream) throw conflict("stream_options is only for stream: true", "stream_options");
    out.usage_at_end = options->boolean("include_usage", false);
    out.usage_in_chunks = options->boolean("continuous_usage_stats", false);
    if (out.usage_in_chunks && !out.usage_at_end)
      throw conflict("continuous_usage_stats needs include_usage: true", "stream_options.continuous_usage_stats");
    options->boolean("include_obfuscation", false);  // nothing is obfuscated
    options->refuse_others({});
  }
  return out;
}

TextOptions read_message_options(Fields& fields, const ModelInfo& model) {
  return read_options(fields, model, "stop_sequences");
}

std::optional<int> read_max_tokens(Fields& fields, std::span<const char* const> keys, int least) {
  std::optional<int> most;
  for (const char* const key : keys) {
    const auto value = fields.integer(key, least, INT32_MAX);
    if (value && !most) most = static_cast<int>(*value);
  }
  return most;
}

void refuse_unsupported(Fields& fields, Api api) {
  for (const Unsupported& field : unsupported_fields(api)) {
    if (fields.was_read(field.key)) continue;
    const OrderedJson* const value = fields.find(field.key);
    if (value == nullptr || std::find(field.idle.begin(), field.idle.end(), *value) != field.idle.end()) continue;
    throw ApiError(400, fmt::format("{} is not supported: {}", fields.name_of(field.key), field.why),
                   fields.name_of(field.key), "unsupported_parameter");
  }
  fields.refuse_others(harmless_fields(api));
}

OrderedJson schemas_of_idle_fields(Api api) {
  OrderedJson schemas = OrderedJson::object();
  for (const std::string_view name : harmless_fields(api)) schemas[std::string(name)] = OrderedJson::object();
  for (const Unsupported& field : unsupported_fields(api)) {
    OrderedJson& values = schemas[field.key]["enum"] = OrderedJson::array({nullptr});
    for (const OrderedJson& value : field.idle) values.push_back(value);
  }
  return schemas;
}

void check_request(const EngineRequest& request, const ServedModel& model, const std::string& prompt,
                   const std::string& limit) {
  const std::size_t size = request.prompt.size();
  if (size == 0) throw ApiError(400, fmt::format("{} has no tokens: there is nothing to continue", prompt), prompt);
  const std::int64_t context = model.engine->plan().context;
  const std::int64_t left = context - static_cast<std::int64_t>(size);
  if (left <= 0) {
    throw ApiError(400, fmt::format("{} has {} tokens, expected fewer than the context of {}", prompt, size, context),
                   prompt, "context_length_exceeded");
  }
  const std::int64_t most = request.max_tokens.value_or(static_cast<int>(left));
  if (most > left) {
    throw ApiError(400,
                   fmt::format("{} is {}, but {} has {} tokens, which leave {} of the context of {}", limit, most,
                               prompt, size, left, context),
                   limit, "context_length_exceeded");
  }
  const int parallel = model.engine->plan().parallel;
  if (request.slot >= parallel) {
    throw ApiError(400, fmt::format("id_slot is {}, expected -1 to {}", request.slot, parallel - 1), "id_slot",
                   "no_such_slot");
  }
  if (request.min_tokens > most) {
    throw conflict(fmt::format("min_tokens is {}, but there can be {} at most", request.min_tokens, most),
                   "min_tokens");
  }
}

}  // namespace metal_marlin::server
