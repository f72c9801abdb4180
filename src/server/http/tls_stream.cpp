#include <fmt/format.h>

#include "metal_marlin/error.h"
#include "server/http/byte_stream.h"
#if METAL_MARLIN_TLS
#include <boost/asio/ssl.hpp>
#endif

namespace metal_marlin::server {

#if METAL_MARLIN_TLS
namespace {

namespace ssl = boost::asio::ssl;

class TlsStream : public ByteStream {
 public:
  TlsStream(boost::asio::ip::tcp::socket socket, ssl::context& context) : stream_(std::move(socket), context) {}
  void open(Opened opened) override { stream_.async_handshake(ssl::stream_base::server, std::move(opened)); }
  // What comes after this side's last word is counted, not read: to OpenSSL it is an error.
  void read_some(boost::asio::mutable_buffer into, Moved moved) override {
    if (finished_) return stream_.next_layer().async_read_some(into, std::move(moved));
    stream_.async_read_some(into,
                            [this, moved = std::move(moved)](const boost::system::error_code& error, std::size_t size) {
                              const bool late = finished_ && error.category() == boost::asio::error::get_ssl_category();
                              moved(late ? boost::system::error_code() : error, size);
                            });
  }
  void write_some(boost::asio::const_buffer from, Moved moved) override {
    stream_.async_write_some(from, std::move(moved));
  }
  // TLS has a last word of its own, without which a client cannot tell an end from a cut.
  void finish_writing(std::function<void()> held) override {
    finished_ = true;
    stream_.async_shutdown([held = std::move(held)](const boost::system::error_code&) {});
  }
  void close() override {
    boost::system::error_code ignored;
    stream_.next_layer().close(ignored);
  }

 private:
  ssl::stream<boost::asio::ip::tcp::socket> stream_;
  bool finished_ = false;
};

class OpensslContext : public TlsContext {
 public:
  OpensslContext(const std::string& certificate, const std::string& key) : context_(ssl::context::tls_server) {
    context_.set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 | ssl::context::no_sslv3 |
                         ssl::context::no_tlsv1 | ssl::context::no_tlsv1_1);
    boost::system::error_code error;
    context_.use_certificate_chain_file(certificate, error);
    refuse("--tls-certificate", certificate, error);
    context_.use_private_key_file(key, ssl::context::pem, error);
    refuse("--tls-key", key, error);
  }
  std::unique_ptr<ByteStream> make_stream(boost::asio::ip::tcp::socket socket) override {
    return std::make_unique<TlsStream>(std::move(socket), context_);
  }

 private:
  static void refuse(const char* flag, const std::string& file, const boost::system::error_code& error) {
    if (!error) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} {}: {}, expected PEM, the key of the certificate", flag, file, error.message()));
  }

  ssl::context context_;
};

}  // namespace

std::unique_ptr<TlsContext> make_tls_context(const std::string& certificate, const std::string& key) {
  return std::make_unique<OpensslContext>(certificate, key);
}

#else

std::unique_ptr<TlsContext> make_tls_context(const std::string&, const std::string&) {
  throw Error(ErrorCode::kUnsupported, "--tls-certificate: this program is built without OpenSSL");
}

#endif

}  // namespace metal_marlin::server
