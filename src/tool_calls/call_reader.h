// One call, from behind what opens it to before what closes it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tool_calls/tool_format.h"
#include "tool_calls/value_reader.h"

namespace metal_marlin {

// What a format's parsers know of the functions.
class ToolFunctions {
 public:
  explicit ToolFunctions(const std::vector<ToolFunction>& functions);
  [[nodiscard]] bool has(std::string_view name) const { return types_.find(name) != types_.end(); }
  // Whether one's name begins so.
  [[nodiscard]] bool has_like(std::string_view begun) const;
  // The types that a parameter may have; none: any.
  [[nodiscard]] std::set<std::string> types_of(std::string_view function, const std::string& parameter) const;

 private:
  using Types = std::map<std::string, std::set<std::string>>;  // by parameter
  std::map<std::string, Types, std::less<>> types_;
};

class CallReader {
 public:
  // Both outlive it.
  CallReader(const ToolFormat& format, const ToolFunctions& functions);

  // \returns how much of the text was read. What is certain of the arguments as JSON goes to arguments().
  std::size_t read(std::string_view text, bool last);
  [[nodiscard]] bool is_done() const { return stage_ == Stage::kDone; }
  [[nodiscard]] bool has_failed() const { return stage_ == Stage::kFailed; }
  // Name and id are known, and the arguments have begun; never of a call that has none.
  [[nodiscard]] bool has_begun() const { return has_name_ && begun_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& id() const { return id_; }
  // Those that were not taken yet. Of a call that is done they are an object.
  std::string take_arguments() { return std::exchange(arguments_, {}); }

 private:
  enum class Stage : std::uint8_t {
    kOpen,
    kMember,
    kColon,
    kValue,
    kNext,
    kName,
    kArguments,
    kParameter,
    kKey,
    kText,
    kDone,
    kFailed
  };

  std::size_t step(std::string_view rest, bool last);
  std::size_t fail();
  bool take_name(std::string_view spelled);

  std::size_t read_object(std::string_view rest, bool last);
  std::size_t read_member_value(std::string_view rest, bool last);
  std::size_t read_arguments(std::string_view rest, bool last);
  bool end_member();
  bool end_object();
  [[nodiscard]] bool is_name_key() const;
  [[nodiscard]] bool is_arguments_key() const;

  std::size_t read_name(std::string_view rest, bool last);
  std::size_t ends_name(std::string_view rest, bool& needs_more) const;
  [[nodiscard]] bool may_be_head(std::string_view begun) const;
  bool take_head(std::string_view head);
  std::size_t read_parameter(std::string_view rest, bool last);
  std::size_t read_key(std::string_view rest, bool last);
  std::size_t read_text(std::string_view rest, bool last);
  void end_text(std::string_view value);

  const ToolFormat& format_;
  const ToolFunctions& functions_;
  Stage stage_;
  std::optional<ValueReader> value_;
  std::string member_;   // of an object: its key, as JSON
  std::string content_;  // and its value, where it is not the arguments
  bool has_name_ = false;
  bool begun_ = false;
  bool is_first_ = true;  // member or parameter
  bool has_arguments_ = false;
  bool is_lines_ = false;  // values stand on lines of their own
  bool is_text_ = false;   // the parameter is a text for sure
  bool is_streaming_ = false;
  std::set<std::string> types_;
  std::string name_;
  std::string id_;
  std::string arguments_;
};

}  // namespace metal_marlin
