#include "io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/overloaded.h"
#include "base/unicode.h"
#include "io/byte_reader.h"
#include "io/file_kind.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<GgufTypeInfo, 21> kTypes{
    {{GgufType::kF32, "F32", 1, 4},        {GgufType::kF16, "F16", 1, 2},
     {GgufType::kQ4_0, "Q4_0", 32, 18},    {GgufType::kQ4_1, "Q4_1", 32, 20},
     {GgufType::kQ5_0, "Q5_0", 32, 22},    {GgufType::kQ5_1, "Q5_1", 32, 24},
     {GgufType::kQ8_0, "Q8_0", 32, 34},    {GgufType::kQ2K, "Q2_K", 256, 84},
     {GgufType::kQ3K, "Q3_K", 256, 110},   {GgufType::kQ4K, "Q4_K", 256, 144},
     {GgufType::kQ5K, "Q5_K", 256, 176},   {GgufType::kQ6K, "Q6_K", 256, 210},
     {GgufType::kIq4Nl, "IQ4_NL", 32, 18}, {GgufType::kIq4Xs, "IQ4_XS", 256, 136},
     {GgufType::kI8, "I8", 1, 1},          {GgufType::kI16, "I16", 1, 2},
     {GgufType::kI32, "I32", 1, 4},        {GgufType::kI64, "I64", 1, 8},
     {GgufType::kF64, "F64", 1, 8},        {GgufType::kBf16, "BF16", 1, 2},
     {GgufType::kMxfp4, "MXFP4", 32, 17}}};

// Types that we do not read, for errors.
struct OtherType {
  std::uint32_t type;
  std::string_view name;
};
constexpr std::array<OtherType, 22> kOtherTypes{
    {{4, "Q4_2"},        {5, "Q4_3"},      {9, "Q8_1"},   {15, "Q8_K"},     {16, "IQ2_XXS"},    {17, "IQ2_XS"},
     {18, "IQ3_XXS"},    {19, "IQ1_S"},    {21, "IQ3_S"}, {22, "IQ2_S"},    {29, "IQ1_M"},      {31, "Q4_0_4_4"},
     {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"}, {34, "TQ1_0"}, {35, "TQ2_0"},    {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"},
     {38, "IQ4_NL_8_8"}, {40, "NVFP4"},    {41, "Q1_0"},  {42, "Q1_0_G128"}}};

// Metadata value types of the specification.
enum ValueType : std::uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
constexpr int kMaxDimensions = 4;
constexpr int kMaxArrayDepth = 4;

class GgufReader : public ByteReader {
 public:
  GgufReader(std::span<const std::byte> bytes, std::string where)
      : ByteReader(bytes, where + ": header"), where_(std::move(where)) {}

  // What of the file is read.
  void set_context(const std::string& context) { ByteReader::set_context(where_ + ": " + context); }

  std::string_view string() {
    const auto size = read<std::uint64_t>();
    return text(size);
  }

  GgufArray array(int depth) {
    if (depth > kMaxArrayDepth) fail("arrays nest too deeply");
    GgufArray array;
    array.type = read<std::uint32_t>();
    array.count = read<std::uint64_t>();
    const std::size_t begin = position();
    const std::size_t size = gguf_value_bytes(array.type);
    if (size > 0) {
      if (array.count > remaining() / size) fail(fmt::format("array of {} elements runs past the end", array.count));
      take(array.count * size);
    } else if (array.type == kString || array.type == kArray) {
      if (array.count > remaining() / 8) fail(fmt::format("array of {} elements runs past the end", array.count));
      for (std::uint64_t i = 0; i < array.count; ++i) {
        if (array.type == kString) {
          string();
        } else {
          this->array(depth + 1);
        }
      }
    } else {
      fail(fmt::format("unknown array element type {}", array.type));
    }
    array.bytes = since(begin);
    return array;
  }

