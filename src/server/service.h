// What the routes of the server share: models that are served, and who is told what happens.
#pragma once

#include <atomic>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "chat_template/reasoning.h"
#include "metal_marlin/chat_template.h"
#include "metal_marlin/engine.h"
#include "metal_marlin/tokenizer.h"
#include "server/access_log.h"
#include "server/grammar_cache.h"
#include "server/http/http.h"
#include "server/metrics.h"
#include "tool_calls/detect.h"

namespace metal_marlin::server {

struct ServedModel {
  std::string name;
  std::unique_ptr<Engine> engine;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat;  // nullptr: the model has none
  // What learn_template() finds out of it.
  std::optional<ReasoningTags> reasoning;
  std::optional<DetectedTools> tools;         // none: it has no calls that can be told
  std::shared_ptr<const Tokenizer> marked{};  // shows what parts answers; nullptr: the tokenizer does
  std::time_t created = std::time(nullptr);

  [[nodiscard]] const ModelInfo& info() const { return engine->model().info(); }
  [[nodiscard]] std::int64_t vocabulary() const { return info().vocab; }
};

// One request on its way through the server.
struct Call {
  std::shared_ptr<Exchange> exchange;
  std::shared_ptr<LogEntry> log;
  std::string id;         // of the request, in the log and in X-Request-Id
  std::string fair_key;   // whose it is: requests of several take turns
  bool has_turn = false;  // no other request that has one is answered at this time

  [[nodiscard]] const HttpRequest& request() const { return exchange->request(); }
};

struct Service;
using AnswerRoute = void (*)(Service& service, const Call& call);

struct Service {
  explicit Service(AccessLog& access_log) : log(access_log) {}

  // By the name in a request; empty: the only one. \throws ApiError (400, 404).
  [[nodiscard]] const ServedModel& model(const std::string& name) const;

  AccessLog& log;
  Metrics metrics;
  GrammarCache grammars;
  // Answers a call once more, with its turn: for what takes so long that several at a time would hold up all others.
  std::function<void(const Call& call, AnswerRoute answer)> take_turn;
  std::atomic<bool> draining = false;
  std::vector<ServedModel> models;  // at least one from the first request on; last: their engines tell the others until
                                    // they end
};

}  // namespace metal_marlin::server
