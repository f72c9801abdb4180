// /v1/embeddings: texts to vectors.
#include "server/embeddings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "runtime/embedding_batch.h"
#include "server/api_error.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

constexpr std::array<std::string_view, 2> kEncodings = {"float", "base64"};

std::string base64(std::string_view bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < count ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j) out += j <= count ? digits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

// Little-endian floats, as OpenAI's API has them.
std::string float_bytes(std::span<const float> vector) {
  std::string bytes;
  for (const float value : vector) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 0xFF);
  }
  return bytes;
}

// Written here: a JSON value would make a double of each float, of twice as many digits.
std::string vector_text(std::span<const float> vector, bool as_base64) {
  if (as_base64) return '"' + base64(float_bytes(vector)) + '"';
  std::string text = "[";
  for (const float value : vector) fmt::format_to(std::back_inserter(text), "{}{}", text.size() > 1 ? "," : "", value);
  return text + "]";
}

std::vector<std::vector<TokenId>> read_inputs(Fields& fields, const ServedModel& model, const std::string& prompt) {
  const OrderedJson* const value = fields.find("input");
  constexpr const char* expected = "a text, token ids, or a list of either";
  if (value == nullptr) fields.wrong("input", expected);
  const auto tokens = [&](const OrderedJson& list, const std::string& name) {
    std::vector<TokenId> ids = token_list(list, model.vocabulary(), name);
    check_input(ids, model, name);
    return ids;
  };
  if (value->is_string()) return {text_input(prompt + value->get<std::string>(), model, "input")};
  if (!value->is_array() || value->empty()) fields.wrong("input", expected);
  if (value->front().is_number()) return {tokens(*value, "input")};
  if (value->size() > kMostInputs) fields.wrong("input", fmt::format("at most {} inputs", kMostInputs));
  std::vector<std::vector<TokenId>> inputs;
  for (std::size_t i = 0; i < value->size(); ++i) {
    const OrderedJson& item = (*value)[i];
    const std::string name = fmt::format("input[{}]", i);
    if (!item.is_string() && !item.is_array()) {
      throw ApiError(400, fmt::format("{} is {}, expected a text or a list of token ids", name, shown_json(item)),
                     "input");
    }
    inputs.push_back(item.is_string() ? text_input(prompt + item.get<std::string>(), model, name) : tokens(item, name));
  }
  return inputs;
}

// Prompts go before texts alone. \throws ApiError where there are both.
bool has_token_ids(const OrderedJson& input) {
  if (!input.is_array()) return false;
  if (input.front().is_number()) return true;
  const auto lists = std::count_if(input.begin(), input.end(), [](const auto& item) { return item.is_array(); });
  if (lists > 0 && lists < std::ssize(input)) {
    throw ApiError(
        400, "input has texts and token ids, expected one of them: this model leaves prompts out of the mean", "input");
  }
  return lists > 0;
}

std::string read_prompt(Fields& fields, const ServedModel& model) {
  try {
    return model.embedding.prompt(fields.text("prompt_name").value_or(""));
  } catch (const Error& error) {
    throw ApiError(400, fmt::format("prompt_name: {}", error.what()), "prompt_name");
  }
}

}  // namespace

Embedder& embedder_of(const ServedModel& model) {
  if (model.embedder) return *model.embedder;
  throw ApiError(400, fmt::format("model {} gives no vectors", model.name), "model", "unsupported_model");
}

void check_input(const std::vector<TokenId>& input, const ServedModel& model, const std::string& name) {
  const std::string field = name.substr(0, name.find('['));
  const std::int64_t context = model.engine->plan().context;
  if (input.empty()) throw ApiError(400, fmt::format("{} has no tokens", name), field);
  if (static_cast<std::int64_t>(input.size()) > context) {
    throw ApiError(400,
                   fmt::format("{} has {} tokens, expected at most the context of {}", name, input.size(), context),
                   field, "context_length_exceeded");
  }
}

std::vector<TokenId> text_input(const std::string& text, const ServedModel& model, const std::string& name) {
  std::vector<TokenId> ids = model.tokenizer->encode(text);
  check_input(ids, model, name);
  return ids;
}

void start_embedding(Service& service, const Call& call, const ServedModel& model, EmbeddingRequest request,
                     std::function<void(std::vector<std::vector<float>>)> answer) {
  refuse_while_draining(service);
  std::size_t tokens = 0;
  for (const std::vector<TokenId>& input : request.inputs) tokens += input.size();
  call.log->set("model", model.name);
  call.log->set("prompt_tokens", tokens);
  Embedder& embedder = embedder_of(model);
  const auto on_result = [&service, &model, call, tokens, answer = std::move(answer)](EmbeddingResult result) {
    service.metrics.embedded(model.name, result.error ? 0 : tokens, result.error ? "error" : "stop");
    if (!result.error) return answer(std::move(result.vectors));
    const ApiError error = to_api_error(*result.error);
    call.log->set("error", error.what());
    call.exchange->respond(error.status, "application/json", call.error(error));
  };
  request.adapter = model.adapter();
  const std::uint64_t id = embedder.submit(std::move(request), on_result);
  call.exchange->when_gone([&embedder, id, models = call.models] { embedder.cancel(id); });
}

void answer_embeddings(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  static_cast<void>(embedder_of(model));
  const bool as_base64 =
      fields.find("encoding_format") != nullptr && fields.choice("encoding_format", kEncodings) == "base64";
  EmbeddingRequest request;
  request.form = {model.embedding.pooling, model.embedding.normalize,
                  fields.integer("dimensions", 1, model.info().hidden).value_or(0)};
  const std::string prompt = read_prompt(fields, model);
  request.inputs = read_inputs(fields, model, prompt);
  if (!model.embedding.include_prompt && !prompt.empty() && !has_token_ids(body["input"]))
    request.skipped = prompt_tokens(*model.tokenizer, prompt);
  static_cast<void>(fields.text("user"));
  fields.refuse_others({});
  if (service.log.with_prompts()) call.log->set("prompt", body["input"]);
  std::size_t tokens = 0;
  for (const std::vector<TokenId>& input : request.inputs) tokens += input.size();
  start_embedding(service, call, model, std::move(request),
                  [call, name = model.name, as_base64, tokens](const std::vector<std::vector<float>>& vectors) {
                    std::string text = R"({"object":"list","data":[)";
                    for (std::size_t i = 0; i < vectors.size(); ++i) {
                      text += fmt::format(R"({}{{"object":"embedding","index":{},"embedding":)", i > 0 ? "," : "", i) +
                              vector_text(vectors[i], as_base64) + "}";
                    }
                    const OrderedJson usage = {{"prompt_tokens", tokens}, {"total_tokens", tokens}};
                    text += fmt::format(R"(],"model":{},"usage":{}}})", json_text(name), json_text(usage));
                    call.exchange->respond(200, "application/json", std::move(text));
                  });
}

}  // namespace metal_marlin::server
