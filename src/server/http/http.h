// What the HTTP transport hands to the rest of the server, and takes back: requests, answers whole or piece by piece,
// limits. Nothing here knows the library that does it.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_marlin::server {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;     // without what follows "?"
  HttpHeaders query;    // what does, names and values
  HttpHeaders headers;  // names in small letters
  std::string body;
  std::string peer;  // the client's address
  // Why its body is not wanted, by HttpCheck; then it is not here. None: it is whole.
  std::exception_ptr refusal;

  // The value of the first header of this name (in small letters), or nullptr.
  [[nodiscard]] const std::string* header(std::string_view name) const;
};

// How an answer ended, for the log.
struct HttpOutcome {
  int status = 0;  // 0: there was no answer
  std::size_t bytes = 0;
  double seconds = 0;
  bool complete = false;  // false: the client went before its end, or was dropped
};

// A request and its answer. Its calls may come from any thread, and return at once: what is written waits in a queue
// of bounded size. An answer that nobody gave when the last owner lets go becomes status 500.
class Exchange {
 public:
  explicit Exchange(HttpRequest request) : request_(std::move(request)) {}
  virtual ~Exchange() = default;
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  [[nodiscard]] const HttpRequest& request() const { return request_; }
  // Headers of the answer; to be added before it begins.
  HttpHeaders headers;

  // The whole answer.
  virtual void respond(int status, std::string_view content_type, std::string body) = 0;
  // An answer in pieces, of which each is sent as it comes.
  virtual void begin(int status, std::string_view content_type) = 0;
  virtual void write(std::string piece) = 0;
  virtual void end() = 0;
  // Whether the client went before the answer was complete: work for it is in vain.
  [[nodiscard]] virtual bool is_gone() const = 0;
  // `gone` is called once, when the client goes before the answer is complete; at once where it is gone already.
  virtual void when_gone(std::function<void()> gone) = 0;
  // Called once, when the answer was sent or will not be.
  virtual void when_over(std::function<void(const HttpOutcome&)> over) = 0;

 private:
  HttpRequest request_;
};

using HttpHandler = std::function<void(const std::shared_ptr<Exchange>&)>;

// Looks at a request of which there is all but the body, and throws where the answer needs none of it. It is called in
// the thread of the connections.
using HttpCheck = std::function<void(const HttpRequest& head)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;    // 0: one that is free
  std::string tls_certificate;  // PEM file with the chain; empty: no TLS
  std::string tls_key;
  std::size_t max_head = 32 << 10;
  std::size_t max_body = 16 << 20;
  std::size_t max_connections = 512;
  std::size_t max_connections_per_address = 0;  // 0: no limit of its own
  std::size_t max_unsent = 4 << 20;             // bytes of one answer that a slow reader leaves; beyond, it is dropped
  std::chrono::milliseconds read_timeout{20000};   // for a request, from its first byte to its last
  std::chrono::milliseconds idle_timeout{75000};   // between requests
  std::chrono::milliseconds write_timeout{30000};  // for a reader that takes nothing
};

// The answer of the transport itself, to what is no request or past a limit: a body for a status and what is wrong.
// `path` as far as it is known.
using HttpErrorBody = std::function<std::string(int status, const std::string& path, const std::string& message)>;

// Told of an answer to what never came to the handler: what is known of the request, what is wrong, how it ended.
using HttpRefused = std::function<void(const HttpRequest&, const std::string& message, const HttpOutcome&)>;

// Listens, reads requests, calls the handler in a few threads of its own, and writes answers. A request whose body is
// not wanted goes to the handler before that comes, and its connection ends with the answer.
class HttpServer {
 public:
  // Takes the address, and refuses connections until start().
  // \throws Error (kIo) when the address cannot be listened on, (kInvalidArgument) for a certificate.
  HttpServer(const HttpOptions& options, HttpHandler handler, HttpCheck check, HttpErrorBody error_body,
             HttpRefused refused);
  ~HttpServer();  // ends all connections
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Listens and answers from here on. \throws Error (kIo) as above.
  void start();
  // Calls `task` for a request in a thread of handlers, as it does the handler: one with a large body has a turn.
  void post(const HttpRequest& request, std::function<void()> task);
  // Calls `task` in a thread of handlers, one such task at a time: requests that take long leave the others to the
  // rest.
  void take_turn(std::function<void()> task);
  [[nodiscard]] std::uint16_t port() const;
  [[nodiscard]] bool on_loopback() const;
  // No new connections; those that are open end after the answer that they wait for.
  void stop_accepting();
  // Whether all connections ended within this time.
  bool wait_until_idle(std::chrono::milliseconds most);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin::server