  GgufValue value(std::uint32_t type) {
    switch (type) {
      case kU8: return std::uint64_t{read<std::uint8_t>()};
      case kI8: return std::int64_t{read<std::int8_t>()};
      case kU16: return std::uint64_t{read<std::uint16_t>()};
      case kI16: return std::int64_t{read<std::int16_t>()};
      case kU32: return std::uint64_t{read<std::uint32_t>()};
      case kI32: return std::int64_t{read<std::int32_t>()};
      case kF32: return static_cast<double>(read<float>());
      case kBool: return read<std::uint8_t>() != 0;
      case kString: return string();
      case kArray: return array(0);
      case kU64: return read<std::uint64_t>();
      case kI64: return read<std::int64_t>();
      case kF64: return read<double>();
      default: fail(fmt::format("unknown value type {}", type));
    }
  }

 private:
  std::string where_;
};

struct PendingTensor {
  std::string name;
  GgufTensor tensor;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

PendingTensor read_tensor(GgufReader& reader) {
  PendingTensor pending;
  pending.name = reader.string();
  reader.set_context("tensor " + pending.name);
  const auto dimensions = reader.read<std::uint32_t>();
  if (dimensions > kMaxDimensions) reader.fail(fmt::format("{} dimensions, at most {}", dimensions, kMaxDimensions));
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto dimension = reader.read<std::uint64_t>();
    if (dimension > INT64_MAX) reader.fail("dimension too large");
    pending.tensor.shape.insert(pending.tensor.shape.begin(), static_cast<std::int64_t>(dimension));
  }
  const auto type = reader.read<std::uint32_t>();
  const GgufTypeInfo* const info = find_gguf_type(type);
  if (info == nullptr)
    reader.fail(fmt::format("type {} is not one that we read", gguf_type_name(type)), ErrorCode::kUnsupported);
  pending.tensor.type = info->type;
  pending.offset = reader.read<std::uint64_t>();
  const auto count = element_count(pending.tensor.shape);
  const std::int64_t inner = pending.tensor.shape.empty() ? 1 : pending.tensor.shape.back();
  if (!count || inner % info->block != 0 ||
      __builtin_mul_overflow(static_cast<std::uint64_t>(*count / info->block),
                             static_cast<std::uint64_t>(info->block_bytes), &pending.size)) {
    reader.fail(fmt::format("shape {} does not fit blocks of {}", shape_text(pending.tensor.shape), info->block));
  }
  return pending;
}

void place_tensors(Gguf& gguf, std::vector<PendingTensor>& pending, std::span<const std::byte> data) {
  for (PendingTensor& item : pending) {
    if (item.offset > data.size() || item.size > data.size() - item.offset) {
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: bytes [{}, +{}] lie outside the {} data bytes",
                                                       gguf.where, item.name, item.offset, item.size, data.size()));
    }
    item.tensor.bytes = data.subspan(item.offset, item.size);
  }
  std::sort(pending.begin(), pending.end(),
            [](const PendingTensor& a, const PendingTensor& b) { return a.offset < b.offset; });
  const PendingTensor* last = nullptr;
  for (PendingTensor& item : pending) {
    if (item.size == 0) continue;
    if (last != nullptr && item.offset < last->offset + last->size) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: tensors {} and {} overlap", gguf.where, last->name, item.name));
    }
    last = &item;
  }
  for (const PendingTensor& item : pending) {
    if (!gguf.tensors.emplace(item.name, item.tensor).second) {
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {} appears twice", gguf.where, item.name));
    }
  }
}

[[noreturn]] void wrong_type(const Gguf& gguf, std::string_view key, std::string_view expected) {
  throw Error(ErrorCode::kCorruptFile,
              fmt::format("{}: key {} is {}, expected {}", gguf.where, key, gguf.text_of(key), expected));
}

template <typename T, typename Stored>
void append_as(const GgufArray& array, std::vector<T>& out) {
  for (std::uint64_t i = 0; i < array.count; ++i) {
    Stored value;
    std::memcpy(&value, array.bytes.data() + i * sizeof(Stored), sizeof(Stored));
    out.push_back(static_cast<T>(value));
  }
}

const GgufArray* find_array(const Gguf& gguf, std::string_view key) {
  const auto found = gguf.values.find(key);
  if (found == gguf.values.end()) return nullptr;
  const auto* const array = std::get_if<GgufArray>(&found->second);
  if (array == nullptr) wrong_type(gguf, key, "an array");
  return array;
}

}  // namespace

