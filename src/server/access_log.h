// One line of JSON for each request.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "server/http/http.h"
#include "server/json_text.h"

namespace metal_marlin::server {

// Lines go to a file, or to the standard error. One that cannot be written (a full disk, say) is lost and counted: a
// log must not end the server.
class AccessLog {
 public:
  // \param file empty: the standard error. \throws Error (kIo) when it cannot be opened.
  AccessLog(const std::string& file, bool prompts);
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  void write(const OrderedJson& line);
  [[nodiscard]] bool with_prompts() const { return prompts_; }
  [[nodiscard]] std::uint64_t lost() const { return lost_; }

 private:
  int descriptor_;
  bool prompts_;
  std::mutex mutex_;
  bool cut_ = false;  // the last line was written in part
  std::atomic<std::uint64_t> lost_ = 0;
};

// What a request's line will say. From any thread.
class LogEntry {
 public:
  explicit LogEntry(const HttpRequest& request, const std::string& id);
  void set(const std::string& key, OrderedJson value);
  // The line, once the answer is over.
  [[nodiscard]] OrderedJson line(const HttpOutcome& outcome) const;

 private:
  mutable std::mutex mutex_;
  OrderedJson fields_;
};

}  // namespace metal_marlin::server
