// What every file of the Metal device does with metal-cpp's objects.
#pragma once

#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>
#include <string>

namespace metal_marlin::msl::metal {

// Metal leaves objects to the pool of the thread that calls it, and a thread of ours has none: every
// function that may be a thread's first holds one of these.
inline NS::SharedPtr<NS::AutoreleasePool> scoped_pool() {
  return NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
}

inline NS::String* string_of(const std::string& text) {
  return NS::String::string(text.c_str(), NS::UTF8StringEncoding);
}

inline std::string text_of(const NS::String* text) {
  return text == nullptr ? "" : text->utf8String();
}

inline std::string text_of(const NS::Error* error) {
  return error == nullptr ? "no reason is given" : text_of(error->localizedDescription());
}

inline bool macos_at_least(NS::Integer major) {
  return NS::ProcessInfo::processInfo()->isOperatingSystemAtLeastVersion({major, 0, 0});
}

}  // namespace metal_marlin::msl::metal
