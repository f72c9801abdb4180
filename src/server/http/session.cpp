#include "server/http/session.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/post.hpp>
#include <ctime>
#include <utility>

#include "server/http/target.h"

namespace metal_marlin::server {
namespace {

namespace http = boost::beast::http;
namespace asio = boost::asio;

// What a client may send ahead while its answer is on its way.
constexpr std::size_t kMostAhead = 64 << 10;
constexpr std::chrono::milliseconds kLinger{2000};  // of silence

class SessionExchange : public Exchange {
 public:
  SessionExchange(HttpRequest request, std::shared_ptr<SessionShared> shared, std::shared_ptr<Session> session,
                  std::shared_ptr<Answer> answer)
      : Exchange(std::move(request)),
        shared_(std::move(shared)),
        session_(std::move(session)),
        answer_(std::move(answer)) {}

  ~SessionExchange() override {
    if (begun_) {  // whoever wrote may have given up; the client must not take it for whole
      if (!ended_) post([](Session& session) { session.drop(); });
    } else {
      SessionExchange::respond(500, "application/json",
                               shared_->error_body(500, request().path, "the server gave no answer"));
    }
  }

  void respond(int status, std::string_view content_type, std::string body) override {
    if (begun_.exchange(true)) return;
    ended_ = true;
    post([status, type = std::string(content_type), headers = headers, body = std::move(body)](
             Session& session) mutable { session.begin_answer(status, type, headers, std::move(body)); });
  }

  void begin(int status, std::string_view content_type) override {
    begun_ = true;
    post([status, type = std::string(content_type), headers = headers](Session& session) {
      session.begin_answer(status, type, headers, std::nullopt);
    });
  }

  void write(std::string piece) override {
    {
      const std::scoped_lock lock(answer_->mutex);
      if (answer_->gone) return;
      answer_->unsent += piece.size();
      if (answer_->unsent > shared_->options.max_unsent) {
        post([](Session& session) { session.drop(); });
        return;
      }
    }
    post([piece = std::move(piece)](Session& session) mutable { session.add_piece(std::move(piece)); });
  }

  void end() override {
    ended_ = true;
    post([](Session& session) { session.end_answer(); });
  }

  [[nodiscard]] bool is_gone() const override {
    const std::scoped_lock lock(answer_->mutex);
    return answer_->gone;
  }

  void when_gone(std::function<void()> gone) override {
    {
      const std::scoped_lock lock(answer_->mutex);
      if (!answer_->gone) {
        answer_->when_gone = std::move(gone);
        return;
      }
    }
    gone();
  }

  void when_over(std::function<void(const HttpOutcome&)> over) override {
    {
      const std::scoped_lock lock(answer_->mutex);
      if (!answer_->over) {
        answer_->when_over = std::move(over);
        return;
      }
    }
    over(answer_->outcome);
  }

 private:
  template <class F>
  void post(F task) {
    shared_->post([task = std::move(task), session = session_, answer = answer_]() mutable {
      {
        const std::scoped_lock lock(answer->mutex);
        if (answer->over) return;
      }
      task(*session);
    });
  }

  std::shared_ptr<SessionShared> shared_;
  std::shared_ptr<Session> session_;
  std::shared_ptr<Answer> answer_;
  std::atomic<bool> begun_ = false;
  std::atomic<bool> ended_ = false;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

HttpRequest request_of(const http::request<http::string_body>& message, const std::string& peer) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string_view target(message.target().data(), message.target().size());
  request.path = target_path(target);
  request.query = target_query(target);
  for (const auto& field : message) {
    request.headers.emplace_back(lower({field.name_string().data(), field.name_string().size()}),
                                 std::string(field.value()));
  }
  request.peer = peer;
  return request;
}

// What an answer's own headers do not say otherwise.
constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kUsualHeaders = {{
    {"X-Content-Type-Options", "nosniff"},
    {"Cache-Control", "no-store"},
}};

std::string head(int status, std::string_view content_type, const HttpHeaders& headers) {
  const auto reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  std::string out =
      fmt::format("HTTP/1.1 {} {}\r\nDate: {:%a, %d %b %Y %H:%M:%S} GMT\r\nContent-Type: {}\r\n", status,
                  std::string_view(reason.data(), reason.size()), fmt::gmtime(std::time(nullptr)), content_type);
  const auto add = [&](const auto& header) { out += fmt::format("{}: {}\r\n", header.first, header.second); };
  for (const auto& usual : kUsualHeaders) {
    if (std::ranges::none_of(headers, [&](const auto& own) { return own.first == usual.first; })) add(usual);
  }
  std::ranges::for_each(headers, add);
  return out;
}

// The status of what the parser refuses.
int status_of(const boost::system::error_code& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit) return 413;
  return 400;
}

}  // namespace

