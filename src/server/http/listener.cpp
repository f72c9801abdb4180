#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <condition_variable>
#include <thread>
#include <unordered_map>
#include <vector>

#include "metal_marlin/error.h"
#include "server/http/session.h"

namespace metal_marlin::server {
namespace {

using boost::asio::ip::tcp;

// Templates and tokenizers take milliseconds, so that a few threads are enough. What takes longer has turns in one of
// them: bodies from this size on, and what asks for it.
constexpr int kHandlerThreads = 2;
constexpr std::size_t kLargeBody = 64 << 10;
constexpr int kSendBuffer = 256 << 10;

}  // namespace

struct HttpServer::Impl {
  std::shared_ptr<SessionShared> shared = std::make_shared<SessionShared>();
  HttpHandler handler;
  std::unique_ptr<TlsContext> tls;
  using WorkGuard = boost::asio::executor_work_guard<boost::asio::io_context::executor_type>;
  boost::asio::io_context context;
  WorkGuard work{context.get_executor()};
  boost::asio::io_context handlers;  // no asio::thread_pool: one that gets too few threads waits for itself for ever
  WorkGuard handler_work{handlers.get_executor()};
  boost::asio::strand<boost::asio::io_context::executor_type> turns{handlers.get_executor()};
  tcp::acceptor acceptor{context};
  boost::asio::steady_timer pause{context};
  std::unordered_map<Session*, std::shared_ptr<Session>> sessions;  // of the thread of the connections, as what follows
  std::unordered_map<std::string, std::size_t> by_address;
  bool stopping = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t open = 0;
  std::vector<std::thread> threads;

  void refuse(const boost::system::error_code& error) const;
  void bind();
  void listen();
  void accept();
  void begin(tcp::socket socket);
  void forget(Session& session);
};

void HttpServer::Impl::refuse(const boost::system::error_code& error) const {
  if (!error) return;
  const HttpOptions& options = shared->options;
  const bool used = error == boost::asio::error::address_in_use;
  throw Error(ErrorCode::kIo, fmt::format("{}:{}: cannot listen: {}{}", options.host, options.port, error.message(),
                                          used ? "; --port takes another port, 0 one that is free" : ""));
}

void HttpServer::Impl::bind() {
  const HttpOptions& options = shared->options;
  boost::system::error_code error;
  tcp::resolver resolver(context);
  const auto found = resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, error);
  refuse(error);
  const tcp::endpoint endpoint = *found.begin();
  acceptor.open(endpoint.protocol(), error);
  refuse(error);
  acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  refuse(error);
  acceptor.bind(endpoint, error);
  refuse(error);
}

// Where two programs have bound the port, the first that listens has it.
void HttpServer::Impl::listen() {
  boost::system::error_code error;
  acceptor.listen(tcp::acceptor::max_listen_connections, error);
  refuse(error);
}

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](const boost::system::error_code& error, tcp::socket socket) {
    if (stopping || !acceptor.is_open()) return;
    if (error) {  // of descriptors, say: some may be free in a while
      pause.expires_after(std::chrono::milliseconds(100));
      pause.async_wait([this](const boost::system::error_code& ended) {
        if (!ended && !stopping) accept();
      });
      return;
    }
    begin(std::move(socket));
    accept();
  });
}

void HttpServer::Impl::begin(tcp::socket socket) {
  const HttpOptions& options = shared->options;
  boost::system::error_code error;
  const tcp::endpoint remote = socket.remote_endpoint(error);
  if (error) return;  // gone again
  socket.set_option(tcp::no_delay(true), error);
  // What a reader leaves is to wait here, where it is counted, and not in megabytes of the system's.
  socket.set_option(tcp::socket::send_buffer_size(kSendBuffer), error);
  std::string address = remote.address().to_string();
  const std::size_t of_address = by_address[address];
  const bool too_many = options.max_connections_per_address > 0 && of_address >= options.max_connections_per_address;
  if (sessions.size() >= options.max_connections || too_many) {
    if (of_address == 0) by_address.erase(address);
    return;  // closed without a word: what is at its limit spends nothing more
  }
  ++by_address[address];
  auto stream = tls ? tls->make_stream(std::move(socket)) : make_plain_stream(std::move(socket));
  auto session = std::make_shared<Session>(shared, context, std::move(stream), std::move(address));
  sessions.emplace(session.get(), session);
  {
    const std::scoped_lock lock(mutex);
    open = sessions.size();
  }
  session->start();
}

void HttpServer::Impl::forget(Session& session) {
  const auto count = by_address.find(session.peer());
  if (count != by_address.end() && --count->second == 0) by_address.erase(count);
  sessions.erase(&session);
  const std::scoped_lock lock(mutex);
  open = sessions.size();
  changed.notify_all();
}

HttpServer::HttpServer(const HttpOptions& options, HttpHandler handler, HttpCheck check, HttpErrorBody error_body,
                       HttpRefused refused)
    : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.handler = std::move(handler);
  impl.shared->options = options;
  impl.shared->check = std::move(check);
  impl.shared->error_body = std::move(error_body);
  impl.shared->refused = std::move(refused);
  impl.shared->context = &impl.context;
  impl.shared->closed = [&impl](Session& session) { impl.forget(session); };
  impl.shared->dispatch = [this](const std::shared_ptr<Exchange>& exchange) {
    post(exchange->request(), [&impl = *impl_, exchange] { impl.handler(exchange); });
  };
  if (!options.tls_certificate.empty()) impl.tls = make_tls_context(options.tls_certificate, options.tls_key);
  impl.bind();
}

void HttpServer::start() {
  impl_->listen();
  impl_->accept();
  impl_->threads.emplace_back([impl = impl_.get()] { impl->context.run(); });
  for (int i = 0; i < kHandlerThreads; ++i) {
    impl_->threads.emplace_back([impl = impl_.get()] { impl->handlers.run(); });
  }
}

void HttpServer::post(const HttpRequest& request, std::function<void()> task) {
  if (request.body.size() >= kLargeBody) return take_turn(std::move(task));
  boost::asio::post(impl_->handlers, std::move(task));
}

void HttpServer::take_turn(std::function<void()> task) {
  boost::asio::post(impl_->turns, std::move(task));
}

HttpServer::~HttpServer() {
  Impl& impl = *impl_;
  impl.shared->detach();
  impl.context.stop();
  impl.handlers.stop();
  for (std::thread& thread : impl.threads) thread.join();
  for (const auto& [session, owner] : impl.sessions) session->abandon();
  impl.sessions.clear();
}

std::uint16_t HttpServer::port() const {
  return impl_->acceptor.local_endpoint().port();
}

bool HttpServer::on_loopback() const {
  return impl_->acceptor.local_endpoint().address().is_loopback();
}

void HttpServer::stop_accepting() {
  impl_->shared->post([impl = impl_.get()] {
    impl->stopping = true;
    boost::system::error_code ignored;
    impl->acceptor.close(ignored);
    const auto sessions = impl->sessions;
    for (const auto& [session, owner] : sessions) session->close_when_idle();
  });
}

bool HttpServer::wait_until_idle(std::chrono::milliseconds most) {
  std::unique_lock lock(impl_->mutex);
  return impl_->changed.wait_for(lock, most, [&] { return impl_->open == 0; });
}

}  // namespace metal_marlin::server
