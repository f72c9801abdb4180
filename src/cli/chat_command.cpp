#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/printable.h"
#include "cli/chat_commands.h"
#include "cli/chat_flags.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/line_reader.h"
#include "cli/model_source.h"
#include "cli/sampler_flags.h"
#include "cli/speculation_flags.h"
#include "cli/streams.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct TalkFlags {
  ModelFlags model;
  SourceFlags source;
  std::string system;
  ChatFlags chat;
  SamplerOptions sampler;
  int max_tokens = 0;
  EngineOptions engine;
  SpeculationFlags speculation;
};

// \returns false to leave.
bool take_text(ChatSession& session, const std::string& text, bool is_command) {
  if (is_command) return run_chat_command(session, text);
  notice_end(session, session.say(text));
  return true;
}

// For people: goes on after errors, and after Ctrl-C, but not after two without a text between them.
void talk(ChatSession& session) {
  const auto reader = make_line_reader(true);
  bool leaving = false;
  for (;;) {
    try {
      const InputText input = read_text(*reader);
      if (terminated()) return;
      if (input.kind != InputText::Kind::kText) fmt::print("\n");
      if (input.kind == InputText::Kind::kEnd) return;
      if (input.kind == InputText::Kind::kInterrupt) {
        forget_interrupt();
        if (std::exchange(leaving, true)) return;
        print_error("Ctrl-C again or Ctrl-D leaves\n");
        continue;
      }
      leaving = false;
      if (input.text.find_first_not_of(" \t\n") == input.text.npos) continue;
      if (!take_text(session, input.text, input.is_command())) return;
    } catch (const Error& error) {
      if (std::ferror(stdout) != 0 || !session.engine().healthy()) throw;
      print_error("error: {}\n", printable(error.what()));
    }
    if (terminated()) return;
    forget_interrupt();
  }
}

// For scripts: the first error ends it.
void answer_lines(ChatSession& session) {
  const auto reader = make_line_reader(false);
  for (;;) {
    const InputText input = read_text(*reader);
    if (input.kind == InputText::Kind::kEnd) return;
    if (input.kind == InputText::Kind::kText) {
      if (input.text.find_first_not_of(" \t\n") == input.text.npos) continue;
      if (!take_text(session, input.text, input.is_command())) return;
    }
    if (interrupted()) throw Error(ErrorCode::kCancelled, "cancelled");
  }
}

void run_chat(TalkFlags& flags) {
  validate(flags.sampler);
  const ModelSource source = find_model(flags.model.path, flags.source, flags.model.load.threads);
  flags.model.path = source.path.string();
  const auto chat = flags.chat.load(flags.model.path);
  flags.engine.parallel = 1;
  std::optional<ModelSource> draft;  // which keeps it in the cache
  flags.engine.speculation = flags.speculation.options([&](const std::string& model) {
    draft.emplace(find_model(model, flags.source, flags.model.load.threads));
    return flags.model.load_model(draft->path.string());
  });
  const bool terminal = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
  flags.model.load.prediction = flags.speculation.want_prediction();
  const auto model = flags.model.load_model();
  flags.engine.speculation = flags.speculation.of_model(flags.engine.speculation, *model);
  ChatSession session(model, flags.engine, chat, has_colours());
  session.settings.chat = flags.chat.options();
  session.settings.sampler = flags.sampler;
  session.settings.adapter = flags.model.lora;
  if (flags.max_tokens > 0) session.settings.max_tokens = flags.max_tokens;
  session.set_system(flags.system);
  if (!terminal) return answer_lines(session);
  fmt::print("{}: {}\n/help lists commands\n", printable(source.name), session.engine().plan().text());
  talk(session);
}

}  // namespace

void add_chat(CLI::App& app) {
  auto* const command = app.add_subcommand("chat", "Talk to a model");
  auto flags = std::make_shared<TalkFlags>();
  command->add_option("model", flags->model.path, kModelHelp)->required();
  flags->source.add(*command);
  command->add_option("--system", flags->system, "a system message before the conversation");
  flags->chat.add(*command);
  add_sampler_flags(*command, flags->sampler);
  command->add_option("-n,--max-tokens", flags->max_tokens, "most tokens of an answer; 0: until the context ends")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command
      ->add_option("--context", flags->engine.context,
                   "most tokens of the conversation; 0: what the model has, or memory has room for")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30))
      ->capture_default_str();
  flags->speculation.add(*command);
  flags->model.add_load(*command);
  flags->model.add_lora(*command);
  command->footer("Commands:\n" + chat_help() +
                  "Where the input is no terminal each line of it is a message, and answers alone are printed.\n"
                  "Examples:\n"
                  "  metal-marlin chat Qwen/Qwen3-4B --format fp4 --temperature 0.7 --top-p 0.9\n"
                  "  metal-marlin chat Qwen3-4B-fp4 --system 'Be brief.' --set enable_thinking=false\n"
                  "  echo 'What is 2 + 2?' | metal-marlin chat Qwen3-4B-fp4");
  command->callback([flags] { run_chat(*flags); });
}

}  // namespace metal_marlin::cli
