#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string_view>

#include "cli/commands.h"
#include "cli/grammar_flags.h"
#include "grammar/guide.h"
#include "io/model_bounds.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct CheckFlags {
  GrammarFlags grammar;
  std::string text_file;
  std::string lines_file;
  std::string model;
};

// Each line is a text as a JSON string; the answers are printed, one a line.
bool check_lines(const Grammar& grammar, const std::string& path) {
  const std::string lines = read_text_file(path);
  bool all = true;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', begin), lines.size());
    const nlohmann::json text = nlohmann::json::parse(lines.substr(begin, end - begin), nullptr, false);
    ++number;
    if (!text.is_string())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: line {} is no JSON string", path, number));
    const bool matches = grammar.matches(text.get_ref<const std::string&>());
    fmt::print("{}\n", matches ? "yes" : "no");
    all = all && matches;
    begin = end + 1;
  }
  return all;
}

// Of this thread alone, so that what else the machine does is no part of it.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// How long the masks of a model's tokens take along a text: as they come first, and once what they share is known.
void time_masks(const std::shared_ptr<const Grammar>& grammar, const std::string& text, const std::string& model) {
  const auto tokenizer = Tokenizer::load(model, print_notice);
  const auto vocabulary =
      std::make_shared<GrammarVocabulary>(tokenizer, std::min(tokenizer->vocab_size(), kMaxDimension));
  const double begin = processor_seconds();
  const auto masks = vocabulary->masks(grammar);  // which guides share
  fmt::print("masks, ahead: {:.3f} ms\n", (processor_seconds() - begin) * 1000);
  const std::vector<TokenId> ids = tokenizer->encode(text, {.add_special = false, .parse_special = false});
  for (const char* const what : {"first", "again"}) {
    GrammarGuide guide(vocabulary, grammar, {}, std::nullopt);
    double total = 0;
    double longest = 0;
    std::size_t tokens = 0;
    for (const TokenId id : ids) {
      const double start = processor_seconds();
      const bool is_allowed = has_token(guide.allowed(), id);
      if (is_allowed) guide.take(id);
      const double took = (processor_seconds() - start) * 1000;
      if (!is_allowed) break;  // the text's own tokens may begin with a space that the grammar has not
      total += took;
      longest = std::max(longest, took);
      ++tokens;
      if (guide.has_ended()) break;
    }
    if (tokens == 0) throw Error(ErrorCode::kInvalidArgument, "--model: the text's first token is not of the grammar");
    fmt::print("masks, {}: {} of {} tokens of a vocabulary of {}, {:.4f} ms a token, {:.3f} ms at most\n", what, tokens,
               ids.size(), tokenizer->vocab_size(), total / static_cast<double>(tokens), longest);
  }
}

struct SampleFlags {
  GrammarFlags grammar;
  int count = 10;
  std::uint64_t seed = 0;
};

// Of the ranges of bytes that may follow each is as likely, and complete texts end now and then.
std::optional<std::string> random_text(const Grammar& grammar, std::mt19937_64& random) {
  constexpr std::size_t longest = 4096;
  GrammarMatcher matcher(grammar);
  std::string text;
  while (text.size() < longest) {
    const auto next = matcher.next();
    if (matcher.is_complete() && (next.empty() || random() % 4 == 0)) return text;
    const auto& range = next[random() % next.size()];
    text += static_cast<char>(range.low + random() % (range.high - range.low + 1U));
    matcher.accept(std::string_view(text).substr(text.size() - 1));
  }
  return std::nullopt;
}

// One a line, each as a JSON string.
void run_sample(const SampleFlags& flags) {
  const auto grammar = flags.grammar.load();
  if (!grammar) throw Error(ErrorCode::kInvalidArgument, "give one of --grammar, --regex, --choice and --schema");
  std::mt19937_64 random(flags.seed);
  // Texts that came to no end are left out: a grammar may have them without bound.
  for (int i = 0, given = 0; given < flags.count && i < 20 * flags.count; ++i) {
    const auto text = random_text(*grammar, random);
    if (!text) continue;
    fmt::print("{}\n", nlohmann::json(*text).dump());
    ++given;
  }
}

void run_check(const CheckFlags& flags) {
  const auto grammar = flags.grammar.load();
  if (!grammar) throw Error(ErrorCode::kInvalidArgument, "give one of --grammar, --regex, --choice and --schema");
  if (flags.text_file.empty() == flags.lines_file.empty())
    throw Error(ErrorCode::kInvalidArgument, "give one of --text and --json-lines");
  if (!flags.model.empty() && flags.text_file.empty()) throw Error(ErrorCode::kInvalidArgument, "--model needs --text");
  bool matches = false;
  if (!flags.lines_file.empty()) {
    matches = check_lines(*grammar, flags.lines_file);
  } else {
    const std::string text = read_text_file(flags.text_file);
    matches = grammar->matches(text);
    fmt::print("{}\n", matches ? "yes" : "no");
    if (!flags.model.empty()) time_masks(grammar, text, flags.model);
  }
  if (!matches) throw CLI::RuntimeError(1);
}

}  // namespace

void add_grammar(CLI::App& app) {
  auto* const command = app.add_subcommand("grammar", "What --grammar, --regex, --choice and --schema let through");
  command->require_subcommand(1);
  auto* const check = command->add_subcommand("check", "Whether a text is of a grammar: exit code 0, or else 1");
  auto flags = std::make_shared<CheckFlags>();
  flags->grammar.add(*check);
  check->add_option("--text", flags->text_file, "file with the text, its last line end too; -: standard input");
  check->add_option("--json-lines", flags->lines_file, "file with several texts, each a line with a JSON string");
  check->add_option("--model", flags->model,
                    "with --text: how much processor time the masks of this model's tokens take");
  check->footer("Example:\n  echo -n '{\"city\":\"Oslo\"}' | metal-marlin grammar check --schema place.json --text -");
  check->callback([flags] { run_check(*flags); });
  auto* const sample = command->add_subcommand("sample", "Random texts of a grammar, each a JSON string on a line");
  auto drawn = std::make_shared<SampleFlags>();
  drawn->grammar.add(*sample);
  sample->add_option("-n,--count", drawn->count, "how many")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  sample->add_option("--seed", drawn->seed, "of the draws")->capture_default_str();
  sample->footer("Example:\n  metal-marlin grammar sample --schema place.json -n 3");
  sample->callback([drawn] { run_sample(*drawn); });
}

}  // namespace metal_marlin::cli
