// What somebody types, or a pipe sends, line by line.
#pragma once

#include <memory>
#include <string>

namespace metal_marlin::cli {

struct InputText {
  enum class Kind { kText, kEnd, kInterrupt };
  Kind kind = Kind::kText;
  std::string text;
  bool quoted = false;  // between """

  // Whether it is said to the program.
  [[nodiscard]] bool is_command() const { return !quoted && text.starts_with('/'); }
};

class LineReader {
 public:
  virtual ~LineReader() = default;
  // A line without its end. \throws Error (kIo).
  virtual InputText read_line(const char* prompt) = 0;
};

// The standard input: on a terminal with prompts and, where this program is built with libedit, editing and history;
// else plain lines.
std::unique_ptr<LineReader> make_line_reader(bool terminal);

// Several lines as one text: lines that end in "\" go on in the next, and what is between """ and """ is taken as it
// is. \throws Error (kInvalidArgument) when the input ends before the closing """.
InputText read_text(LineReader& reader);

}  // namespace metal_marlin::cli