const std::string* HttpRequest::header(std::string_view name) const {
  const auto found =
      std::find_if(headers.begin(), headers.end(), [&](const auto& entry) { return entry.first == name; });
  return found == headers.end() ? nullptr : &found->second;
}

void SessionShared::post(std::function<void()> task) {
  const std::scoped_lock lock(mutex);
  if (context != nullptr) asio::post(*context, std::move(task));
}

void SessionShared::detach() {
  const std::scoped_lock lock(mutex);
  context = nullptr;
}

Session::Session(std::shared_ptr<SessionShared> shared, asio::io_context& context, std::unique_ptr<ByteStream> stream,
                 std::string peer)
    : shared_(std::move(shared)),
      peer_(std::move(peer)),
      stream_(std::move(stream)),
      read_timer_(context),
      write_timer_(context) {}

void Session::start() {
  set_deadline(*read_timer_, shared_->options.read_timeout);
  stream_->open([self = shared_from_this()](const boost::system::error_code& error) {
    if (self->closed_) return;
    if (error) return self->drop();
    self->expect_request(self->shared_->options.read_timeout);
    self->read();
  });
}

void Session::set_deadline(asio::steady_timer& timer, std::chrono::milliseconds after) {
  timer.expires_after(after);
  timer.async_wait([self = shared_from_this(), &timer](const boost::system::error_code& error) {
    if (error || self->closed_ || timer.expiry() > std::chrono::steady_clock::now()) return;
    self->hang_up();
  });
}

void Session::expect_request(std::chrono::milliseconds most) {
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(static_cast<std::uint32_t>(shared_->options.max_head));
  parser_->body_limit(shared_->options.max_body);
  head_checked_ = false;
  set_deadline(*read_timer_, most);
}

void Session::read() {
  if (reading_ || closed_) return;
  reading_ = true;
  stream_->read_some(asio::buffer(buffer_),
                     [self = shared_from_this()](const boost::system::error_code& error, std::size_t size) {
                       self->reading_ = false;
                       if (self->closed_) return;
                       if (error == asio::error::eof) return self->hang_up();
                       if (error) return self->drop();
                       if (self->lingering_) {  // what is left is of no interest
                         self->set_deadline(*self->read_timer_, kLinger);
                         return self->read();
                       }
                       self->input_.append(self->buffer_.data(), size);
                       if (self->answer_) {
                         self->watch();
                       } else {
                         self->take_input();
                       }
                     });
}

// While an answer is on its way the socket is read for one thing: to learn that the client went.
void Session::watch() {
  if (input_.size() < kMostAhead) read();
}

void Session::take_input() {
  if (!parser_->got_some() && !input_.empty()) set_deadline(*read_timer_, shared_->options.read_timeout);
  while (!input_.empty() && !parser_->is_done()) {
    boost::system::error_code error;
    const std::size_t taken = parser_->put(asio::buffer(input_), error);
    input_.erase(0, taken);
    if (error == http::error::need_more) break;
    if (error) return refuse(status_of(error), error.message());
    if (taken == 0) break;
  }
  if (parser_->is_header_done() && !fail_unless_well_formed()) return;
  if (parser_->is_done()) {
    HttpRequest request = request_of(parser_->get(), peer_);
    request.body = std::move(parser_->get().body());
    return handle_request(std::move(request));
  }
  // What the parser leaves are lines without an end: of the head, which it limits itself, of a chunk or behind the
  // last.
  if (input_.size() > shared_->options.max_head)
    return refuse(431, "a chunk's line, or what follows the last, is too long");
  if (parser_->is_header_done() && !head_checked_ && !check_head()) return;
  read();
}

