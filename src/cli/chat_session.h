// A conversation with a model: its messages, and the answers that an engine gives.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat_template/reasoning.h"
#include "cli/answer_view.h"
#include "metal_marlin/chat_template.h"
#include "metal_marlin/engine.h"

namespace metal_marlin::cli {

struct ChatSettings {
  ChatOptions chat;
  SamplerOptions sampler;
  std::string adapter;            // of the model's, by name; empty: none
  std::optional<int> max_tokens;  // of an answer; none: until the context ends
};

struct ChatReply {
  StopReason reason = StopReason::kEndToken;
  EngineUsage usage;
  bool context_full = false;  // of kLength: no more fits into the context
  bool kept = true;           // it is part of the conversation
};

class ChatSession {
 public:
  // \throws Error as Engine does.
  ChatSession(const std::shared_ptr<const Model>& model, const EngineOptions& options,
              std::shared_ptr<const ChatTemplate> chat, bool colours);

  // Adds a message of the user and prints the answer as it comes. What came until Ctrl-C is kept as the answer; without
  // an answer the conversation is as it was. \throws Error (kInvalidArgument) when it is too long for the context.
  ChatReply say(const std::string& text);
  // Another answer to the last message of the user. \throws Error (kInvalidArgument) when there is none.
  ChatReply answer_again();

  // Empty: none.
  void set_system(const std::string& text);
  void clear();  // of all but the system message
  // A JSON list of messages, for the conversation's. \throws Error naming `where`, also with what the template refuses.
  void load(std::string_view json, const std::string& where);
  [[nodiscard]] std::string messages_json() const;
  // Tokens of the conversation until now.
  [[nodiscard]] std::size_t tokens() const;

  [[nodiscard]] const Engine& engine() const { return *engine_; }
  // Of the last answer.
  [[nodiscard]] const std::optional<ChatReply>& last() const { return last_; }

  ChatSettings settings;

 private:
  using Messages = nlohmann::ordered_json;
  // The last prompt and its answer: another prompt that begins with both, or is the same, has these tokens.
  struct Known {
    std::string text;
    std::vector<TokenId> tokens;
    std::size_t prompt_bytes = 0;
    std::size_t prompt_tokens = 0;
  };
  ChatReply answer(const Messages& messages);
  ChatReply stream(EngineRequest request, std::vector<TokenId>& drawn, AnswerView& view);
  [[nodiscard]] std::string render(const Messages& messages, bool ask) const;
  [[nodiscard]] std::vector<TokenId> encode(const std::string& prompt) const;
  void check_room(std::size_t tokens) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> chat_;
  std::optional<ReasoningTags> tags_;
  std::unique_ptr<Engine> engine_;
  bool colours_;
  Messages messages_ = Messages::array();
  Known known_;
  std::uint64_t answers_ = 0;
  std::optional<ChatReply> last_;
};

}  // namespace metal_marlin::cli
