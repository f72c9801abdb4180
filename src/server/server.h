// The server: models behind an API over HTTP.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "server/guard.h"
#include "server/service.h"

namespace metal_marlin::server {

struct ServerOptions {
  HttpOptions http;
  GuardOptions guard;
  std::string log_file;  // empty: the standard error
  bool log_prompts = false;
  bool keep_billing_line = false;     // of the system prompts of Anthropic's API
  std::filesystem::path slot_folder;  // that conversations are saved in; empty: none are
};

class Server {
 public:
  // Takes the address and opens the files, so that what is wrong with them is told before models are loaded.
  // \throws Error, as HttpServer, ApiKeys and AccessLog do.
  explicit Server(const ServerOptions& options);
  ~Server();  // ends what is open
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Listens from here on. \throws Error (kIo) when somebody else began to, there.
  void start(std::vector<ModelEntry> models, const ModelLimits& limits);
  // Of models that are loaded, and stay.
  void start(std::vector<ServedModel> models);
  [[nodiscard]] std::uint16_t port() const { return http_->port(); }
  [[nodiscard]] const Models& models() const { return service_.models; }
  // Takes no more requests, and returns when those that are open were answered, or after `most`: then it has ended
  // them. \returns whether none had to be.
  bool drain(std::chrono::milliseconds most);

 private:
  void handle(const std::shared_ptr<Exchange>& exchange);
  // What can be told of a request without its body. \throws ApiError. \returns whose it is.
  std::string admit(const HttpRequest& request);
  void answer(const Call& call);
  // Does it, or answers with why it could not. It is done once more where it waits for a model.
  void attempt(const Call& call, const std::function<void()>& what);
  void fail(const Call& call, const ApiError& error);
  void wait_for_model(const Call& call, std::size_t entry, const std::function<void()>& what);

  AccessLog log_;
  Guard guard_;
  Service service_;
  std::unique_ptr<HttpServer> http_;  // last: it calls the others
};

}  // namespace metal_marlin::server
