#include "server/http/byte_stream.h"

namespace metal_marlin::server {
namespace {

class PlainStream : public ByteStream {
 public:
  explicit PlainStream(boost::asio::ip::tcp::socket socket) : socket_(std::move(socket)) {}
  void open(Opened opened) override { opened({}); }
  void read_some(boost::asio::mutable_buffer into, Moved moved) override {
    socket_.async_read_some(into, std::move(moved));
  }
  void write_some(boost::asio::const_buffer from, Moved moved) override {
    socket_.async_write_some(from, std::move(moved));
  }
  void finish_writing(std::function<void()>) override {
    boost::system::error_code ignored;
    socket_.shutdown(socket_.shutdown_send, ignored);
  }
  void close() override {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

 private:
  boost::asio::ip::tcp::socket socket_;
};

}  // namespace

std::unique_ptr<ByteStream> make_plain_stream(boost::asio::ip::tcp::socket socket) {
  return std::make_unique<PlainStream>(std::move(socket));
}

}  // namespace metal_marlin::server
