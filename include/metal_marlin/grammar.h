/// \file
/// What a generated text must look like: context-free grammars, from GBNF, regular expressions, lists of texts and
/// JSON Schema. docs/structured-output.md tells what each front end takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace metal_marlin {

class Rules;

/// A set of texts. Immutable and usable from many threads at once.
class Grammar {
 public:
  /// \param text in GBNF, as llama.cpp documents it, with a rule `root`. \param where its name in errors.
  /// \throws Error (kInvalidArgument) naming the line, and what is wrong there or past a limit.
  static std::shared_ptr<const Grammar> from_gbnf(std::string_view text, const std::string& where);
  /// The texts that the pattern matches as a whole.
  /// \throws Error (kInvalidArgument) naming the construct that a grammar cannot say.
  static std::shared_ptr<const Grammar> from_regex(std::string_view pattern);
  /// These texts.
  static std::shared_ptr<const Grammar> from_choice(std::span<const std::string> texts);
  /// Any JSON object.
  static std::shared_ptr<const Grammar> any_json_object();
  /// The JSON texts that a JSON Schema (draft 2020-12) says, members in the order of its properties.
  /// \throws Error (kInvalidArgument) naming the keyword, and where it is, that is wrong or that a grammar cannot say.
  static std::shared_ptr<const Grammar> from_json_schema(std::string_view schema, const std::string& where);

  ~Grammar();
  Grammar(const Grammar&) = delete;
  Grammar& operator=(const Grammar&) = delete;

  /// Whether it has this text, whole.
  [[nodiscard]] bool matches(std::string_view text) const;
  /// About what it takes in memory.
  [[nodiscard]] std::size_t bytes() const;

 private:
  friend class GrammarGuide;
  friend class GrammarMatcher;
  friend class GrammarVocabulary;
  friend std::shared_ptr<const Grammar> make_grammar(Rules rules, std::uint32_t root);
  struct Impl;
  explicit Grammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The tags of a thought that may come before a grammar's text, with line ends behind it.
struct GrammarThought {
  std::string open;
  std::string close;
  bool is_open = false;  ///< The prompt ended within the thought.
};

}  // namespace metal_marlin
