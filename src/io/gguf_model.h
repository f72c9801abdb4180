// A GGUF file's metadata and tensor names as the Hugging Face files give them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/gguf.h"
#include "io/gguf_architectures.h"
#include "io/gguf_blocks.h"
#include "io/json.h"

namespace metal_marlin {

// config.json of the model. \throws Error naming the key that is missing or the
// architecture that we do not know. notice: as gguf_special_tokens has it.
Json gguf_config_json(const Gguf& gguf, const std::function<void(const std::string&)>& notice = {});

// Whether a tensor tells of rotations, which the config holds already.
bool is_gguf_side_tensor(const std::string& name);
// The Hugging Face name of a tensor, with '*' for the experts that it holds; nothing for tensors without one.
std::optional<std::string> gguf_tensor_name(const GgufArchitecture& kind, const std::string& name);
// The tensor that such a weight is, or is a part of, where a file has it.
std::string gguf_name_of(const GgufArchitecture& kind, const std::string& hf_name);
// The weights that a tensor is, by its Hugging Face name: itself, or one an expert. \throws Error naming the tensor.
std::vector<std::pair<std::string, GgufTensor>> gguf_weights(const Gguf& gguf, const std::string& name,
                                                             const std::string& hf_name, const GgufTensor& tensor);

// Some architectures' queries and keys lie with the two halves of each head interleaved. The row of the file that holds
// row `row` of the original.
std::int64_t gguf_rope_row(std::int64_t row, std::int64_t head_dim);
// The same of a weight; nothing where rows lie as they do in the original.
RowMap gguf_row_map(const GgufArchitecture& kind, const Json& config, const std::string& hf_name);
// Whether a weight makes keys and values of a layer that reads another's.
bool gguf_is_unread(const Json& config, const std::string& hf_name);
// Whether a weight lies with one added to it.
bool gguf_is_one_more(const GgufArchitecture& kind, const std::string& hf_name);

}  // namespace metal_marlin
