#include "base/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Oniguruma's \s is Unicode White_Space; PCRE2's also holds U+180E.
constexpr std::string_view kWhiteSpace =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

std::string translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += in_class ? std::string(kWhiteSpace) : fmt::format("[{}]", kWhiteSpace);
      } else if (escaped == 'S' && !in_class) {
        out += fmt::format("[^{}]", kWhiteSpace);
      } else {
        out += c;
        out += escaped;
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
    } else if (c == '[' && in_class && (i + 1 >= pattern.size() || pattern[i + 1] != ':')) {
      out += '\\';  // a plain bracket inside a class
    } else if (c == ']' && in_class) {
      in_class = false;
    }
    out += c;
  }
  return out;
}

struct MatchData {
  MatchData() : data(pcre2_match_data_create(1, nullptr)), context(pcre2_match_context_create(nullptr)) {
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

}  // namespace

struct Regex::Compiled {
  pcre2_code* code = nullptr;
  bool jit = false;
  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }
};

Regex::Regex(std::string_view pattern, const std::string& where) {
  const std::string text = translate(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto compiled = std::make_shared<Compiled>();
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP, &error,
                                 &offset, nullptr);
  if (compiled->code == nullptr) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: pattern '{}': {} at {}", where, pattern, error_text(error), offset));
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

bool Regex::find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end) const {
  thread_local const MatchData match;
  const auto* const subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const int result =
      compiled_->jit
          ? pcre2_jit_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, match.data, match.context)
          : pcre2_match(compiled_->code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, match.data, match.context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) throw Error(ErrorCode::kUnsupported, "a pattern is too costly: " + error_text(result));
  const PCRE2_SIZE* const offsets = pcre2_get_ovector_pointer(match.data);
  begin = offsets[0];
  end = offsets[1];
  return true;
}

bool Regex::search(std::string_view text) const {
  std::size_t begin = 0;
  std::size_t end = 0;
  return find(text, 0, begin, end);
}

std::string Regex::replace_all(std::string_view text, std::string_view content) const {
  std::string out;
  std::size_t done = 0;
  for_each_match(text, [&](std::size_t begin, std::size_t end) {
    out.append(text, done, begin - done).append(content);
    done = end;
  });
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
