// What the routes of the server share: models that are served, and who is told what happens.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/access_log.h"
#include "server/api_error.h"
#include "server/grammar_cache.h"
#include "server/http/http.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/served_model.h"

namespace metal_marlin::server {

// One request on its way through the server.
struct Call {
  std::shared_ptr<Exchange> exchange;
  std::shared_ptr<LogEntry> log;
  std::string id;         // of the request, in the log and in X-Request-Id
  std::string fair_key;   // whose it is: requests of several take turns
  std::string owner{};    // the key whose it is, by name; empty: there are no keys, and all have the same
  bool has_turn = false;  // no other request that has one is answered at this time
  // The models that it uses, which stay loaded as long as somebody has a copy of this.
  std::shared_ptr<ModelLeases> models = std::make_shared<ModelLeases>();

  [[nodiscard]] const HttpRequest& request() const { return exchange->request(); }
  // The body of an error, as the client's API has it.
  [[nodiscard]] std::string error(const ApiError& error) const { return error_body(error, request().path, id); }
};

struct Service;
using AnswerRoute = void (*)(Service& service, const Call& call);

struct Service {
  explicit Service(AccessLog& access_log) : log(access_log) {}

  // By the name in a request; empty: the only one. It stays as long as the call. \throws ApiError (400, 404);
  // ModelNotLoaded, whereupon the call is answered once more when it is.
  [[nodiscard]] const ServedModel& model(const Call& call, const std::string& name);

  AccessLog& log;
  Metrics metrics;
  GrammarCache grammars;
  // Answers a call once more, with its turn: for what takes so long that several at a time would hold up all others.
  std::function<void(const Call& call, AnswerRoute answer)> take_turn;
  std::atomic<bool> draining = false;
  bool keep_billing_line = false;     // of system prompts
  std::filesystem::path slot_folder;  // that conversations are saved in; empty: none are
  // Last: their engines tell the others until they end.
  Models models{[this](const std::string& name, const EngineStats& stats) { metrics.unloaded(name, stats); }};
};

}  // namespace metal_marlin::server
