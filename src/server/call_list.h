// The calls of one chat answer, as its fields have them.
#pragma once

#include <string>

#include "server/json_text.h"
#include "server/service.h"
#include "tool_calls/call_parser.h"

namespace metal_marlin::server {

class CallList {
 public:
  // What events add to an answer; of calls as streams have them.
  struct Delta {
    std::string reasoning;
    std::string content;
    OrderedJson calls = OrderedJson::array();

    [[nodiscard]] bool empty() const { return reasoning.empty() && content.empty() && calls.empty(); }
  };
  // \param answer what ids begin with. \param with_thoughts: else they are content.
  CallList(const ServedModel& model, std::string answer, bool with_thoughts)
      : model_(&model), answer_(std::move(answer)), with_thoughts_(with_thoughts) {}

  Delta add(const CallEvents& events);
  // Those that are whole.
  [[nodiscard]] OrderedJson whole() const;
  // Whether an answer that ended by itself did so to have something called.
  [[nodiscard]] bool asks_for_calls() const { return !calls_.empty() && !is_broken_; }

 private:
  struct Call {
    std::string id;
    std::string name;
    std::string arguments;
    bool is_whole = false;
  };
  // The last call's entry in what is added.
  OrderedJson& entry(OrderedJson& delta) const;

  const ServedModel* model_;
  std::string answer_;
  bool with_thoughts_;
  std::vector<Call> calls_;
  bool is_broken_ = false;
};

}  // namespace metal_marlin::server
