#include "cli/chat_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/parse_number.h"
#include "base/printable.h"
#include "cli/chat_flags.h"
#include "cli/commands.h"
#include "cli/sampler_flags.h"
#include "cli/streams.h"
#include "io/file_write.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct Command {
  const char* name;
  const char* argument;
  const char* what;
  bool needs_argument;
  void (*run)(ChatSession&, const std::string& argument);
};

void set_max_tokens(ChatSettings& settings, const std::string& value) {
  const std::optional<int> number = parse_number<int>(value);
  if (!number || *number < 0)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("max_tokens is '{}', expected a number; 0: until the context ends", value));
  settings.max_tokens = *number == 0 ? std::nullopt : number;
}

void show_settings(const ChatSettings& settings) {
  for (const auto& [name, value] : sampler_settings(settings.sampler)) fmt::print("{} {}\n", name, value);
  fmt::print("max_tokens {}\n", settings.max_tokens.value_or(0));
  for (const auto& [name, value] : settings.chat.variables)
    fmt::print("{}\n", printable(fmt::format("{}={}", name, value)));
}

// "NAME VALUE", or "NAME=VALUE" of the template's.
void set(ChatSession& session, const std::string& argument) {
  ChatSettings& settings = session.settings;
  if (argument.empty()) return show_settings(settings);
  const std::size_t end = argument.find_first_of(" =");
  const std::string name = argument.substr(0, end);
  if (end != argument.npos && argument[end] == '=') {
    std::erase_if(settings.chat.variables, [&](const auto& known) { return known.first == name; });
    settings.chat.variables.push_back(template_variable(argument, "/set"));
    return;
  }
  const std::string value = end == argument.npos ? "" : argument.substr(argument.find_first_not_of(' ', end));
  if (name == "max_tokens") return set_max_tokens(settings, value);
  if (set_sampler(settings.sampler, name, value)) return;
  std::string known;
  for (const auto& [other, ignored] : sampler_settings(settings.sampler)) known += other + ", ";
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("/set {}: expected one of {}max_tokens and a value, or NAME=VALUE for the template", name, known));
}

void show_tokens(ChatSession& session, const std::string&) {
  const std::int64_t context = session.engine().plan().context;
  const auto tokens = static_cast<std::int64_t>(session.tokens());
  fmt::print("{} of {} tokens; {} left\n", tokens, context, std::max<std::int64_t>(context - tokens, 0));
  if (!session.last()) return;
  const EngineUsage& usage = session.last()->usage;
  const double seconds = usage.total_seconds - usage.first_token_seconds;
  const auto steps = static_cast<double>(std::max<std::int64_t>(usage.generated_tokens - 1, 0));
  fmt::print("last answer: prompt {} tokens, {} of them from the cache; generated {} tokens, {:.1f} tokens/s\n",
             usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens, seconds > 0 ? steps / seconds : 0);
}

// Nothing that can be waited for: Ctrl-C would have to end the program. "-" is a file's name too, as for /save.
std::string read_conversation(const std::string& path) {
  std::error_code none;
  const auto type = std::filesystem::status(path, none).type();
  if (type != std::filesystem::file_type::not_found && type != std::filesystem::file_type::regular)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: not a regular file", path));
  return read_text_file(path == "-" ? "./-" : path);
}

constexpr std::array kCommands{
    Command{"/system", "[TEXT]", "set the system message; without a text: none", false,
            [](ChatSession& session, const std::string& text) { session.set_system(text); }},
    Command{"/set", "[NAME VALUE]", "set temperature, top_p, seed, max_tokens ...; NAME=VALUE: the template's", false,
            set},
    Command{"/regen", "", "answer the last message again", false,
            [](ChatSession& session, const std::string&) { notice_end(session, session.answer_again()); }},
    Command{"/clear", "", "begin anew, with the same system message", false,
            [](ChatSession& session, const std::string&) { session.clear(); }},
    Command{
        "/save", "FILE", "write the messages as JSON", true,
        [](ChatSession& session, const std::string& path) { write_file_atomically(path, session.messages_json()); }},
    Command{"/load", "FILE", "take the messages of such a file", true,
            [](ChatSession& session, const std::string& path) { session.load(read_conversation(path), path); }},
    Command{"/tokens", "", "tokens of the conversation, and the last answer's speed", false, show_tokens},
    Command{"/help", "", "this", false, [](ChatSession&, const std::string&) { fmt::print("{}", chat_help()); }},
    Command{"/exit", "", "leave", false, nullptr},
};

}  // namespace

std::string chat_help() {
  std::string out;
  for (const Command& command : kCommands)
    out += fmt::format("  {:<20} {}\n", fmt::format("{} {}", command.name, command.argument), command.what);
  return out +
         "  A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines.\n"
         "  Ctrl-C stops an answer, Ctrl-D leaves.\n";
}

bool run_chat_command(ChatSession& session, const std::string& line) {
  const std::size_t end = std::min(line.find(' '), line.size());
  const std::string name = line.substr(0, end);
  std::string argument = line.substr(std::min(line.find_first_not_of(" \t", end), line.size()));
  argument.erase(argument.find_last_not_of(" \t\r") + 1);
  const auto* const command =
      std::find_if(kCommands.begin(), kCommands.end(), [&](const Command& known) { return name == known.name; });
  if (command == kCommands.end()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: no such command; /help lists them, and a message that begins with / goes between "
                            "\"\"\"",
                            name));
  }
  if (command->run == nullptr) return false;
  if (command->needs_argument && argument.empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: expected {}", name, command->argument));
  command->run(session, argument);
  flush_output();
  return true;
}

void notice_end(const ChatSession& session, const ChatReply& reply) {
  if (reply.reason == StopReason::kCancelled) {
    print_notice(reply.kept ? "stopped; what came is kept" : "stopped before an answer began; the message is not kept");
  } else if (reply.context_full) {
    print_notice(fmt::format(
        "the context is full: {} tokens of prompt and {} of answer are all of {}, and the answer ends here. "
        "/clear begins anew; --context takes more where model and memory have it",
        reply.usage.prompt_tokens, reply.usage.generated_tokens, session.engine().plan().context));
  } else if (reply.reason == StopReason::kLength) {
    print_notice(fmt::format("the answer ends after max_tokens, {}; /set max_tokens takes another number",
                             reply.usage.generated_tokens));
  }
}

}  // namespace metal_marlin::cli
