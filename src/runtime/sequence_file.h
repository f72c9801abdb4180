// What a file of a saved sequence tells of the model that it is of.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_marlin/model.h"
#include "ops/adapter.h"

namespace metal_marlin {

// Metadata of the file. What is in one sequence's pages is of use to another model only where all are equal.
struct ModelIdentity {
  std::vector<std::pair<std::string, std::string>> fields;    // name and value
  std::vector<std::pair<std::string, std::string>> adapters;  // name, and what tells its weights from others
  std::int64_t vocab = 0;
  std::size_t page_bytes = 0;  // of the cache, in all layers
};

// Of an adapter's matrices and their scale.
std::string adapter_identity(const Adapter& adapter);

// The file's bytes as a sequence of this model; `where` names the file in errors. \throws as read_sequence.
SavedSequence parse_sequence(std::span<const std::byte> bytes, const ModelIdentity& model, const std::string& where);

}  // namespace metal_marlin
