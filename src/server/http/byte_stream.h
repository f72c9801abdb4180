// A connection's bytes: a socket's, or those of TLS over one.
#pragma once

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <string>

namespace metal_marlin::server {

class ByteStream {
 public:
  using Opened = std::function<void(const boost::system::error_code&)>;
  using Moved = std::function<void(const boost::system::error_code&, std::size_t)>;

  virtual ~ByteStream() = default;
  virtual void open(Opened opened) = 0;
  virtual void read_some(boost::asio::mutable_buffer into, Moved moved) = 0;
  virtual void write_some(boost::asio::const_buffer from, Moved moved) = 0;
  // Says that no more will be written. `held` is let go of when the stream is not needed for that any more.
  virtual void finish_writing(std::function<void()> held) = 0;
  virtual void close() = 0;
};

std::unique_ptr<ByteStream> make_plain_stream(boost::asio::ip::tcp::socket socket);

// What the TLS connections of a server share.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
  virtual std::unique_ptr<ByteStream> make_stream(boost::asio::ip::tcp::socket socket) = 0;
};
// \throws Error (kInvalidArgument) naming the file, (kUnsupported) in a build without OpenSSL.
std::unique_ptr<TlsContext> make_tls_context(const std::string& certificate, const std::string& key);

}  // namespace metal_marlin::server
