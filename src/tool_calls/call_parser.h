// An answer as it comes, parted into text and calls of tools. How it is cut into pieces changes nothing of what comes
// out, taken together.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tool_calls/tool_format.h"

namespace metal_marlin {

struct CallEvent {
  enum class Kind {
    kText,       // more of the answer's text
    kThought,    // more of a thought, of formats that have them in messages of their own
    kBegin,      // a call, of which the name is known
    kArguments,  // more of its arguments: together with those before the beginning of a JSON object
    kEnd,        // its arguments are whole
    kBroken      // it is none: `text` is all that was written of it
  };
  Kind kind = Kind::kText;
  std::string text;
  std::string name;
  std::string id;  // that the model wrote; empty: none, or not before the arguments
};

using CallEvents = std::vector<CallEvent>;

class CallParser {
 public:
  // \param functions that may be called; what calls others is text. \param parallel: more than one call may be made;
  // else what follows the first is dropped.
  static std::unique_ptr<CallParser> make(const ToolFormat& format, const std::vector<ToolFunction>& functions,
                                          bool parallel);
  CallParser() = default;
  virtual ~CallParser() = default;
  CallParser(const CallParser&) = delete;
  CallParser& operator=(const CallParser&) = delete;

  virtual void push(std::string_view text, CallEvents& out) = 0;
  virtual void finish(CallEvents& out) = 0;
};

}  // namespace metal_marlin
