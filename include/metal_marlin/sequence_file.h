/// \file
/// Sequences in files, to go on with in another session or another run of the program.
#pragma once

#include <filesystem>

#include "metal_marlin/model.h"

namespace metal_marlin {

/// Makes or replaces a safetensors file that only its owner may read: a sequence's tokens and what the cache holds of
/// them, with what tells the model and the adapter from others. It has its name only when it is complete.
/// \param saved by a session with SessionOptions::prefix_cache, which knows the tokens
/// \throws Error (kInvalidArgument) for a sequence without tokens, (kIo) naming the file.
void write_sequence(const std::filesystem::path& path, const SavedSequence& saved, const Model& model);

/// Reads what write_sequence() wrote. SavedSequence::adapter is the name that the same adapter has in this model.
/// \throws Error (kNotFound) when there is no such file, or its header lacks a field, (kInvalidArgument) naming what is
/// another in the model that the file is of, the type of the cache, the layout of its pages or the adapter,
/// (kUnsupported) for another version, (kCorruptFile) for a file that is cut, was changed, or is of something else,
/// (kOutOfMemory).
SavedSequence read_sequence(const std::filesystem::path& path, const Model& model);

}  // namespace metal_marlin
