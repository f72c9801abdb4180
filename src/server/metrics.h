// What /metrics tells, by the names that vLLM gives it, with the prefix metal_marlin: in place of its own.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "metal_marlin/engine.h"

namespace metal_marlin::server {

struct ServedModel;

class Metrics {
 public:
  Metrics();
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // Tokens of one sample came, `seconds` after those before them.
  void tokens(const std::string& model, std::size_t count, double seconds);
  // One sample ended; `reason` as in finish_reason, "abort" or "error". `prompt`: its request's prompt counts here.
  void sample_ended(const std::string& model, const EngineUsage& usage, const char* reason, bool prompt);
  // An answer of the server, by its status; 0: the client went before there was one.
  void answered(int status);
  // The text format of Prometheus.
  std::string text(std::span<const ServedModel> models, std::uint64_t lost_log_lines);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin::server
