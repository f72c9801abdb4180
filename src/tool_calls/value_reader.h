// A value of a call's arguments as it comes, turned into JSON of which every beginning is the beginning of JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tool_calls/tool_format.h"

namespace metal_marlin {

// Reads one value: JSON as it stands (but for control characters in texts, which it escapes), Python's literals, or
// Gemma's, whose keys are bare and whose texts stand between <|"|>.
class ValueReader {
 public:
  explicit ValueReader(ValueDialect dialect) : dialect_(dialect) {}
  // Python's arguments by keyword, behind their '(': they become an object, which ')' ends.
  static ValueReader keyword_arguments();

  // Appends to `out` what is certain. \returns how much of the text was read: all, but for what needs more to be
  // known, and what is behind the value's end or a fault. `last`: no more will come.
  std::size_t read(std::string_view text, bool last, std::string& out);
  [[nodiscard]] bool is_done() const { return stage_ == Stage::kDone; }
  [[nodiscard]] bool has_failed() const { return stage_ == Stage::kFailed; }
  [[nodiscard]] bool has_begun() const { return begun_; }

 private:
  // What comes next; kFirst... may also be the end of what was just opened.
  enum class Stage : std::uint8_t {
    kValue,
    kFirstValue,
    kKey,
    kFirstKey,
    kColon,
    kComma,
    kText,
    kWord,
    kBareKey,
    kDone,
    kFailed
  };
  enum class Frame : std::uint8_t { kObject, kList, kKeywords };

  std::size_t step(std::string_view rest, bool last, std::string& out);
  std::size_t read_value(std::string_view rest, bool last, std::string& out);
  std::size_t read_key(std::string_view rest, bool last, std::string& out);
  std::size_t read_text(std::string_view rest, bool last, std::string& out);
  std::size_t read_escape(std::string_view rest, bool last, std::string& out);
  std::size_t begin_word(Stage as, std::string_view rest, bool last, std::string& out);
  std::size_t read_word(std::string_view rest, bool last, std::string& out);
  std::size_t open_text(std::string_view rest, bool last, std::string& out, bool is_key);
  std::size_t between(std::string_view rest, std::string& out);
  std::size_t close(std::string& out);
  std::size_t fail();
  void open(Frame frame, std::string& out);
  void end_value();
  [[nodiscard]] bool closes(char c) const;

  ValueDialect dialect_;
  Stage stage_ = Stage::kValue;
  std::vector<Frame> frames_;
  std::string quote_;  // that ends the text
  bool is_key_ = false;
  bool begun_ = false;
  char32_t high_ = 0;  // of two halves of a character, the one that was escaped before
};

// What stands between quotes for it in JSON.
void append_json_text(std::string_view text, std::string& out);

}  // namespace metal_marlin
