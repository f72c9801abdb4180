// One connection: reads a request, has it handled, writes the answer, and so on until either side ends it.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <mutex>
#include <optional>

#include "server/http/byte_stream.h"
#include "server/http/http.h"

namespace metal_marlin::server {

class Session;

// What the sessions of a server share. It outlives the server where an answer does.
struct SessionShared {
  HttpOptions options;
  HttpCheck check;
  HttpErrorBody error_body;
  HttpRefused refused;
  std::function<void(const std::shared_ptr<Exchange>&)> dispatch;  // calls the handler in another thread
  std::function<void(Session&)> closed;

  // Has the thread of the connections call `task`; not any more when the server has gone.
  void post(std::function<void()> task);
  void detach();

  std::mutex mutex;
  boost::asio::io_context* context = nullptr;
};

// The state of an answer, which its Exchange and its session share.
struct Answer {
  std::mutex mutex;
  bool gone = false;
  bool over = false;
  std::size_t unsent = 0;  // bytes of pieces
  HttpOutcome outcome;
  std::function<void()> when_gone;
  std::function<void(const HttpOutcome&)> when_over;
};

// But for its construction it runs in the thread of the connections alone.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<SessionShared> shared, boost::asio::io_context& context, std::unique_ptr<ByteStream> stream,
          std::string peer);

  void start();
  void close_when_idle();  // now, or after the answer that is on its way
  void drop();             // now
  void abandon();          // lets go of all that belongs to the thread of the connections, which has ended

  [[nodiscard]] const std::string& peer() const { return peer_; }
  // One answer to the client that is to be refused.
  void refuse(int status, const std::string& message);

  // For the exchange.
  void begin_answer(int status, std::string_view content_type, const HttpHeaders& headers,
                    std::optional<std::string> body);
  void add_piece(std::string piece);
  void end_answer();

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  void expect_request(std::chrono::milliseconds most);
  void read();
  void take_input();
  bool fail_unless_well_formed();
  bool check_head();
  void handle_request(HttpRequest request);
  void watch();
  void send(std::string bytes, bool piece);
  void write_next();
  void answer_sent();
  void linger();
  void hang_up();
  void end(bool complete);
  void set_deadline(boost::asio::steady_timer& timer, std::chrono::milliseconds after);

  std::shared_ptr<SessionShared> shared_;
  std::string peer_;
  std::unique_ptr<ByteStream> stream_;
  std::optional<boost::asio::steady_timer> read_timer_;
  std::optional<boost::asio::steady_timer> write_timer_;

  std::optional<Parser> parser_;
  std::array<char, 16384> buffer_;
  std::string input_;  // read, and not taken yet
  bool head_checked_ = false;
  bool reading_ = false;
  bool lingering_ = false;
  bool closing_ = false;
  bool closed_ = false;

  std::shared_ptr<Answer> answer_;
  std::chrono::steady_clock::time_point began_;
  bool head_only_ = false;
  bool chunked_ = false;
  bool keep_alive_ = false;
  bool ended_ = false;
  std::deque<std::pair<std::string, bool>> out_;  // bytes, and whether they count as unsent
  std::size_t out_offset_ = 0;
  bool writing_ = false;
};

}  // namespace metal_marlin::server
