#include "server/access_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstring>
#include <fstream>

#include "metal_marlin/error.h"

namespace metal_marlin::server {
namespace {

// Whether the last line of a file has no end: a full disk or a kill cut it.
bool last_line_is_cut(const std::string& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  char last = '\n';
  if (in && in.tellg() > 0 && in.seekg(-1, std::ios::end)) in.get(last);
  return last != '\n';
}

// Writes as much as the file takes at once: who reads a pipe slowly, or not at all, loses lines and holds up nobody.
std::size_t write_at_once(int descriptor, std::string_view text) {
  std::size_t done = 0;
  while (done < text.size()) {
    pollfd ready{descriptor, POLLOUT, 0};
    if (poll(&ready, 1, 0) != 1) break;  // a pipe that is ready takes PIPE_BUF bytes without waiting
    const ssize_t size = ::write(descriptor, text.data() + done, std::min<std::size_t>(text.size() - done, PIPE_BUF));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    done += static_cast<std::size_t>(size);
  }
  return done;
}

// What is not known of a request that is none.
OrderedJson or_null(const std::string& text) {
  return text.empty() ? OrderedJson() : OrderedJson(text);
}

}  // namespace

AccessLog::AccessLog(const std::string& file, bool prompts)
    : descriptor_(file.empty() ? STDERR_FILENO : open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)),
      prompts_(prompts) {
  if (descriptor_ < 0) {
    throw Error(ErrorCode::kIo, fmt::format("--log-file {}: cannot open: {}", file, std::strerror(errno)));
  }
  struct stat info {};
  // Pipes and devices have no last line, and reading one may wait for ever.
  if (descriptor_ != STDERR_FILENO && fstat(descriptor_, &info) == 0 && S_ISREG(info.st_mode)) {
    cut_ = last_line_is_cut(file);
  }
}

AccessLog::~AccessLog() {
  if (descriptor_ != STDERR_FILENO) close(descriptor_);
}

void AccessLog::write(const OrderedJson& line) {
  const std::scoped_lock lock(mutex_);
  const std::string text = (cut_ ? "\n" : "") + json_text(line) + "\n";
  const std::size_t done = write_at_once(descriptor_, text);
  if (done > 0) cut_ = done < text.size();
  if (done < text.size()) ++lost_;
}

LogEntry::LogEntry(const HttpRequest& request, const std::string& id)
    : fields_{{"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}Z", fmt::gmtime(std::time(nullptr)))},
              {"id", or_null(id)},
              {"client", request.peer},
              {"method", or_null(request.method)},
              {"path", or_null(request.path)}} {}

void LogEntry::set(const std::string& key, OrderedJson value) {
  const std::scoped_lock lock(mutex_);
  fields_[key] = std::move(value);
}

OrderedJson LogEntry::line(const HttpOutcome& outcome) const {
  const std::scoped_lock lock(mutex_);
  OrderedJson line = fields_;
  line["status"] = outcome.status == 0 ? OrderedJson() : OrderedJson(outcome.status);
  line["bytes"] = outcome.bytes;
  line["seconds"] = std::round(outcome.seconds * 1e6) / 1e6;
  if (!outcome.complete) line["client_gone"] = true;
  return line;
}

}  // namespace metal_marlin::server