// Whether the body of the request is wanted; where not, the answer is on its way.
bool Session::check_head() {
  head_checked_ = true;
  HttpRequest request = request_of(parser_->get(), peer_);
  try {
    shared_->check(request);
  } catch (...) {
    request.refusal = std::current_exception();
    handle_request(std::move(request));
    return false;
  }
  const auto& message = parser_->get();  // before HTTP/1.1 nobody knew what to expect
  if (message.version() >= 11 && message.count(http::field::expect) > 0) send("HTTP/1.1 100 Continue\r\n\r\n", false);
  return true;
}

// Refuses what two servers in a row could read differently.
bool Session::fail_unless_well_formed() {
  const auto& message = parser_->get();
  if (message.count(http::field::content_length) + message.count(http::field::transfer_encoding) > 1) {
    refuse(400, "a request has one length: Content-Length or Transfer-Encoding, once");
  } else if (message.count(http::field::transfer_encoding) > 0 &&
             lower(std::string(message[http::field::transfer_encoding])) != "chunked") {
    refuse(501, "Transfer-Encoding: expected chunked alone");
  } else if (message.count(http::field::content_encoding) > 0 &&
             lower(std::string(message[http::field::content_encoding])) != "identity") {
    refuse(415, "Content-Encoding: a body is read as it is");
  } else if (message.version() >= 11 && message.count(http::field::expect) > 0 &&
             lower(std::string(message[http::field::expect])) != "100-continue") {
    refuse(417, "Expect: expected 100-continue, or none");
  } else if (message.count(http::field::host) > 1 ||
             (message.version() >= 11 && message.count(http::field::host) == 0)) {
    refuse(400, "expected one Host header");
  } else if (message.target().empty() || message.target().front() != '/') {
    refuse(400, "the target of a request begins with /");
  } else if (parser_->upgrade()) {
    refuse(400, "no protocol to upgrade to");
  } else {
    return true;
  }
  return false;
}

void Session::handle_request(HttpRequest request) {
  read_timer_->cancel();
  const auto& message = parser_->get();
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  // What follows a head without its body is no request.
  keep_alive_ = message.keep_alive() && !closing_ && !request.refusal;
  ended_ = false;
  began_ = std::chrono::steady_clock::now();
  answer_ = std::make_shared<Answer>();
  shared_->dispatch(std::make_shared<SessionExchange>(std::move(request), shared_, shared_from_this(), answer_));
  watch();
}

void Session::refuse(int status, const std::string& message) {
  answer_ = std::make_shared<Answer>();
  HttpRequest request;
  request.peer = peer_;
  if (parser_) {
    const auto& begun = parser_->get();  // its first line, once that was read
    request.method = std::string(begun.method_string());
    request.path = target_path(std::string_view(begun.target().data(), begun.target().size()));
  }
  const std::string path = request.path;
  answer_->when_over = [tell = shared_->refused, request = std::move(request), message](const HttpOutcome& outcome) {
    tell(request, message, outcome);
  };
  began_ = std::chrono::steady_clock::now();
  read_timer_->cancel();
  keep_alive_ = false;
  head_only_ = false;
  begin_answer(status, "application/json", {}, shared_->error_body(status, path, message));
}

void Session::begin_answer(int status, std::string_view content_type, const HttpHeaders& headers,
                           std::optional<std::string> body) {
  if (closed_) return;
  answer_->outcome.status = status;
  std::string bytes = head(status, content_type, headers);
  if (body) {
    bytes += fmt::format("Content-Length: {}\r\n", body->size());
  } else if (chunked_) {
    bytes += "Transfer-Encoding: chunked\r\n";
  } else {
    keep_alive_ = false;  // its end is the connection's
  }
  bytes += keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  if (body && !head_only_) bytes += *body;
  ended_ = body.has_value();
  send(std::move(bytes), false);
}

