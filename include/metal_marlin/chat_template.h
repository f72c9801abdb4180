/// \file
/// A conversation to the prompt that a model expects, by the Jinja template that it ships.
#pragma once

#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_marlin {

/// What a template sees under these names is the conversation's or the model's: whoever takes variables from others
/// refuses these, which would replace it.
inline constexpr std::array<std::string_view, 12> kReservedVariables = {"messages",
                                                                        "tools",
                                                                        "documents",
                                                                        "add_generation_prompt",
                                                                        "continue_final_message",
                                                                        "bos_token",
                                                                        "eos_token",
                                                                        "unk_token",
                                                                        "sep_token",
                                                                        "pad_token",
                                                                        "cls_token",
                                                                        "mask_token"};
[[nodiscard]] bool is_reserved_variable(std::string_view name);

/// What a template sees besides the messages.
struct ChatOptions {
  /// JSON list of tools; none: the template sees none.
  std::optional<std::string> tools;
  /// JSON list of documents; none: the template sees none.
  std::optional<std::string> documents;
  /// Ask for the beginning of an answer.
  bool add_generation_prompt = true;
  /// End the prompt inside the last message, for the model to go on with it.
  bool continue_final_message = false;
  /// More variables, as JSON; they come before all others, also before what has a reserved name.
  std::vector<std::pair<std::string, std::string>> variables;
  /// The texts bos_token and eos_token, instead of the model's.
  std::optional<std::string> bos;
  std::optional<std::string> eos;
  /// What strftime_now shows; none: the time that it is here.
  std::optional<std::chrono::local_seconds> now;
};

/// A chat template, run as transformers runs it: Jinja in an immutable sandbox, with trim_blocks and lstrip_blocks.
/// Steps, output, memory and depth are limited. Immutable and usable from many threads at once.
class ChatTemplate {
 public:
  /// \param text of the template; \param where its name in errors.
  /// \throws Error (kInvalidArgument) naming the line.
  static std::shared_ptr<const ChatTemplate> from_text(std::string_view text, const std::string& where);
  /// From a model folder (chat_template.jinja, chat_template.json, tokenizer_config.json) or a GGUF file.
  /// \param name one of several; empty: `default`, or `tool_use` where there are tools.
  /// \throws Error (kNotFound) when the model has no template, or none of this name.
  static std::shared_ptr<const ChatTemplate> load(const std::filesystem::path& model, const std::string& name = {});

  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  /// The prompt.
  /// \param messages JSON list, each with a role and content.
  /// \throws Error (kInvalidArgument) with what the template raised, (kUnsupported) past a limit.
  [[nodiscard]] std::string render(std::string_view messages, const ChatOptions& options = {}) const;
  /// Its own text, of which tags in answers can be told.
  [[nodiscard]] std::string_view text() const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin
