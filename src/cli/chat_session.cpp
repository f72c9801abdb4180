#include "cli/chat_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <utility>

#include "cli/interrupts.h"
#include "io/json.h"
#include "io/json_fields.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

using namespace std::chrono_literals;

// What the engine's thread tells and another one takes.
class EventQueue {
 public:
  struct News {
    std::string text;
    std::vector<TokenId> tokens;
    std::optional<ChatReply> reply;
    std::optional<Error> error;
  };
  void push(const EngineEvent& event) {
    const std::lock_guard lock(mutex_);
    news_.text += event.text;
    news_.tokens.insert(news_.tokens.end(), event.tokens.begin(), event.tokens.end());
    if (event.finished) news_.reply = ChatReply{*event.finished, event.usage};
    news_.error = event.error;
    any_ = true;
    came_.notify_one();
  }
  // What came since, waiting a moment for some.
  News take() {
    std::unique_lock lock(mutex_);
    came_.wait_for(lock, 50ms, [&] { return any_; });
    any_ = false;
    return std::exchange(news_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  bool any_ = false;
  News news_;
};

std::string dump(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool is_from(const nlohmann::ordered_json& message, const char* role) {
  return message.at("role").get<std::string>() == role;
}

}  // namespace

ChatSession::ChatSession(const std::shared_ptr<const Model>& model, const EngineOptions& options,
                         std::shared_ptr<const ChatTemplate> chat, bool colours)
    : tokenizer_(model->tokenizer()),
      chat_(std::move(chat)),
      tags_(find_reasoning_tags(chat_->text())),
      engine_(std::make_unique<Engine>(model, options)),
      colours_(colours) {}

ChatReply ChatSession::say(const std::string& text) {
  Messages messages = messages_;
  messages.push_back({{"role", "user"}, {"content", text}});
  return answer(messages);
}

ChatReply ChatSession::answer_again() {
  Messages messages = messages_;
  while (!messages.empty() && !is_from(messages.back(), "user")) messages.erase(messages.size() - 1);
  if (messages.empty())
    throw Error(ErrorCode::kInvalidArgument, "there is no message of the user that could be answered again");
  return answer(messages);
}

ChatReply ChatSession::answer(const Messages& messages) {
  const std::string prompt = render(messages, true);
  EngineRequest request;
  request.prompt = encode(prompt);
  check_room(request.prompt.size());
  const auto room = engine_->plan().context - static_cast<std::int64_t>(request.prompt.size());
  const std::int64_t most = settings.max_tokens ? std::min<std::int64_t>(room, *settings.max_tokens) : room;
  request.max_tokens = static_cast<int>(std::min<std::int64_t>(most, std::numeric_limits<int>::max()));
  request.sampler = settings.sampler;
  request.adapter = settings.adapter;
  request.sampler.seed += answers_++;  // another for each
  const std::size_t prompt_tokens = request.prompt.size();
  std::vector<TokenId> tokens = request.prompt;
  AnswerView view(tags_, tags_ && ends_in_thought(prompt, *tags_, false), colours_);
  ChatReply reply = stream(std::move(request), tokens, view);
  reply.context_full = reply.reason == StopReason::kLength && most == room;
  reply.kept = reply.reason != StopReason::kCancelled || !view.text().empty();
  if (!reply.kept) return reply;
  messages_ = messages;
  messages_.push_back({{"role", "assistant"}, {"content", view.content()}});
  if (!view.reasoning().empty()) messages_.back()["reasoning_content"] = view.reasoning();
  known_ = {prompt + view.text(), std::move(tokens), prompt.size(), prompt_tokens};
  last_ = reply;
  return reply;
}

// Tokens that are drawn are added to `drawn`.
ChatReply ChatSession::stream(EngineRequest request, std::vector<TokenId>& drawn, AnswerView& view) {
  // Of the callback too: it outlives this call where printing fails.
  const auto queue = std::make_shared<EventQueue>();
  const RequestId id = engine_->submit(std::move(request), [queue](const EngineEvent& event) { queue->push(event); });
  try {
    for (;;) {
      const EventQueue::News news = queue->take();
      drawn.insert(drawn.end(), news.tokens.begin(), news.tokens.end());
      if (!news.text.empty()) view.push(news.text);
      if (news.error || news.reply) view.finish();
      if (news.error) throw *news.error;
      if (news.reply) return *news.reply;
      if (interrupted()) engine_->cancel(id);
    }
  } catch (...) {
    engine_->cancel(id);
    throw;
  }
}

void ChatSession::check_room(std::size_t tokens) const {
  const std::int64_t context = engine_->plan().context;
  if (static_cast<std::int64_t>(tokens) < context) return;
  const std::int64_t most = engine_->model().info().max_positions;
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format("the context is full: the conversation with this message has {} tokens, and there is room for "
                  "{} with an answer; the message was not added. /clear begins anew{}",
                  tokens, context,
                  context < most ? fmt::format(", and --context takes up to {} where memory has room", most) : ""));
}

std::string ChatSession::render(const Messages& messages, bool ask) const {
  ChatOptions options = settings.chat;
  options.add_generation_prompt = ask;
  return chat_->render(dump(messages, -1), options);
}

std::vector<TokenId> ChatSession::encode(const std::string& prompt) const {
  constexpr EncodeOptions kOptions{.add_special = false, .parse_special = true};
  const auto& tokens = known_.tokens;
  if (prompt == std::string_view(known_.text).substr(0, known_.prompt_bytes))
    return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(known_.prompt_tokens)};
  if (!known_.text.empty() && prompt.starts_with(known_.text)) {
    // The answer as it was drawn, which may be cut into tokens otherwise than the tokenizer does; a special token ends
    // it in either way.
    const std::vector<TokenId> more = tokenizer_->encode(prompt.substr(known_.text.size()), kOptions);
    if (!more.empty() && tokenizer_->is_special(more.front())) {
      std::vector<TokenId> out = tokens;
      out.insert(out.end(), more.begin(), more.end());
      return out;
    }
  }
  return tokenizer_->encode(prompt, kOptions);
}

void ChatSession::set_system(const std::string& text) {
  if (!messages_.empty() && is_from(messages_.front(), "system")) messages_.erase(0);
  if (text.empty()) return;
  const Messages system = {{"role", "system"}, {"content", text}};
  messages_.insert(messages_.begin(), system);
}

void ChatSession::clear() {
  const bool system = !messages_.empty() && is_from(messages_.front(), "system");
  messages_.erase(messages_.begin() + (system ? 1 : 0), messages_.end());
  last_.reset();
}

void ChatSession::load(std::string_view json, const std::string& where) {
  const Json checked = parse_json(json, where);
  if (!checked.is_array()) throw Error(ErrorCode::kCorruptFile, fmt::format("{}: expected a list of messages", where));
  for (std::size_t i = 0; i < checked.size(); ++i) {
    const JsonObject message(checked[i], fmt::format("{}: message {}", where, i));
    static_cast<void>(message.string("role"));
    // Templates write whatever else they find as if it were text.
    const bool has_text =
        message.has("content") && (message.at("content").is_string() || message.at("content").is_array());
    if (!has_text && (message.has("content") || !message.has("tool_calls")))
      message.wrong("content", "a text or a list of parts");
  }
  if (const std::size_t fields = most_json_fields(json); fields > kMostJsonFields)
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: an object of {} fields, expected at most {}", where, fields, kMostJsonFields));
  Messages messages = Messages::parse(json);
  if (!messages.empty()) {
    try {
      static_cast<void>(render(messages, false));
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("{}: {}", where, error.what()));
    }
  }
  messages_ = std::move(messages);
  last_.reset();
}

std::string ChatSession::messages_json() const {
  return dump(messages_, 2) + "\n";
}

std::size_t ChatSession::tokens() const {
  return messages_.empty() ? 0 : encode(render(messages_, false)).size();
}

}  // namespace metal_marlin::cli
