// Stands for a header of the macOS SDK: what metal-cpp needs of it to be compiled, not to run.
#pragma once

using CFTypeRef = const void*;
using CFTimeInterval = double;
using CFStringRef = const struct __CFString*;
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
