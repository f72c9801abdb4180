#include "io/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <string_view>

#include "io/file_write.h"
#include "io/mapped_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kNpyMagic = "\x93NUMPY";

[[noreturn]] void corrupt_array(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, fmt::format("{}: {}", where, what));
}

// The value of 'key' in the header's dictionary, up to `end`.
std::string_view value_of(std::string_view header, std::string_view key, const std::string& where) {
  const std::size_t at = header.find(fmt::format("'{}':", key));
  if (at == std::string_view::npos) corrupt_array(where, fmt::format("the header has no '{}'", key));
  std::string_view rest = header.substr(at + key.size() + 3);
  while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
  return rest;
}

std::size_t element_bytes_of(const std::string& type, const std::string& where) {
  if (type.size() == 3 && (type[0] == '<' || type[0] == '|') && std::strchr("fiub", type[1]) != nullptr &&
      std::strchr("1248", type[2]) != nullptr) {
    return static_cast<std::size_t>(type[2] - '0');
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: element type '{}', expected a little-endian number of 1, 2, 4 or 8 bytes", where, type));
}

Shape shape_of(std::string_view text, const std::string& where) {
  if (text.empty() || text.front() != '(') corrupt_array(where, "the shape is no tuple");
  text.remove_prefix(1);
  const std::size_t end = text.find(')');
  if (end == std::string_view::npos) corrupt_array(where, "the shape never ends");
  Shape shape;
  std::int64_t value = -1;
  for (const char c : text.substr(0, end)) {
    if (c >= '0' && c <= '9') {
      value = (value < 0 ? 0 : value) * 10 + (c - '0');
      if (value > (std::int64_t{1} << 48)) corrupt_array(where, "the shape is too large");
    } else if (c == ',') {
      if (value < 0) corrupt_array(where, "the shape has an empty place");
      shape.push_back(value);
      value = -1;
    } else if (c != ' ') {
      corrupt_array(where, fmt::format("the shape holds '{}'", c));
    }
  }
  if (value >= 0) shape.push_back(value);
  return shape;
}

}  // namespace

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.size() < 12 || !text.starts_with(kNpyMagic))
    corrupt_array(where, "no .npy file: it does not begin with \\x93NUMPY");
  const int version = std::to_integer<int>(bytes[6]);
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  if (version < 1 || version > 3) corrupt_array(where, fmt::format(".npy version {}, expected 1 to 3", version));
  std::size_t length = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) length |= std::to_integer<std::size_t>(bytes[8 + i]) << (8 * i);
  const std::size_t begin = 8 + length_bytes;
  if (length > text.size() - begin) corrupt_array(where, "the header is larger than the file");
  const std::string_view header = text.substr(begin, length);
  NpyArray array;
  const std::string_view type = value_of(header, "descr", where);
  const std::size_t quote = type.find('\'', 1);
  if (type.empty() || type.front() != '\'' || quote == std::string_view::npos)
    corrupt_array(where, "'descr' is no string");
  array.type = std::string(type.substr(1, quote - 1));
  array.element_bytes = element_bytes_of(array.type, where);
  if (value_of(header, "fortran_order", where).starts_with("True"))
    throw Error(ErrorCode::kUnsupported, where + ": the array is in Fortran order, expected C order");
  array.shape = shape_of(value_of(header, "shape", where), where);
  const auto elements = element_count(array.shape);
  const std::size_t data = text.size() - begin - length;
  if (!elements || static_cast<std::size_t>(*elements) > data / array.element_bytes ||
      static_cast<std::size_t>(*elements) * array.element_bytes != data) {
    corrupt_array(where, fmt::format("{} bytes of data do not fit the shape ({})", data, fmt::join(array.shape, ", ")));
  }
  array.bytes.assign(bytes.end() - static_cast<std::ptrdiff_t>(data), bytes.end());
  return array;
}

NpyArray read_npy(const std::filesystem::path& path) {
  return parse_npy(MappedFile(path).bytes(), path.string());
}

void write_npy(const std::filesystem::path& path, const std::string& type, const Shape& shape,
               std::span<const std::byte> bytes) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", type,
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string text(kNpyMagic);
  text += std::string_view("\x01\x00", 2);
  text += static_cast<char>(header.size() & 0xFFU);
  text += static_cast<char>(header.size() >> 8);
  text += header;
  text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  write_file_atomically(path, text);
}

}  // namespace metal_marlin
