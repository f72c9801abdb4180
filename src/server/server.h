// The server: models behind an API over HTTP.
#pragma once

#include <chrono>
#include <memory>

#include "server/guard.h"
#include "server/service.h"

namespace metal_marlin::server {

struct ServerOptions {
  HttpOptions http;
  GuardOptions guard;
  std::string log_file;  // empty: the standard error
  bool log_prompts = false;
};

class Server {
 public:
  // Listens from here on. \throws Error, as HttpServer and ApiKeys do.
  Server(const ServerOptions& options, std::vector<ServedModel> models);
  ~Server();  // ends what is open
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] std::uint16_t port() const { return http_->port(); }
  [[nodiscard]] const std::vector<ServedModel>& models() const { return service_.models; }
  // Takes no more requests, and returns when those that are open were answered, or after `most`: then it has ended
  // them. \returns whether none had to be.
  bool drain(std::chrono::milliseconds most);

 private:
  void handle(const std::shared_ptr<Exchange>& exchange);
  void answer(const Call& call);

  AccessLog log_;
  Guard guard_;
  Service service_;
  std::unique_ptr<HttpServer> http_;  // last: it calls the others
};

}  // namespace metal_marlin::server