void Session::add_piece(std::string piece) {
  if (closed_ || piece.empty() || head_only_) return;
  send(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::move(piece), true);
}

void Session::end_answer() {
  if (closed_) return;
  ended_ = true;
  if (chunked_ && !head_only_) send("0\r\n\r\n", false);
  write_next();
}

void Session::send(std::string bytes, bool piece) {
  out_.emplace_back(std::move(bytes), piece);
  write_next();
}

void Session::write_next() {
  if (writing_ || closed_) return;
  if (out_.empty()) {
    if (answer_ && ended_) answer_sent();
    return;
  }
  writing_ = true;
  set_deadline(*write_timer_, shared_->options.write_timeout);
  const std::string& bytes = out_.front().first;
  stream_->write_some(asio::buffer(bytes.data() + out_offset_, bytes.size() - out_offset_),
                      [self = shared_from_this()](const boost::system::error_code& error, std::size_t size) {
                        self->writing_ = false;
                        if (self->closed_) return;
                        self->write_timer_->cancel();
                        if (error) return self->drop();
                        self->out_offset_ += size;
                        if (self->answer_) self->answer_->outcome.bytes += size;
                        if (self->out_offset_ == self->out_.front().first.size()) {
                          if (self->answer_ && self->out_.front().second) {
                            const std::scoped_lock lock(self->answer_->mutex);
                            self->answer_->unsent -= std::min(self->answer_->unsent, self->out_offset_);
                          }
                          self->out_.pop_front();
                          self->out_offset_ = 0;
                        }
                        self->write_next();
                      });
}

void Session::answer_sent() {
  end(true);
  if (!keep_alive_) return linger();
  expect_request(shared_->options.idle_timeout);
  if (input_.empty()) {
    read();
  } else {
    take_input();
  }
}

// A connection that is closed with bytes unread is reset, and what was sent last is lost: they are read until the
// client is silent, or as long as it might have taken to send a request.
void Session::linger() {
  stream_->finish_writing([self = shared_from_this()] {});
  lingering_ = true;
  set_deadline(*read_timer_, kLinger);
  set_deadline(*write_timer_, closing_ ? kLinger : shared_->options.read_timeout);
  read();
}

// Says that nothing more will come, and ends it: for a client that ended it, or has nothing to say.
void Session::hang_up() {
  if (closed_) return;
  const bool open = parser_.has_value();
  if (open && !writing_ && !lingering_) stream_->finish_writing([self = shared_from_this()] {});
  drop();
}

// The answer ends; whoever waits for its end learns how.
void Session::end(bool complete) {
  const std::shared_ptr<Answer> answer = std::exchange(answer_, nullptr);
  if (!answer) return;
  std::function<void()> gone;
  std::function<void(const HttpOutcome&)> over;
  {
    const std::scoped_lock lock(answer->mutex);
    answer->over = true;
    answer->gone = !complete;
    answer->outcome.complete = complete;
    answer->outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    if (!complete) gone = std::move(answer->when_gone);
    over = std::move(answer->when_over);
    answer->when_gone = nullptr;
    answer->when_over = nullptr;
  }
  if (gone) gone();
  if (over) over(answer->outcome);
}

void Session::close_when_idle() {
  closing_ = true;
  keep_alive_ = false;
  if (lingering_) return set_deadline(*write_timer_, kLinger);
  if (!answer_ && !(parser_ && parser_->got_some())) hang_up();
}

void Session::drop() {
  if (closed_) return;
  closed_ = true;
  stream_->close();
  read_timer_->cancel();
  write_timer_->cancel();
  end(false);
  shared_->closed(*this);
}

void Session::abandon() {
  closed_ = true;
  end(false);
  stream_.reset();
  read_timer_.reset();
  write_timer_.reset();
}

}  // namespace metal_marlin::server
