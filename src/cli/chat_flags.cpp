#include "cli/chat_flags.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "chat_template/template_source.h"
#include "cli/commands.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

std::chrono::local_seconds parse_time(const std::string& text) {
  int year = 0;
  unsigned month = 0;
  unsigned day = 0;
  int hours = 0;
  int minutes = 0;
  int seconds = 0;
  int end = 0;
  const int read =
      std::sscanf(text.c_str(), "%4d-%2u-%2uT%2d:%2d:%2d%n", &year, &month, &day, &hours, &minutes, &seconds, &end);
  const std::chrono::year_month_day date{std::chrono::year(year), std::chrono::month(month), std::chrono::day(day)};
  const bool in_day = hours >= 0 && hours < 24 && minutes >= 0 && minutes < 60 && seconds >= 0 && seconds < 60;
  if (read != 6 || static_cast<std::size_t>(end) != text.size() || !date.ok() || !in_day) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("--now {}: expected a time like 2026-01-31T12:00:00", text));
  }
  return std::chrono::local_days(date) + std::chrono::hours(hours) + std::chrono::minutes(minutes) +
         std::chrono::seconds(seconds);
}

}  // namespace

void ChatFlags::add(CLI::App& command) {
  command.add_option("--chat-template", template_file, "file with a chat template, instead of the model's");
  command.add_option("--template-name", template_name,
                     "which of a model's templates; default: default, or tool_use where there are tools");
  add_list(command, "--set", set, "a variable for the template, NAME=VALUE, as JSON or else text; repeatable");
  command.add_option("--now", now, "the time that a template shows, like 2026-01-31T12:00:00; default: now, here");
}

bool ChatFlags::given() const {
  return !template_file.empty() || !template_name.empty() || !set.empty() || !now.empty();
}

std::shared_ptr<const ChatTemplate> ChatFlags::load(const std::string& model) const {
  if (template_file.empty()) return ChatTemplate::load(model, template_name);
  return ChatTemplate::from_text(read_template(template_file), template_file);
}

ChatOptions ChatFlags::options() const {
  ChatOptions out;
  for (const std::string& flag : set) out.variables.push_back(template_variable(flag, "--set"));
  if (!now.empty()) out.now = parse_time(now);
  return out;
}

std::pair<std::string, std::string> template_variable(const std::string& text, const char* flag) {
  const std::size_t sign = text.find('=');
  if (sign == text.npos || sign == 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} {}: expected NAME=VALUE", flag, text));
  const std::string name = text.substr(0, sign);
  if (is_reserved_variable(name)) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{} {}: {} is not a variable to be set", flag, text, name));
  }
  std::string value = text.substr(sign + 1);
  if (!nlohmann::json::accept(value)) {
    value = nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  return {name, value};
}

std::string one_message(const std::string& system, const std::string& text) {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!system.empty()) messages.push_back({{"role", "system"}, {"content", system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  return messages.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace metal_marlin::cli
