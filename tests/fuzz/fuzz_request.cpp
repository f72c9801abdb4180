// Arbitrary bytes as the body of a request to the server: JSON, the fields of all routes, conversations.
#include <array>

#include "chat_template/reasoning.h"
#include "server/api_error.h"
#include "server/chat.h"
#include "server/http/target.h"
#include "server/sampling_fields.h"

namespace {

// An ApiError is a good outcome, anything else is not caught.
template <typename Action>
void attempt_request(const Action& action) {
  try {
    action();
  } catch (const metal_marlin::server::ApiError& error) {
    if (metal_marlin::server::error_body(error, "/v1/messages", "a").empty()) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  using namespace metal_marlin::server;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt_request([&] {
    const metal_marlin::OrderedJson body = parse_body(text);
    Fields fields(body);
    ModelInfo model;
    model.vocab = 512;
    constexpr std::array<const char*, 2> limits = {"max_completion_tokens", "max_tokens"};
    attempt_request([&] { read_text_options(fields, model); });
    attempt_request([&] { read_max_tokens(fields, limits, 1); });
    attempt_request([&] { json_text(read_conversation(fields).messages); });
    attempt_request([&] { json_text(read_response_conversation(fields).messages); });
    attempt_request([&] { read_message_options(fields, model); });
    attempt_request([&] { json_text(read_message_conversation(fields, size % 2 == 0).messages); });
    attempt_request([&] { fields.token_ids("tokens", 512); });
    attempt_request([&] { refuse_unsupported(fields); });
    attempt_request([&] { refuse_unsupported(fields, Api::kAnthropic); });
  });
  const std::string path = target_path(text);
  if (path.size() > size) __builtin_trap();
  std::size_t query = 0;
  for (const auto& [name, value] : target_query(text)) query += name.size() + value.size();
  if (path.size() + query > size) __builtin_trap();
  // However a text is cut up, the same comes of it.
  metal_marlin::ReasoningSplitter one(metal_marlin::ReasoningTags{"<think>", "</think>"}, size % 2 == 0);
  metal_marlin::ReasoningSplitter many = one;
  const auto whole = one.push(text);
  std::string content;
  for (const char c : text) content += many.push({&c, 1}).content;
  if (content + many.finish().content != whole.content + one.finish().content) __builtin_trap();
  return 0;
}
