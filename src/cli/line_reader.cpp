#include "cli/line_reader.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "cli/interrupts.h"
#include "cli/streams.h"
#include "io/file_write.h"
#include "metal_marlin/error.h"
#if METAL_MARLIN_EDIT
#include <histedit.h>
#include <langinfo.h>

#include <clocale>
#include <cwchar>
#endif

namespace metal_marlin::cli {
namespace {

constexpr int kLookMilliseconds = 100;                       // between looks for Ctrl-C
constexpr std::size_t kLongestLine = std::size_t{64} << 20;  // of any text to work on
constexpr std::string_view kQuotes = "\"\"\"";

// As read(), but 0 at the end and -1 after Ctrl-C. \throws Error (kIo).
ssize_t read_input(char* bytes, std::size_t size) {
  for (;;) {
    if (interrupted()) return -1;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    const int ready = poll(&input, 1, kLookMilliseconds);
    if (ready <= 0) {
      if (ready == 0 || errno == EINTR) continue;
      fail_file("standard input", "wait for");
    }
    const ssize_t count = read(STDIN_FILENO, bytes, size);
    if (count >= 0) return count;
    if (errno != EINTR && errno != EAGAIN) fail_file("standard input", "read");
  }
}

class PlainLines : public LineReader {
 public:
  explicit PlainLines(bool prompts) : prompts_(prompts) {}

  InputText read_line(const char* prompt) override {
    if (prompts_) {
      fmt::print("{}", prompt);
      flush_output();
    }
    for (;;) {
      const std::size_t end = held_.find('\n', searched_);
      if (end != held_.npos) return {InputText::Kind::kText, take(end, 1), false};
      searched_ = held_.size();
      if (searched_ > kLongestLine) {
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("standard input: a line of more than {} bytes", kLongestLine));
      }
      std::array<char, 65536> bytes{};
      const ssize_t count = read_input(bytes.data(), bytes.size());
      if (count < 0) {
        if (prompts_) take(held_.size(), 0);
        return {InputText::Kind::kInterrupt, {}, false};
      }
      if (count == 0) {
        if (held_.empty()) return {InputText::Kind::kEnd, {}, false};
        return {InputText::Kind::kText, take(held_.size(), 0), false};
      }
      held_.append(bytes.data(), static_cast<std::size_t>(count));
    }
  }

 private:
  std::string take(std::size_t count, std::size_t more) {
    std::string line = held_.substr(0, count);
    held_.erase(0, count + more);
    searched_ = 0;
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }

  bool prompts_;
  std::string held_;          // read, and not yet a line
  std::size_t searched_ = 0;  // of it, without an end of a line
};

#if METAL_MARLIN_EDIT
constexpr int kHistoryLines = 1000;

class EditedLines : public LineReader {
 public:
  EditedLines() {
    // The editor counts characters by the locale.
    std::setlocale(LC_CTYPE, "");
    if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
    editor_.reset(el_init("metal-marlin", stdin, stdout, stderr));
    history_.reset(history_init());
    if (!editor_ || !history_) throw Error(ErrorCode::kIo, "the terminal cannot be edited on");
    HistEvent event;
    history(history_.get(), &event, H_SETSIZE, kHistoryLines);
    history(history_.get(), &event, H_SETUNIQUE, 1);
    el_set(editor_.get(), EL_CLIENTDATA, this);
    el_set(editor_.get(), EL_EDITOR, "emacs");
    el_set(editor_.get(), EL_HIST, history, history_.get());
    el_set(editor_.get(), EL_PROMPT, &EditedLines::prompt);
    el_wset(editor_.get(), EL_GETCFN, &EditedLines::character);
    el_source(editor_.get(), nullptr);  // ~/.editrc
  }

  InputText read_line(const char* prompt) override {
    prompt_ = prompt;
    failure_ = nullptr;
    el_resize(editor_.get());
    el_set(editor_.get(), EL_PREP_TERM, 1);  // before the prompt: no key that answers it comes too early
    int count = 0;
    const char* const line = el_gets(editor_.get(), &count);
    if (failure_) std::rethrow_exception(failure_);
    if (interrupted()) return {InputText::Kind::kInterrupt, {}, false};
    if (line == nullptr || count <= 0) return {InputText::Kind::kEnd, {}, false};
    InputText out{InputText::Kind::kText, std::string(line, static_cast<std::size_t>(count)), false};
    HistEvent event;
    if (out.text.find_first_not_of(" \t\n") != std::string::npos)
      history(history_.get(), &event, H_ENTER, out.text.c_str());
    if (out.text.ends_with('\n')) out.text.pop_back();
    return out;
  }

 private:
  struct Closer {
    void operator()(EditLine* editor) const { el_end(editor); }
    void operator()(History* history) const { history_end(history); }
  };

  static EditedLines& of(EditLine* editor) {
    void* data = nullptr;
    el_get(editor, EL_CLIENTDATA, &data);
    return *static_cast<EditedLines*>(data);
  }
  static char* prompt(EditLine* editor) { return of(editor).prompt_.data(); }

  // The next character: 1, 0 at the end, -1 after Ctrl-C. The editor is C: nothing is thrown through it.
  static int character(EditLine* editor, wchar_t* out) {
    try {
      std::mbstate_t state{};
      for (;;) {
        char byte = 0;
        const ssize_t count = read_input(&byte, 1);
        if (count <= 0) return static_cast<int>(count);
        const std::size_t used = std::mbrtowc(out, &byte, 1, &state);
        if (used == 0 || used == 1) return 1;
        if (used == static_cast<std::size_t>(-1)) state = {};  // no character: passed over
      }
    } catch (...) {
      of(editor).failure_ = std::current_exception();
      return -1;
    }
  }

  std::unique_ptr<History, Closer> history_;
  std::unique_ptr<EditLine, Closer> editor_;
  std::string prompt_;
  std::exception_ptr failure_;
};
#endif

// From """ to """.
InputText read_quoted(LineReader& reader, std::string text) {
  text.erase(0, kQuotes.size());
  while (!text.ends_with(kQuotes)) {
    InputText line = reader.read_line(". ");
    if (line.kind == InputText::Kind::kInterrupt) return line;
    if (line.kind == InputText::Kind::kEnd)
      throw Error(ErrorCode::kInvalidArgument, "standard input: ends before the closing \"\"\"");
    text += "\n" + line.text;
    if (text.size() > kLongestLine) throw Error(ErrorCode::kInvalidArgument, "standard input: a text without an end");
  }
  text.erase(text.size() - kQuotes.size());
  if (text.starts_with('\n')) text.erase(0, 1);
  if (text.ends_with('\n')) text.pop_back();
  return {InputText::Kind::kText, std::move(text), true};
}

}  // namespace

std::unique_ptr<LineReader> make_line_reader(bool terminal) {
#if METAL_MARLIN_EDIT
  if (terminal) return std::make_unique<EditedLines>();
#endif
  return std::make_unique<PlainLines>(terminal);
}

InputText read_text(LineReader& reader) {
  InputText out = reader.read_line("> ");
  if (out.kind != InputText::Kind::kText) return out;
  if (out.text.starts_with(kQuotes)) return read_quoted(reader, std::move(out.text));
  while (out.text.ends_with('\\')) {
    out.text.back() = '\n';
    InputText line = reader.read_line(". ");
    if (line.kind == InputText::Kind::kInterrupt) return line;
    if (line.kind == InputText::Kind::kEnd) break;
    out.text += line.text;
  }
  return out;
}

}  // namespace metal_marlin::cli
