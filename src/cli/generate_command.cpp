#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "chat_template/reasoning.h"
#include "cli/chat_flags.h"
#include "cli/commands.h"
#include "cli/grammar_flags.h"
#include "cli/interrupts.h"
#include "cli/sampler_flags.h"
#include "cli/speculation_flags.h"
#include "cli/streams.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "metal_marlin/generate.h"

namespace metal_marlin::cli {
namespace {

struct GenerateFlags {
  ModelFlags model;
  std::string prompt;
  std::string prompt_file;
  std::string ids_file;
  bool chat = false;
  std::string system;
  ChatFlags chat_flags;
  bool json = false;
  GrammarFlags grammar;
  SpeculationFlags speculation;
  GenerateOptions options;
};

double rate(std::size_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

void print_json(const GenerateResult& result, const ModelInfo& info) {
  const std::size_t steps = result.tokens.empty() ? 0 : result.tokens.size() - 1;
  const nlohmann::ordered_json out = {
      {"tokens", result.tokens},
      {"text", result.text},
      {"stop_reason", stop_reason_name(result.reason)},
      {"prompt_tokens", result.prompt_tokens},
      {"cached_tokens", result.cached_tokens},
      {"prompt_tokens_per_second", rate(result.prompt_tokens - result.cached_tokens, result.prompt_seconds)},
      {"decode_tokens_per_second", rate(steps, result.decode_seconds)},
      {"draft_tokens", result.speculation.draft_tokens},
      {"accepted_tokens", result.speculation.accepted_tokens},
      {"threads", info.threads},
      {"backend", info.backend},
      {"device", info.device}};
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

// The tokens of the prompt; of a conversation those that its template prints, and no others. Says what thoughts a
// grammar's text comes behind.
std::vector<TokenId> prompt_tokens(GenerateFlags& flags, const ChatTemplate* chat, const Tokenizer& tokenizer) {
  if (chat == nullptr) return tokenizer.encode(flags.prompt);
  const std::string prompt = chat->render(one_message(flags.system, flags.prompt), flags.chat_flags.options());
  if (const auto tags = find_reasoning_tags(chat->text()))
    flags.options.thought = GrammarThought{tags->open, tags->close, ends_in_thought(prompt, *tags, false)};
  return tokenizer.encode(prompt, {.add_special = false, .parse_special = true});
}

void run_generate(GenerateFlags& flags) {
  if (flags.prompt.empty() + flags.prompt_file.empty() + flags.ids_file.empty() != 2) {
    throw Error(ErrorCode::kInvalidArgument, "give one of --prompt, --prompt-file and --prompt-ids, not empty");
  }
  if (flags.chat && !flags.ids_file.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--chat: a conversation has a text, not --prompt-ids");
  }
  if (!flags.chat && (!flags.system.empty() || flags.chat_flags.given())) {
    throw Error(ErrorCode::kInvalidArgument, "--system, --chat-template, --template-name, --set and --now need --chat");
  }
  validate(flags.options.sampler);
  flags.options.grammar = flags.grammar.load();
  // Read before the model, which takes longer, and once: a pipe gives its text but once.
  if (!flags.prompt_file.empty()) flags.prompt = read_text_file(flags.prompt_file);
  std::vector<TokenId> prompt;
  if (!flags.ids_file.empty()) prompt = read_ids(flags.ids_file);
  const auto chat = flags.chat ? flags.chat_flags.load(flags.model.path) : nullptr;
  flags.model.load.prediction = flags.speculation.want_prediction();
  const auto model = flags.model.load_model();
  flags.options.adapter = flags.model.lora;
  flags.options.speculation = flags.speculation.of_model(
      flags.speculation.options([&](const std::string& draft) { return flags.model.load_model(draft); }), *model);
  if (flags.ids_file.empty()) prompt = prompt_tokens(flags, chat.get(), *model->tokenizer());
  notice_context(model->info(), prompt.size(), static_cast<std::size_t>(flags.options.max_tokens));
  if (!flags.json && flags.ids_file.empty() && !flags.chat) fmt::print("{}", flags.prompt);
  const GenerateResult result = generate(model, prompt, flags.options, [&](std::string_view text) {
    if (!flags.json) {
      fmt::print("{}", text);
      flush_output();
    }
    return !interrupted();
  });
  if (flags.json) {
    print_json(result, model->info());
    return;
  }
  fmt::print("\n");
  flush_output();
  const std::size_t steps = result.tokens.empty() ? 0 : result.tokens.size() - 1;
  const std::string guesses = guesses_text(result.speculation);
  print_error(
      "prompt {} tokens{}, {:.1f} tokens/s; generated {} tokens, {:.1f} tokens/s; {}{}{}, {} threads; ended by {}\n",
      result.prompt_tokens, result.cached_tokens > 0 ? fmt::format(" ({} cached)", result.cached_tokens) : "",
      rate(result.prompt_tokens - result.cached_tokens, result.prompt_seconds), result.tokens.size(),
      rate(steps, result.decode_seconds), guesses, guesses.empty() ? "" : "; ", model->info().device,
      model->info().threads, stop_reason_name(result.reason));
}

}  // namespace

void add_generate(CLI::App& app) {
  auto* const command = app.add_subcommand("generate", "Continue a text");
  auto flags = std::make_shared<GenerateFlags>();
  flags->model.add(*command);
  flags->model.add_lora(*command);
  command->add_option("-p,--prompt", flags->prompt, "text to continue");
  command->add_option("--prompt-file", flags->prompt_file, "file with the text; -: standard input");
  command->add_option("--prompt-ids", flags->ids_file, "file with token ids as a JSON list; works without a tokenizer");
  command->add_flag("--chat", flags->chat, "the prompt is what a user says: the model's chat template goes around it");
  command->add_option("--system", flags->system, "with --chat: a system message before it");
  flags->chat_flags.add(*command);
  command->add_option("-n,--max-tokens", flags->options.max_tokens, "tokens to generate")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  add_sampler_flags(*command, flags->options.sampler);
  add_list(*command, "--stop", flags->options.stop, "text that ends the generation; repeatable");
  command->add_flag("--ignore-eos", flags->options.ignore_end, "go on past end tokens");
  flags->grammar.add(*command);
  flags->speculation.add(*command);
  auto* const cache = command->add_option("--prompt-cache", flags->options.prompt_cache,
                                          "file of the prompt's keys and values: read if it is there, so that only "
                                          "what is new is computed, and written after the prompt");
  command->add_flag("--prompt-cache-ro", flags->options.prompt_cache_read_only, "the file is there, and is not written")
      ->needs(cache);
  command->add_flag("--json", flags->json, "print one JSON object with tokens, text and speeds");
  command->footer(
      "Example:\n  metal-marlin generate Qwen3-4B-fp4 -p 'Once upon a time' -n 64 --temperature 0.7 --top-p 0.9 --seed "
      "7\n"
      "  metal-marlin generate Qwen3-4B-fp4 --chat -p 'Where is Oslo?' --schema place.json");
  command->callback([flags] { run_generate(*flags); });
}

}  // namespace metal_marlin::cli
