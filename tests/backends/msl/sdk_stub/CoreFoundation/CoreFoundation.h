// Stands for a header of the macOS SDK: what metal-cpp and the Metal device need of it to be compiled.
#pragma once

#include <cstdint>

using CFTypeRef = const void*;
using CFTypeID = unsigned long;
using CFTimeInterval = double;
using CFStringRef = const struct __CFString*;
using CFNumberRef = const struct __CFNumber*;
using CFAllocatorRef = const struct __CFAllocator*;
using CFDictionaryRef = const struct __CFDictionary*;
using CFMutableDictionaryRef = struct __CFDictionary*;
using CFStringEncoding = std::uint32_t;
using CFNumberType = long;
using CFOptionFlags = unsigned long;
using Boolean = unsigned char;
using CGFloat = double;
struct CGSize {
  CGFloat width, height;
};
#define CF_ENUM(type, name) \
  enum name : type name;    \
  enum name : type
#define CF_OPTIONS(type, name) \
  enum name : type;            \
  enum name : type

constexpr CFStringEncoding kCFStringEncodingUTF8 = 0x08000100;
constexpr CFNumberType kCFNumberSInt32Type = 3;
extern "C" {
void CFRelease(CFTypeRef object);
CFTypeID CFGetTypeID(CFTypeRef object);
CFTypeID CFNumberGetTypeID();
Boolean CFNumberGetValue(CFNumberRef number, CFNumberType type, void* value);
CFStringRef CFStringCreateWithCString(CFAllocatorRef allocator, const char* text, CFStringEncoding encoding);
}
