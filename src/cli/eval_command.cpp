#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/chat_flags.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "io/sources.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "metal_marlin/evaluate.h"
#include "quantize/report.h"

namespace metal_marlin::cli {
namespace {

struct EvalFlags {
  ModelFlags model;
  std::string text_file;
  std::string reference;
  std::size_t max_tokens = 0;
  bool json = false;
  bool chat = false;
  ChatFlags chat_flags;
  EvaluateOptions options;
};

void print_json(const Evaluation& result, const EvalFlags& flags, const ModelInfo& info) {
  Json out = evaluation_json(result);
  out["context"] = flags.options.context;
  out["stride"] = flags.options.stride;
  out["kv_cache"] = info.kv_cache;
  fmt::print("{}\n", out.dump(2));
}

void print_text(const Evaluation& result) {
  fmt::print("perplexity {:.4f} +- {:.4f} over {} tokens in {} windows, {:.1f} tokens/s\n", result.perplexity,
             result.perplexity_error, result.scored_tokens, result.windows, result.tokens_per_second);
  if (!result.divergence) return;
  fmt::print("reference perplexity {:.4f}, mean KL divergence {:.6f} +- {:.6f}, top-1 agreement {:.2f}%\n",
             result.divergence->reference_perplexity, result.divergence->mean_kl, result.divergence->mean_kl_error,
             100 * result.divergence->top1_agreement);
}

// The kept logits must take no file's place that is read.
void refuse_to_overwrite(const EvalFlags& flags) {
  Sources sources;
  sources.add(flags.text_file);
  sources.add_model(flags.model.path);
  sources.add_model(flags.reference);
  sources.refuse(flags.options.reference_cache);
  sources.refuse(flags.options.reference_cache.string() + ".json");
}

// The tokens of a conversation of one message, the text.
std::vector<TokenId> chat_tokens(const EvalFlags& flags, const ChatTemplate& chat, const Tokenizer& tokenizer) {
  ChatOptions options = flags.chat_flags.options();
  options.add_generation_prompt = false;
  const std::string text = chat.render(one_message({}, read_text_file(flags.text_file)), options);
  std::vector<TokenId> tokens = tokenizer.encode(text, {.add_special = false, .parse_special = true});
  if (flags.max_tokens > 0 && tokens.size() > flags.max_tokens) tokens.resize(flags.max_tokens);
  return tokens;
}

void run_eval(EvalFlags& flags) {
  const bool compare = !flags.reference.empty() && !reference_is_cached(flags.options);
  if (compare && !flags.options.reference_cache.empty()) refuse_to_overwrite(flags);
  if (!flags.chat && flags.chat_flags.given()) {
    throw Error(ErrorCode::kInvalidArgument, "--chat-template, --template-name, --set and --now need --chat");
  }
  const auto chat = flags.chat ? flags.chat_flags.load(flags.model.path) : nullptr;
  const auto model = flags.model.load_model();
  flags.options.adapter = flags.model.lora;
  notice_context(model->info(), static_cast<std::size_t>(flags.options.context), 0);
  if (compare) flags.options.reference = flags.model.load_model(flags.reference);
  const std::vector<TokenId> tokens =
      chat ? chat_tokens(flags, *chat, *model->tokenizer())
           : evaluation_tokens(*model->tokenizer(), flags.text_file, flags.max_tokens, flags.options);
  Evaluation result;
  {
    ProgressBar bar("eval", "windows");
    flags.options.progress = [&](std::int64_t done, std::int64_t total) {
      bar.update(static_cast<double>(done), static_cast<double>(total));
      return !interrupted();
    };
    result = evaluate(model, tokens, flags.options);
  }
  if (flags.json) {
    print_json(result, flags, model->info());
  } else {
    print_text(result);
  }
}

}  // namespace

void add_eval(CLI::App& app) {
  auto* const command = app.add_subcommand("eval", "Measure perplexity, and divergence from a reference model");
  auto flags = std::make_shared<EvalFlags>();
  flags->model.add(*command);
  flags->model.add_lora(*command);
  command->add_option("--text", flags->text_file, "text file; -: standard input")->required();
  command->add_option("--context", flags->options.context, "tokens in a window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  command
      ->add_option("--stride", flags->options.stride,
                   "0: disjoint windows, second half scored; else windows advance by this")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "use only the first tokens of the text; 0: all")
      ->capture_default_str();
  command->add_option("--reference", flags->reference, "model to compare with, token by token");
  command->add_option("--reference-cache", flags->options.reference_cache,
                      "file of the reference's logits: read if it is there, else written");
  command->add_flag("--chat", flags->chat, "the text is what a user says: the model's chat template goes around it");
  flags->chat_flags.add(*command);
  command->add_flag("--json", flags->json, "print JSON");
  command->footer("Example:\n  metal-marlin eval Qwen3-4B-fp4 --text wiki.test.raw --context 512 --reference Qwen3-4B");
  command->callback([flags] { run_eval(*flags); });
}

}  // namespace metal_marlin::cli
