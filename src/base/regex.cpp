#include "base/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/regex_syntax.h"
#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Bounds of one search: steps, and memory where the compiled matcher's stack does not do.
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapKibibytes = 1 << 20;
// Bound of all searches of one text.
constexpr std::chrono::seconds kMaxTime{30};

struct MatchData {
  MatchData() : data(pcre2_match_data_create(1, nullptr)), context(pcre2_match_context_create(nullptr)) {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapKibibytes);
    stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, nullptr);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchData() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchData(const MatchData&) = delete;
  MatchData& operator=(const MatchData&) = delete;
  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack = nullptr;
};

std::string error_text(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

pcre2_code* compile(std::string_view text, int& error, std::size_t& offset) {
  pcre2_compile_context* const context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_code* const code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context);
  pcre2_compile_context_free(context);
  return code;
}

}  // namespace

bool pcre2_accepts(std::string_view pattern) {
  int error = 0;
  std::size_t offset = 0;
  pcre2_code* const code = compile(pattern, error, offset);
  pcre2_code_free(code);
  return code != nullptr;
}

bool pcre2_may_match_nothing(std::string_view pattern) {
  int error = 0;
  std::size_t offset = 0;
  pcre2_code* const code = compile(pattern, error, offset);
  if (code == nullptr) return true;
  std::uint32_t nothing = 1;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &nothing);
  pcre2_code_free(code);
  return nothing != 0;
}

struct Regex::Compiled {
  pcre2_code* code = nullptr;
  bool jit = false;
  std::string where;
  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, const std::string& where) {
  const std::string text = translate_regex(pattern, where);
  int error = 0;
  std::size_t offset = 0;
  auto compiled = std::make_shared<Compiled>();
  compiled->where = where;
  compiled->code = compile(text, error, offset);
  if (compiled->code == nullptr) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: pattern '{}': {} (at {} of {})", where, pattern, error_text(error), offset, text));
  }
  compiled->jit = pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE) == 0;
  compiled_ = std::move(compiled);
}

Regex Regex::literal(std::string_view text, const std::string& where) {
  std::string quoted;
  for (const char c : text) {
    if (std::string_view(R"(\^$.[]|()?*+{}-#)").find(c) != std::string_view::npos) quoted += '\\';
    quoted += c;
  }
  return {quoted, where};
}

bool Regex::find(std::string_view text, std::size_t from, Match& match) const {
  thread_local const MatchData data;
  const auto* const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int result = compiled_->jit ? pcre2_jit_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                                data.data, data.context)
                              : PCRE2_ERROR_JIT_STACKLIMIT;
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its state on the heap
    result = pcre2_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.data,
                         data.context);
  }
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: the pattern is too costly for this text: {}", compiled_->where, error_text(result)));
  }
  const PCRE2_SIZE* const offsets = pcre2_get_ovector_pointer(data.data);
  match = {offsets[0], offsets[1]};
  return true;
}

std::vector<Regex::Match> Regex::matches(std::string_view text) const {
  std::vector<Match> out;
  const auto deadline = std::chrono::steady_clock::now() + kMaxTime;
  std::size_t at = 0;
  Match match;
  for (std::size_t searches = 1; at <= text.size() && find(text, at, match); ++searches) {
    if (searches % 256 == 0 && std::chrono::steady_clock::now() > deadline) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: the pattern is too costly for this text: over {} s",
                                                       compiled_->where, kMaxTime.count()));
    }
    if (match.begin == match.end && !out.empty() && out.back().end == match.end) {
      do ++at;
      while (at < text.size() && is_continuation(text[at]));
      continue;
    }
    out.push_back(match);
    at = match.end;
  }
  return out;
}

bool Regex::search(std::string_view text) const {
  Match match;
  return find(text, 0, match);
}

std::string Regex::replace_all(std::string_view text, std::string_view content) const {
  if (text.empty()) return "";
  std::string out;
  std::size_t done = 0;
  for (const Match& match : matches(text)) {
    out.append(text, done, match.begin - done).append(content);
    done = match.end;
  }
  return out.append(text, done);
}

std::vector<Regex> compile_patterns(const std::vector<std::string>& patterns, const std::string& flag) {
  std::vector<Regex> out;
  for (const std::string& pattern : patterns) out.emplace_back(pattern, flag);
  return out;
}

bool any_match(const std::vector<Regex>& patterns, std::string_view text) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const Regex& pattern) { return pattern.search(text); });
}

}  // namespace metal_marlin
