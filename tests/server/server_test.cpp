// A server whose engine fails, as its clients see it.
#include "server/server.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/engine_testing.h"

namespace metal_marlin::server {
namespace {

struct Reply {
  int status = 0;
  std::string body;  // with the chunks' sizes, where it is in chunks
};

// The whole answer on a connection of its own.
Reply ask(std::uint16_t port, const std::string& method, const std::string& path, const std::string& body = "") {
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(connection, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const std::string text = method + " " + path +
                           " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                           "Content-Length: " +
                           std::to_string(body.size()) + "\r\n\r\n" + body;
  EXPECT_EQ(send(connection, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  std::string answer;
  std::vector<char> buffer(4096);
  for (;;) {
    const ssize_t size = recv(connection, buffer.data(), buffer.size(), 0);
    if (size <= 0) break;
    answer.append(buffer.data(), static_cast<std::size_t>(size));
  }
  close(connection);
  const std::size_t head = answer.find("\r\n\r\n");
  if (head == answer.npos) return {};
  return {std::stoi(answer.substr(9, 3)), answer.substr(head + 4)};
}

std::string completion(bool stream) {
  return nlohmann::json({{"prompt", "ab"}, {"max_tokens", 400}, {"ignore_eos", true}, {"stream", stream}}).dump();
}

// A server of one engine, of which at most four samples run at a time.
class FailingServer {
 public:
  FailingServer(std::function<void()> before_step, std::function<void()> between_steps,
                std::chrono::milliseconds hang_after = 60s) {
    EngineOptions options = small(512, 4, 4096);
    options.hang_after = hang_after;
    ServedModel served;
    served.name = "failing";
    served.tokenizer = model_.model->tokenizer();
    served.engine = EngineWithFaults::make(model_.model, options, std::move(before_step), std::move(between_steps));
    std::vector<ServedModel> models;
    models.push_back(std::move(served));
    ServerOptions server_options;
    server_options.http.port = 0;
    server_options.log_file = "/dev/null";
    server_ = std::make_unique<Server>(server_options);
    server_->start(std::move(models));
  }

  ~FailingServer() {
    server_.reset();
    while (model_.model.use_count() > 1) std::this_thread::yield();  // for a step that hung
  }
  FailingServer(const FailingServer&) = delete;
  FailingServer& operator=(const FailingServer&) = delete;

  [[nodiscard]] std::uint16_t port() const { return server_->port(); }
  [[nodiscard]] EngineStats stats() const { return server_->models().loaded().front()->engine->stats(); }
  bool drain() { return server_->drain(10s); }

  // Asks eight times, of which four wait and half are streams, lets the engine fail once all are there, and looks at
  // what every one of them got: an error that says why.
  void expect_errors(const std::function<void()>& fail, const std::string& why) {
    std::vector<std::future<Reply>> open;
    for (int i = 0; i < 8; ++i) {
      open.push_back(std::async(std::launch::async,
                                [this, i] { return ask(port(), "POST", "/v1/completions", completion(i % 2 == 0)); }));
    }
    while (stats().running != 4 || stats().waiting != 4) std::this_thread::yield();
    fail();
    for (auto& each : open) {
      const Reply reply = each.get();
      EXPECT_NE(reply.body.find(R"({"error":{"message":")" + why), std::string::npos) << reply.body;
      if (reply.status == 200) {  // a stream that had begun
        EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n")) << reply.body;
      } else {
        EXPECT_EQ(reply.status, 500);
      }
    }
  }

  void expect_unhealthy(const std::string& why) {
    for (const char* const path : {"/health", "/ready"}) {
      const Reply reply = ask(port(), "GET", path);
      EXPECT_EQ(reply.status, 503) << path;
      EXPECT_NE(reply.body.find("model failing: " + why), std::string::npos) << reply.body;
      EXPECT_NE(reply.body.find("engine_failed"), std::string::npos) << reply.body;
    }
    const Reply refused = ask(port(), "POST", "/v1/completions", completion(true));
    EXPECT_EQ(refused.status, 500);
    EXPECT_NE(refused.body.find(why), std::string::npos) << refused.body;
    EXPECT_EQ(ask(port(), "GET", "/metrics").status, 200);  // that it can still tell
  }

 private:
  WithTokenizer model_;
  std::unique_ptr<Server> server_;
};

// Its port is its own at once, and nobody is let in before there are models.
TEST(ServerThatStarts, RefusesUntilItHasModels) {
  const WithTokenizer with;
  ServerOptions options;
  options.http.port = 0;
  options.log_file = "/dev/null";
  Server server(options);
  const std::uint16_t port = server.port();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int early = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(early, reinterpret_cast<const sockaddr*>(&address), sizeof address), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
  close(early);
  const int other = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(bind(other, reinterpret_cast<const sockaddr*>(&address), sizeof address), -1);
  close(other);
  std::vector<ServedModel> models(1);
  models[0].name = "model";
  models[0].tokenizer = with.model->tokenizer();
  models[0].engine = std::make_unique<Engine>(with.model, small(64, 1, 64));
  server.start(std::move(models));
  EXPECT_EQ(server.port(), port);
  EXPECT_EQ(ask(port, "GET", "/ready").status, 200);
  EXPECT_TRUE(server.drain(10s));
}

TEST(ServerWithAnEngineThatFails, ThreadThatDies) {
  std::atomic<bool> dies = false;
  FailingServer server([] { std::this_thread::sleep_for(2ms); },
                       [&] {
                         if (dies) throw std::runtime_error("struck");
                       });
  EXPECT_EQ(ask(server.port(), "GET", "/health").status, 200);
  server.expect_errors([&] { dies = true; }, "the engine's thread died: struck");
  server.expect_unhealthy("the engine's thread died: struck");
  EXPECT_TRUE(server.drain());  // there is nothing that it would wait for
}

TEST(ServerWithAnEngineThatFails, StepThatHangs) {
  std::atomic<bool> hangs = false;
  std::promise<void> over;
  const std::shared_future<void> is_over = over.get_future().share();
  {
    FailingServer server(
        [&hangs, is_over] {
          std::this_thread::sleep_for(2ms);
          if (hangs) is_over.wait();
        },
        {}, 2s);
    server.expect_errors([&] { hangs = true; }, "a step of the engine hangs");
    server.expect_unhealthy("a step of the engine hangs");
    EXPECT_TRUE(server.drain());
    over.set_value();
  }
}

TEST(ServerWithAnEngineThatFails, StepThatThrowsAndTheNextDoNot) {
  std::atomic<bool> throws = false;
  FailingServer server(
      [&] {
        std::this_thread::sleep_for(2ms);
        if (throws.exchange(false)) throw Error(ErrorCode::kIo, "the device is gone");
      },
      {});
  std::vector<std::future<Reply>> open;
  for (int i = 0; i < 4; ++i) {
    open.push_back(std::async(
        std::launch::async, [&, i] { return ask(server.port(), "POST", "/v1/completions", completion(i % 2 == 0)); }));
  }
  while (server.stats().running != 4) std::this_thread::yield();
  throws = true;
  for (auto& each : open) EXPECT_NE(each.get().body.find("the device is gone"), std::string::npos);
  EXPECT_EQ(ask(server.port(), "GET", "/health").status, 200);
  const Reply after = ask(server.port(), "POST", "/v1/completions", completion(false));
  EXPECT_EQ(after.status, 200);
  EXPECT_NE(after.body.find(R"("finish_reason":"length")"), std::string::npos) << after.body;
  EXPECT_TRUE(server.drain());
  EXPECT_EQ(server.stats().cache.held, 0);
}

}  // namespace
}  // namespace metal_marlin::server
