#include "cli/grammar_flags.h"

#include "cli/commands.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {

void GrammarFlags::add(CLI::App& command) {
  command.add_option("--grammar", gbnf_file, "the text is of this grammar: a file in GBNF; -: standard input");
  command.add_option("--regex", regex, "the text, all of it, matches this regular expression");
  add_list(command, "--choice", choices, "the text is this, or another --choice; repeatable");
  command.add_option("--schema", schema_file, "the text is JSON of this JSON Schema: a file; -: standard input");
}

std::shared_ptr<const Grammar> GrammarFlags::load() const {
  const int given =
      (gbnf_file.empty() ? 0 : 1) + (regex.empty() ? 0 : 1) + (choices.empty() ? 0 : 1) + (schema_file.empty() ? 0 : 1);
  if (given > 1)
    throw Error(ErrorCode::kInvalidArgument, "give one of --grammar, --regex, --choice and --schema, not several");
  if (!gbnf_file.empty()) return Grammar::from_gbnf(read_text_file(gbnf_file), gbnf_file);
  if (!regex.empty()) return Grammar::from_regex(regex);
  if (!choices.empty()) return Grammar::from_choice(choices);
  if (!schema_file.empty()) return Grammar::from_json_schema(read_text_file(schema_file), schema_file);
  return nullptr;
}

}  // namespace metal_marlin::cli
