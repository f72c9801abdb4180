// Tools in requests: what may be called, how the model is told of it, and what was called before.
#pragma once

#include "server/fields.h"
#include "server/service.h"
#include "tool_calls/call_parser.h"

namespace metal_marlin::server {

constexpr std::size_t kMostTools = 512;

enum class ToolChoice { kNone, kAuto, kRequired };

// How the APIs write tools and the choice among them.
enum class ToolStyle {
  kChat,      // a function in a member of its own; also the older functions and function_call
  kResponse,  // name and parameters beside the type
  kMessage    // Anthropic's: name and input_schema, no type; a choice is an object
};

struct Tools {
  std::vector<ToolFunction> functions;       // that may be called
  OrderedJson shown = OrderedJson::array();  // to the template: all of them, in OpenAI's nested form
  ToolChoice choice = ToolChoice::kAuto;
  bool parallel = true;
  OrderedJson asked_choice = "auto";  // as it came
  bool is_legacy = false;             // they came as `functions`: an answer has one function_call at most

  [[nodiscard]] bool may_call() const { return choice != ToolChoice::kNone && !functions.empty(); }
};

// Reads tools, tool_choice and what else the style has. \throws ApiError naming the field.
Tools read_tools(Fields& fields, ToolStyle style);

// Finds out what the model's template says of calls, and which special tokens its answers must show for them and for
// thoughts.
void learn_template(ServedModel& model);

// What this model's template wants of messages that call, or that answer calls. \throws ApiError naming the field.
OrderedJson with_calls(const OrderedJson& messages, const ServedModel& model);

// Adds the grammar to a request whose answer must call, or that must call in one way. Compiling has its turn.
// \returns false where `answer` is called again, with its turn. \throws ApiError where the model cannot.
bool add_tools(Service& service, const Call& call, const Tools& tools, const ServedModel& model, AnswerRoute answer,
               EngineRequest& engine);
// For one answer; none: nothing in it can be a call.
std::unique_ptr<CallParser> make_call_parser(const Tools& tools, const ServedModel& model);

// Of the call that is the `number`th of an answer; `written` by the model, where it did.
std::string call_id(const ServedModel& model, const std::string& answer, std::size_t number,
                    const std::string& written);

}  // namespace metal_marlin::server
