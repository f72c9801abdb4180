/// \file
/// Metal libraries (.metallib): the container in which Apple's tools put compiled shaders, a module of
/// LLVM bitcode for each function. Its layout, as far as it is to be seen in files of macOS 14 and 26;
/// numbers are little-endian, nothing is aligned unless it says so.
///
///     0   "MTLB"
///     4   u16 platform (0x8001: macOS), u16 u16 version of the format (2.7, 2.9)
///     10  u8 kind of library (0: executable), u8 system (0x81: macOS), u16 u16 its version
///     16  u64 size of the file
///     24  u64 u64 offset and size of each of these: functions (the size leaves out their count),
///         public metadata, private metadata, bitcode
///     88  u32 count of functions, then each as u32 size (of all of it) and tags
///         tags of the library, which end where the public metadata begins
///         public metadata, private metadata: for each function u32 size (of all of it) and tags
///         bitcode: a function's module behind LLVM's wrapper (5 u32), with zeros to a multiple of 16 bytes
///         dynamic header: tags (NAME: of the library), if HDYN tells of one
///         reflection: u32 count, then for each function u32 size (of all of it) and tags, if RLST does;
///         the tags' sizes are u32 there
///
/// A tag is 4 letters, u16 size and as many bytes; a list of them ends with the letters ENDT. Of a function:
///
///     NAME  its name and a zero
///     TYPE  u8: 0 vertex, 1 fragment, 2 kernel
///     HASH  SHA-256 of its bitcode, wrapper and zeros included
///     OFFT  u64 offset of its public metadata, private metadata and bitcode in those sections
///     VERS  u16 u16 version of AIR, u16 u16 version of the language
///     MDSZ  u64 bytes of its bitcode
///     RFLT  u64 offset of its reflection in that section
///
/// of public metadata: CNST, u16 count of function constants and of each name, zero, u8 type (as
/// MTLDataType), u16 index, u8 (1 in all files seen); of the library: HDYN and RLST (u64 offset, u64 size)
/// and UUID (16 bytes).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

enum class MetallibFunctionType : std::uint8_t { kVertex = 0, kFragment = 1, kKernel = 2 };

struct MetallibVersion {
  std::uint16_t major = 0;
  std::uint16_t minor = 0;
  bool operator==(const MetallibVersion&) const = default;
};

using Sha256 = std::array<std::byte, 32>;
Sha256 sha256_of(std::span<const std::byte> bytes);

struct MetallibTag {
  std::string_view name;  // 4 letters
  std::span<const std::byte> value;
};

struct MetallibConstant {
  std::string_view name;
  std::uint8_t type = 0;  // MTLDataType
  std::uint16_t index = 0;
  std::uint8_t flag = 1;
};

struct MetallibFunction {
  std::string_view name;
  MetallibFunctionType type = MetallibFunctionType::kKernel;
  MetallibVersion air;
  MetallibVersion language;
  Sha256 hash{};
  std::span<const std::byte> bitcode;  // with wrapper and zeros
  std::vector<MetallibConstant> constants;
  std::vector<MetallibTag> public_tags;  // others than CNST
  std::vector<MetallibTag> private_tags;
  std::optional<std::vector<MetallibTag>> reflection;
};

/// What a library holds, as views into its bytes.
struct Metallib {
  std::uint16_t platform = 0x8001;
  MetallibVersion format{2, 7};
  std::uint8_t kind = 0;
  std::uint8_t system = 0x81;
  MetallibVersion system_version{14, 0};
  std::string_view name;  // empty: it has none
  std::optional<std::array<std::byte, 16>> uuid;
  std::vector<MetallibFunction> functions;
};

/// Tags that it does not know are left out. Every function's hash is checked.
/// \throws Error (kCorruptFile, kUnsupported) naming `where`, function and tag. Allocates no more than a
/// small multiple of the bytes given.
Metallib parse_metallib(std::span<const std::byte> bytes, const std::string& where);

/// The bytes of a library; hashes are those of the bitcode, whatever the functions tell.
/// \throws Error (kInvalidArgument) when a name, a tag or the bitcode cannot be written.
std::vector<std::byte> write_metallib(const Metallib& library);

}  // namespace metal_marlin
