// What a file is that is not what its name says: an error should tell the cause.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace metal_marlin {

// "a Git LFS pointer, not the file itself (fetch it with git lfs pull)"; empty: nothing that we know.
std::string foreign_kind(std::span<const std::byte> bytes);
// \throws Error (kCorruptFile) naming the file when it is of such a kind or, where no text is expected, a text, empty
// or a safetensors file.
void refuse_foreign(std::span<const std::byte> bytes, const std::string& where, bool text_expected = false);

}  // namespace metal_marlin