std::size_t gguf_value_bytes(std::uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool: return 1;
    case kU16:
    case kI16: return 2;
    case kU32:
    case kI32:
    case kF32: return 4;
    case kU64:
    case kI64:
    case kF64: return 8;
    default: return 0;
  }
}

const GgufTypeInfo* find_gguf_type(std::uint32_t type) {
  for (const GgufTypeInfo& info : kTypes) {
    if (static_cast<std::uint32_t>(info.type) == type) return &info;
  }
  return nullptr;
}

const GgufTypeInfo& gguf_type_info(GgufType type) {
  return *find_gguf_type(static_cast<std::uint32_t>(type));
}

std::string gguf_type_name(std::uint32_t type) {
  const auto* const found =
      std::find_if(kOtherTypes.begin(), kOtherTypes.end(), [&](const OtherType& other) { return other.type == type; });
  if (found != kOtherTypes.end()) return fmt::format("{} ({})", found->name, type);
  const GgufTypeInfo* const info = find_gguf_type(type);
  return info == nullptr ? std::to_string(type) : fmt::format("{} ({})", info->name, type);
}

std::optional<DType> gguf_dense_type(GgufType type) {
  switch (type) {
    case GgufType::kF32: return DType::kF32;
    case GgufType::kF16: return DType::kF16;
    case GgufType::kBf16: return DType::kBf16;
    case GgufType::kF64: return DType::kF64;
    case GgufType::kI8: return DType::kI8;
    case GgufType::kI16: return DType::kI16;
    case GgufType::kI32: return DType::kI32;
    case GgufType::kI64: return DType::kI64;
    default: return std::nullopt;
  }
}

Gguf parse_gguf(std::span<const std::byte> bytes, const std::string& where) {
  Gguf gguf;
  gguf.where = where;
  GgufReader reader(bytes, where);
  if (bytes.size() < 4 || std::memcmp(bytes.data(), "GGUF", 4) != 0) {
    refuse_foreign(bytes, where);
    reader.fail("magic is not GGUF");
  }
  reader.take(4);
  const auto version = reader.read<std::uint32_t>();
  if (version != 2 && version != 3) {
    reader.fail(fmt::format("version {}, expected 2 or 3", version), ErrorCode::kUnsupported);
  }
  const auto tensor_count = reader.read<std::uint64_t>();
  const auto value_count = reader.read<std::uint64_t>();
  // The smallest tensor description takes 24 bytes, the smallest value 13.
  if (tensor_count > reader.remaining() / 24) reader.fail(fmt::format("{} tensors do not fit the file", tensor_count));
  if (value_count > reader.remaining() / 13) reader.fail(fmt::format("{} values do not fit the file", value_count));
  for (std::uint64_t i = 0; i < value_count; ++i) {
    reader.set_context(fmt::format("value {}", i));
    const std::string key(reader.string());
    reader.set_context("key " + key);
    GgufValue value = reader.value(reader.read<std::uint32_t>());
    if (!gguf.values.emplace(key, value).second) reader.fail("appears twice");
  }
  std::vector<PendingTensor> pending;
  for (std::uint64_t i = 0; i < tensor_count; ++i) {
    reader.set_context(fmt::format("tensor {}", i));
    pending.push_back(read_tensor(reader));
  }
  const auto alignment = static_cast<std::uint64_t>(gguf.integer("general.alignment").value_or(32));
  reader.set_context("key general.alignment");
  if (alignment == 0 || alignment > (1U << 20) || alignment % 8 != 0)
    reader.fail(fmt::format("{} is not usable", alignment));
  const std::uint64_t data_begin = (reader.position() + alignment - 1) / alignment * alignment;
  place_tensors(gguf, pending, data_begin < bytes.size() ? bytes.subspan(data_begin) : std::span<const std::byte>());
  return gguf;
}

