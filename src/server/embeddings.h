// What routes about vectors have in common.
#pragma once

#include "server/fields.h"
#include "server/service.h"

namespace metal_marlin::server {

// Inputs of one request, and documents.
constexpr std::size_t kMostInputs = 2048;

// Its maker of vectors. \throws ApiError (400) where it gives none.
Embedder& embedder_of(const ServedModel& model);

// A text's tokens. \param name what errors call it. \throws ApiError (400) where there are none, or more than fit.
std::vector<TokenId> text_input(const std::string& text, const ServedModel& model, const std::string& name);
// \throws as text_input().
void check_input(const std::vector<TokenId>& input, const ServedModel& model, const std::string& name);

// Computes vectors, and gives them to `answer` in the embedder's thread; what goes wrong is answered here. They are
// cancelled when the client goes. \throws ApiError.
void start_embedding(Service& service, const Call& call, const ServedModel& model, EmbeddingRequest request,
                     std::function<void(std::vector<std::vector<float>> vectors)> answer);

}  // namespace metal_marlin::server
