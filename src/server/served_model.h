// A model that answers requests.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "chat_template/reasoning.h"
#include "metal_marlin/chat_template.h"
#include "metal_marlin/embed.h"
#include "metal_marlin/engine.h"
#include "metal_marlin/tokenizer.h"
#include "tool_calls/detect.h"

namespace metal_marlin::server {

struct ServedModel {
  std::string name;
  std::unique_ptr<Engine> engine;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat;  // nullptr: the model has none
  // What learn_template() finds out of it.
  std::optional<ReasoningTags> reasoning;
  std::optional<DetectedTools> tools;         // none: it has no calls that can be told
  std::shared_ptr<const Tokenizer> marked{};  // shows what parts answers; nullptr: the tokenizer does
  std::time_t created = std::time(nullptr);
  EmbeddingConfig embedding{};           // what its files say of vectors
  std::unique_ptr<Embedder> embedder{};  // nullptr: it gives no vectors

  [[nodiscard]] const ModelInfo& info() const { return engine->model().info(); }
  [[nodiscard]] std::int64_t vocabulary() const { return info().vocab; }
};

}  // namespace metal_marlin::server
