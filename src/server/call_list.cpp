#include "server/call_list.h"

#include "server/tools.h"

namespace metal_marlin::server {
namespace {

OrderedJson function_json(const std::string& name, const std::string& arguments) {
  return {{"name", name}, {"arguments", arguments}};
}

}  // namespace

// One for each call: clients add up entries of one index only from one event to the next.
OrderedJson& CallList::entry(OrderedJson& delta) const {
  const std::size_t index = calls_.size() - 1;
  if (delta.empty() || delta.back()["index"] != index) delta.push_back({{"index", index}});
  return delta.back();
}

CallList::Delta CallList::add(const CallEvents& events) {
  Delta delta;
  for (const CallEvent& event : events) {
    switch (event.kind) {
      case CallEvent::Kind::kThought: (with_thoughts_ ? delta.reasoning : delta.content) += event.text; break;
      case CallEvent::Kind::kText: delta.content += event.text; break;
      case CallEvent::Kind::kBegin: {
        calls_.push_back({call_id(*model_, answer_, calls_.size(), event.id), event.name, {}, false});
        OrderedJson& added = entry(delta.calls);
        added["id"] = calls_.back().id;
        added["type"] = "function";
        added["function"] = function_json(event.name, "");
        break;
      }
      case CallEvent::Kind::kArguments: {
        calls_.back().arguments += event.text;
        OrderedJson& arguments = entry(delta.calls)["function"]["arguments"];
        arguments = (arguments.is_string() ? arguments.get<std::string>() : std::string()) + event.text;
        break;
      }
      case CallEvent::Kind::kEnd: calls_.back().is_whole = true; break;
      case CallEvent::Kind::kBroken:
        is_broken_ = true;
        delta.content += event.text;
        break;
    }
  }
  return delta;
}

OrderedJson CallList::whole() const {
  OrderedJson list = OrderedJson::array();
  for (const Call& call : calls_) {
    if (call.is_whole)
      list.push_back({{"id", call.id}, {"type", "function"}, {"function", function_json(call.name, call.arguments)}});
  }
  return list;
}

}  // namespace metal_marlin::server
