// A model that answers requests.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "chat_template/reasoning.h"
#include "metal_marlin/chat_template.h"
#include "metal_marlin/embed.h"
#include "metal_marlin/engine.h"
#include "metal_marlin/tokenizer.h"
#include "tool_calls/detect.h"

namespace metal_marlin::server {

struct ServedModel {
  std::string name;
  std::shared_ptr<Engine> engine;  // an adapter has its model's
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat;  // nullptr: the model has none
  // What learn_template() finds out of it.
  std::optional<ReasoningTags> reasoning;
  std::optional<DetectedTools> tools;         // none: it has no calls that can be told
  std::shared_ptr<const Tokenizer> marked{};  // shows what parts answers; nullptr: the tokenizer does
  std::time_t created = std::time(nullptr);
  EmbeddingConfig embedding{};           // what its files say of vectors
  std::shared_ptr<Embedder> embedder{};  // nullptr: it gives no vectors
  std::string parent{};                  // of an adapter: the model that it is for, by name; empty: a model
  // What requests call by the names of its adapters. Last: they go before what they share.
  std::vector<ServedModel> adapters{};

  [[nodiscard]] bool is_adapter() const { return !parent.empty(); }
  // What a request's engine and embedder call it.
  [[nodiscard]] std::string adapter() const { return is_adapter() ? name : std::string(); }
  [[nodiscard]] const ModelInfo& info() const { return engine->model().info(); }
  [[nodiscard]] std::int64_t vocabulary() const { return info().vocab; }
};

}  // namespace metal_marlin::server
