// What /metrics tells, by the names that vLLM gives it, with the prefix metal_marlin: in place of its own.
#pragma once

#include <memory>
#include <string>

#include "metal_marlin/engine.h"

namespace metal_marlin::server {

class Models;

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
  // A request for vectors ended.
  void embedded(const std::string& model, std::size_t tokens, const char* reason);
  // An answer of the server, by its status; 0: the client went before there was one.
  void answered(int status);
  // A model goes whose engine counted so much; the next one that is loaded in its place counts from 0.
  void unloaded(const std::string& model, const EngineStats& stats);
  // The text format of Prometheus.
  std::string text(const Models& models, std::uint64_t lost_log_lines);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin::server