std::string Gguf::text_of(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return "missing";
  const auto name = [](std::uint32_t type) {
    constexpr std::array<std::string_view, 13> kNames{"u8",   "i8",     "u16",    "i16", "u32", "i32", "f32",
                                                      "bool", "string", "arrays", "u64", "i64", "f64"};
    return kNames.at(type);
  };
  constexpr std::size_t kMost = 60;  // of a text
  return std::visit(Overloaded{[&](const GgufArray& array) {
                                 return fmt::format("an array of {} {}", array.count, name(array.type));
                               },
                               [](std::string_view text) {
                                 const std::size_t end = complete_prefix(text.substr(0, kMost));
                                 return fmt::format("\"{}{}\"", text.substr(0, end), end < text.size() ? "..." : "");
                               },
                               [](const auto& number) { return fmt::format("{}", number); }},
                    found->second);
}

std::optional<std::int64_t> Gguf::integer(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::nullopt;
  if (const auto* const value = std::get_if<std::int64_t>(&found->second)) return *value;
  const auto* const value = std::get_if<std::uint64_t>(&found->second);
  if (value == nullptr || *value > INT64_MAX) wrong_type(*this, key, "an integer");
  return static_cast<std::int64_t>(*value);
}

std::optional<double> Gguf::number(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::nullopt;
  if (const auto* const value = std::get_if<double>(&found->second)) return *value;
  if (const auto* const value = std::get_if<std::int64_t>(&found->second)) return static_cast<double>(*value);
  if (const auto* const value = std::get_if<std::uint64_t>(&found->second)) return static_cast<double>(*value);
  wrong_type(*this, key, "a number");
}

std::optional<bool> Gguf::boolean(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::nullopt;
  const auto* const value = std::get_if<bool>(&found->second);
  if (value == nullptr) wrong_type(*this, key, "a boolean");
  return *value;
}

std::optional<std::string_view> Gguf::string(std::string_view key) const {
  const auto found = values.find(key);
  if (found == values.end()) return std::nullopt;
  const auto* const value = std::get_if<std::string_view>(&found->second);
  if (value == nullptr) wrong_type(*this, key, "a string");
  return *value;
}

std::vector<std::string_view> Gguf::strings(std::string_view key) const {
  std::vector<std::string_view> out;
  const GgufArray* const array = find_array(*this, key);
  if (array == nullptr) return out;
  if (array->type != kString) wrong_type(*this, key, "an array of strings");
  out.reserve(array->count);
  const std::byte* at = array->bytes.data();
  for (std::uint64_t i = 0; i < array->count; ++i) {
    std::uint64_t length = 0;
    std::memcpy(&length, at, sizeof(length));
    out.emplace_back(reinterpret_cast<const char*>(at) + sizeof(length), length);
    at += sizeof(length) + length;
  }
  return out;
}

std::vector<std::int64_t> Gguf::integers(std::string_view key) const {
  std::vector<std::int64_t> out;
  const GgufArray* const array = find_array(*this, key);
  if (array == nullptr) return out;
  switch (array->type) {
    case kU8: append_as<std::int64_t, std::uint8_t>(*array, out); break;
    case kI8: append_as<std::int64_t, std::int8_t>(*array, out); break;
    case kU16: append_as<std::int64_t, std::uint16_t>(*array, out); break;
    case kI16: append_as<std::int64_t, std::int16_t>(*array, out); break;
    case kU32: append_as<std::int64_t, std::uint32_t>(*array, out); break;
    case kI32: append_as<std::int64_t, std::int32_t>(*array, out); break;
    case kU64: append_as<std::int64_t, std::uint64_t>(*array, out); break;
    case kI64: append_as<std::int64_t, std::int64_t>(*array, out); break;
    default: wrong_type(*this, key, "an array of integers");
  }
  return out;
}

std::vector<float> Gguf::floats(std::string_view key) const {
  std::vector<float> out;
  const GgufArray* const array = find_array(*this, key);
  if (array == nullptr) return out;
  if (array->type == kF32) {
    append_as<float, float>(*array, out);
  } else if (array->type == kF64) {
    append_as<float, double>(*array, out);
  } else if (array->type == kI32) {
    append_as<float, std::int32_t>(*array, out);
  } else {
    wrong_type(*this, key, "an array of numbers");
  }
  return out;
}

void Gguf::refuse(std::string_view key) const {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: key {} asks for something that is not implemented", where, key));
}

}  // namespace metal_marlin
