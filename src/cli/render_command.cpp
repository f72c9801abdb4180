#include <fmt/format.h>

#include "cli/chat_flags.h"
#include "cli/commands.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "tool_calls/detect.h"

namespace metal_marlin::cli {
namespace {

struct RenderFlags {
  ChatFlags chat;
  std::string source;
  std::string messages;
  std::string tools;
  std::string documents;
  std::optional<std::string> bos;
  std::optional<std::string> eos;
  bool no_generation_prompt = false;
  bool tool_format = false;
  bool continue_final = false;
};

bool is_template_file(const std::string& path) {
  return path.ends_with(".jinja") || path.ends_with(".jinja2") || path.ends_with(".j2");
}

void print_tool_format(const ChatTemplate& chat) {
  const auto found = detect_tools(chat);
  if (!found) {
    fmt::print("none\n");
    return;
  }
  fmt::print("{}{}\n", found->format.name, found->is_rendered ? "" : " (spoken of, not written)");
}

void run_render(RenderFlags& flags) {
  if (is_template_file(flags.source) && flags.chat.template_file.empty()) flags.chat.template_file = flags.source;
  const auto chat = flags.chat.load(flags.source);
  if (flags.tool_format) return print_tool_format(*chat);
  if (flags.messages.empty()) throw Error(ErrorCode::kInvalidArgument, "--messages is missing");
  ChatOptions options = flags.chat.options();
  options.bos = flags.bos;
  options.eos = flags.eos;
  options.continue_final_message = flags.continue_final;
  options.add_generation_prompt = !flags.no_generation_prompt && !flags.continue_final;
  if (!flags.tools.empty()) options.tools = read_text_file(flags.tools);
  if (!flags.documents.empty()) options.documents = read_text_file(flags.documents);
  fmt::print("{}", chat->render(read_text_file(flags.messages), options));
}

}  // namespace

void add_render(CLI::App& app) {
  auto* const command = app.add_subcommand("render", "Print the prompt that a chat template makes of a conversation");
  auto flags = std::make_shared<RenderFlags>();
  command->add_option("source", flags->source, "model folder, GGUF file, or a template: a file ending in .jinja")
      ->required();
  command->add_option("--messages", flags->messages, "JSON file with the list of messages; -: standard input");
  command->add_option("--tools", flags->tools, "JSON file with the list of tools");
  command->add_option("--documents", flags->documents, "JSON file with the list of documents");
  command->add_flag("--tool-format", flags->tool_format,
                    "say in which format the template writes calls of tools, and end");
  flags->chat.add(*command);
  command->add_option("--bos", flags->bos, "the text bos_token; default: the model's");
  command->add_option("--eos", flags->eos, "the text eos_token; default: the model's");
  command->add_flag("--no-generation-prompt", flags->no_generation_prompt, "end after the last message");
  command->add_flag("--continue", flags->continue_final, "end inside the last message, for the model to go on with it");
  command->footer(
      "Example:\n  metal-marlin render Qwen3-4B --messages chat.json --tools tools.json --set enable_thinking=false");
  command->callback([flags] { run_render(*flags); });
}

}  // namespace metal_marlin::cli
