#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "io/text_file.h"

namespace metal_marlin::cli {
namespace {

struct TokenizeFlags {
  std::string model;
  std::string file = "-";
  bool decode = false;
  bool json = false;
  bool no_special = false;
  bool plain_text = false;
};

void run_tokenize(const TokenizeFlags& flags) {
  const auto tokenizer = Tokenizer::load(flags.model, print_notice);
  if (flags.decode) {
    const std::string text = tokenizer->decode(read_ids(flags.file), false);
    if (flags.json) {
      fmt::print("{}\n", nlohmann::json{{"text", text}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    } else {
      fmt::print("{}", text);
    }
    return;
  }
  const std::vector<TokenId> ids =
      tokenizer->encode(read_text_file(flags.file), {!flags.no_special, !flags.plain_text});
  if (flags.json) {
    fmt::print("{}\n", nlohmann::json(ids).dump());
    return;
  }
  for (const TokenId id : ids) {
    const nlohmann::json piece = tokenizer->decode(std::array{id}, false);
    fmt::print("{}\t{}\n", id, piece.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto* const command = app.add_subcommand("tokenize", "Turn text into token ids, or back");
  auto flags = std::make_shared<TokenizeFlags>();
  command->add_option("model", flags->model, "model folder or GGUF file")->required();
  command->add_option("-f,--file", flags->file, "text, or with --decode a JSON list of ids; -: standard input")
      ->capture_default_str();
  command->add_flag("--decode", flags->decode, "from ids to text");
  command->add_flag("--json", flags->json, "print a JSON list of ids (with --decode: an object)");
  command->add_flag("--no-special", flags->no_special, "do not add what the model puts around a text, such as BOS");
  command->add_flag("--plain-text", flags->plain_text, "do not recognise special tokens in the text");
  command->footer("Example:\n  echo -n 'Hello' | metal-marlin tokenize Qwen3-4B --json");
  command->callback([flags] { run_tokenize(*flags); });
}

}  // namespace metal_marlin::cli
