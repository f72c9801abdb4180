// The options of commands that turn a conversation into a prompt.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "metal_marlin/chat_template.h"

namespace metal_marlin::cli {

struct ChatFlags {
  std::string template_file;
  std::string template_name;
  std::vector<std::string> set;
  std::string now;

  void add(CLI::App& command);
  [[nodiscard]] bool given() const;  // any of them
  // The template of --chat-template, else the model's.
  [[nodiscard]] std::shared_ptr<const ChatTemplate> load(const std::string& model) const;
  // What --set and --now say. \throws Error (kInvalidArgument) naming the flag.
  [[nodiscard]] ChatOptions options() const;
};

// A template's variable: what follows NAME= is JSON, or else a text. \throws Error (kInvalidArgument) naming `flag`,
// also where the name is reserved.
std::pair<std::string, std::string> template_variable(const std::string& text, const char* flag);

// A conversation of one message, after a system message where there is one: as JSON.
std::string one_message(const std::string& system, const std::string& text);

}  // namespace metal_marlin::cli
