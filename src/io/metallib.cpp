#include "io/metallib.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "io/byte_reader.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kMetallibMagic = "MTLB";
constexpr std::string_view kEnd = "ENDT";
constexpr std::size_t kHeaderBytes = 88;
constexpr std::size_t kBitcodeAlignment = 16;

struct Range {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

class MetallibReader : public ByteReader {
 public:
  using ByteReader::ByteReader;

  MetallibVersion version() {
    const auto major = read<std::uint16_t>();
    return {major, read<std::uint16_t>()};
  }
  Range range() {
    const auto offset = read<std::uint64_t>();
    return {offset, read<std::uint64_t>()};
  }
};

std::span<const std::byte> part_of(std::span<const std::byte> bytes, Range range, const std::string& what) {
  if (range.offset > bytes.size() || range.size > bytes.size() - range.offset) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: {} bytes at offset {}, there are {}", what, range.size, range.offset, bytes.size()));
  }
  return bytes.subspan(range.offset, range.size);
}

// Tags up to ENDT; those of reflection have sizes of 4 bytes.
template <typename Size = std::uint16_t>
std::vector<MetallibTag> read_tags(MetallibReader& in) {
  std::vector<MetallibTag> tags;
  for (;;) {
    const std::string_view name = in.text(4);
    if (name == kEnd) return tags;
    const auto size = in.read<Size>();
    if (size > in.remaining()) in.fail(fmt::format("tag {}: {} bytes, there are {} left", name, size, in.remaining()));
    tags.push_back({name, in.take(size)});
  }
}

// A part of the file that holds something of each function.
class Section {
 public:
  Section() = default;
  explicit Section(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::span<const std::byte> take(Range range, const std::string& what) {
    const auto part = part_of(bytes_, range, what);
    used_ += range.size;
    if (used_ > bytes_.size())  // which bounds the reader's work
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: it is part of another function too", what));
    return part;
  }
  [[nodiscard]] std::uint32_t size_at(std::uint64_t offset, const std::string& what) const {
    std::uint32_t size = 0;
    std::memcpy(&size, part_of(bytes_, {offset, sizeof(size)}, what).data(), sizeof(size));
    if (size < sizeof(size)) throw Error(ErrorCode::kCorruptFile, fmt::format("{}: a size of {} bytes", what, size));
    return size;
  }

 private:
  std::span<const std::byte> bytes_;
  std::uint64_t used_ = 0;
};

// u32 size of all of it, then tags: at `offset` of a section.
template <typename Size = std::uint16_t>
std::vector<MetallibTag> tags_at(Section& section, std::uint64_t offset, const std::string& what) {
  MetallibReader in(section.take({offset, section.size_at(offset, what)}, what).subspan(sizeof(std::uint32_t)), what);
  std::vector<MetallibTag> tags = read_tags<Size>(in);
  in.at_end();
  return tags;
}

std::vector<MetallibConstant> read_constants(MetallibReader in) {
  std::vector<MetallibConstant> constants;
  for (auto count = in.read<std::uint16_t>(); count > 0; --count) {
    MetallibConstant& constant = constants.emplace_back();
    constant.name = in.zero_terminated();
    constant.type = in.read<std::uint8_t>();
    constant.index = in.read<std::uint16_t>();
    constant.flag = in.read<std::uint8_t>();
  }
  in.at_end();
  return constants;
}

struct Sections {
  Section public_metadata, private_metadata, bitcode;
  std::optional<Section> reflection;
};

// What a function's entry tells of where its parts are.
struct Places {
  std::optional<std::uint64_t> bitcode_bytes, reflection;
  std::optional<std::array<std::uint64_t, 3>> offsets;
  bool name = false, type = false, hash = false, versions = false;
};

void read_function_tag(const MetallibTag& tag, const std::string& context, MetallibFunction& function, Places& places) {
  MetallibReader in(tag.value, fmt::format("{}: tag {}", context, tag.name));
  if (tag.name == "NAME") {
    function.name = in.zero_terminated();
    places.name = true;
  } else if (tag.name == "TYPE") {
    function.type = static_cast<MetallibFunctionType>(in.read<std::uint8_t>());
    places.type = true;
  } else if (tag.name == "HASH") {
    std::memcpy(function.hash.data(), in.take(function.hash.size()).data(), function.hash.size());
    places.hash = true;
  } else if (tag.name == "OFFT") {
    places.offsets = {in.read<std::uint64_t>(), in.read<std::uint64_t>(), in.read<std::uint64_t>()};
  } else if (tag.name == "VERS") {
    function.air = in.version();
    function.language = in.version();
    places.versions = true;
  } else if (tag.name == "MDSZ") {
    places.bitcode_bytes = in.read<std::uint64_t>();
  } else if (tag.name == "RFLT") {
    places.reflection = in.read<std::uint64_t>();
  } else {
    return;
  }
  in.at_end();
}

void require_tags(const Places& places, const std::string& context) {
  const std::pair<bool, const char*> all[] = {{places.name, "NAME"},     {places.type, "TYPE"},
                                              {places.hash, "HASH"},     {places.offsets.has_value(), "OFFT"},
                                              {places.versions, "VERS"}, {places.bitcode_bytes.has_value(), "MDSZ"}};
  for (const auto& [there, name] : all) {
    if (!there) throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tag {} is missing", context, name));
  }
}

MetallibFunction read_function(MetallibReader& list, Sections& sections, const std::string& where, std::size_t number) {
  std::string context = fmt::format("{}: function {}", where, number);
  const auto size = list.read<std::uint32_t>();
  if (size < sizeof(size)) list.fail(fmt::format("function {} has a size of {} bytes", number, size));
  MetallibReader in(list.take(size - sizeof(size)), context);
  MetallibFunction function;
  Places places;
  for (const MetallibTag& tag : read_tags(in)) {
    read_function_tag(tag, context, function, places);
    if (tag.name == "NAME") context = fmt::format("{}: function {} ({})", where, number, function.name);
  }
  in.at_end();
  require_tags(places, context);
  function.bitcode = sections.bitcode.take({(*places.offsets)[2], *places.bitcode_bytes}, context + ": bitcode");
  if (sha256_of(function.bitcode) != function.hash)
    throw Error(ErrorCode::kCorruptFile, context + ": tag HASH is not the SHA-256 of the bitcode");
  for (const MetallibTag& tag :
       tags_at(sections.public_metadata, (*places.offsets)[0], context + ": public metadata")) {
    if (tag.name == "CNST")
      function.constants = read_constants(MetallibReader(tag.value, context + ": tag CNST"));
    else
      function.public_tags.push_back(tag);
  }
  function.private_tags = tags_at(sections.private_metadata, (*places.offsets)[1], context + ": private metadata");
  if (places.reflection && sections.reflection)
    function.reflection = tags_at<std::uint32_t>(*sections.reflection, *places.reflection, context + ": reflection");
  return function;
}

// The tags of the library, between the functions and the public metadata.
void read_library_tags(std::span<const std::byte> bytes, std::span<const std::byte> file, const std::string& where,
                       Metallib& library, Sections& sections) {
  MetallibReader in(bytes, where + ": tags of the library");
  for (const MetallibTag& tag : read_tags(in)) {
    const std::string context = fmt::format("{}: tag {}", where, tag.name);
    MetallibReader value(tag.value, context);
    if (tag.name == "UUID") {
      std::memcpy(library.uuid.emplace().data(), value.take(16).data(), 16);
    } else if (tag.name == "RLST") {
      sections.reflection = Section(part_of(file, value.range(), context));
    } else if (tag.name == "HDYN") {
      MetallibReader header(part_of(file, value.range(), context), context);
      for (const MetallibTag& named : read_tags(header)) {
        if (named.name == "NAME") library.name = MetallibReader(named.value, context + ": NAME").zero_terminated();
      }
    }
  }
  in.at_end();
}

}  // namespace

Sha256 sha256_of(std::span<const std::byte> bytes) {
  Sha256 hash{};
  if (EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(hash.data()), nullptr, EVP_sha256(),
                 nullptr) != 1)
    throw Error(ErrorCode::kInternal, "libcrypto cannot make a SHA-256");
  return hash;
}

Metallib parse_metallib(std::span<const std::byte> bytes, const std::string& where) {
  MetallibReader header(bytes.first(std::min(bytes.size(), kHeaderBytes)), where);
  if (header.remaining() < kHeaderBytes || header.text(4) != kMetallibMagic)
    header.fail("no Metal library: it does not begin with MTLB and a header of 88 bytes");
  Metallib library;
  library.platform = header.read<std::uint16_t>();
  library.format = header.version();
  library.kind = header.read<std::uint8_t>();
  library.system = header.read<std::uint8_t>();
  library.system_version = header.version();
  const auto size = header.read<std::uint64_t>();
  if (size != bytes.size()) header.fail(fmt::format("{} bytes by its header, found {}", size, bytes.size()));
  Range functions = header.range();
  const Range public_metadata = header.range();
  if (functions.size > bytes.size()) header.fail(fmt::format("the functions take {} bytes", functions.size));
  functions.size += sizeof(std::uint32_t);  // their count
  Sections sections;
  MetallibReader list(part_of(bytes, functions, where + ": functions"), where + ": functions");
  sections.public_metadata = Section(part_of(bytes, public_metadata, where + ": public metadata"));
  sections.private_metadata = Section(part_of(bytes, header.range(), where + ": private metadata"));
  sections.bitcode = Section(part_of(bytes, header.range(), where + ": bitcode"));
  const std::uint64_t tags = functions.offset + functions.size;
  if (public_metadata.offset < tags) header.fail("the public metadata begins within the functions");
  if (public_metadata.offset > tags) {
    read_library_tags(part_of(bytes, {tags, public_metadata.offset - tags}, where + ": tags of the library"), bytes,
                      where, library, sections);
  }
  const auto count = list.read<std::uint32_t>();
  for (std::uint32_t i = 0; i < count; ++i) library.functions.push_back(read_function(list, sections, where, i));
  list.at_end();
  return library;
}

namespace {

class Writer {
 public:
  template <typename T>
  void write(T value) {
    bytes_.resize(bytes_.size() + sizeof(T));
    std::memcpy(bytes_.data() + bytes_.size() - sizeof(T), &value, sizeof(T));
  }
  void bytes(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void text(std::string_view text) { bytes(std::as_bytes(std::span(text))); }
  void version(MetallibVersion version) {
    write(version.major);
    write(version.minor);
  }
  void name(std::string_view name) {
    if (name.find('\0') != std::string_view::npos)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("a name of a Metal library holds a zero: {}", name.data()));
    text(name);
    write(std::uint8_t{0});
  }
  template <typename Size = std::uint16_t>
  void tag(std::string_view name, std::span<const std::byte> value) {
    if (name.size() != 4 || value.size() > std::numeric_limits<Size>::max())
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("tag {} of {} bytes, expected 4 letters and at most {} bytes", name, value.size(),
                              std::numeric_limits<Size>::max()));
    text(name);
    write(static_cast<Size>(value.size()));
    bytes(value);
  }
  // u32 size of all of it, and tags.
  void sized(const Writer& tags) {
    write(static_cast<std::uint32_t>(sizeof(std::uint32_t) + tags.size() + kEnd.size()));
    bytes(tags.written());
    text(kEnd);
  }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }
  [[nodiscard]] const std::vector<std::byte>& written() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

template <typename... T>
Writer values(T... value) {
  Writer out;
  (out.write(value), ...);
  return out;
}

template <typename Size = std::uint16_t>
Writer tags_of(const std::vector<MetallibTag>& tags) {
  Writer out;
  for (const MetallibTag& tag : tags) out.tag<Size>(tag.name, tag.value);
  return out;
}

Writer public_tags_of(const MetallibFunction& function) {
  Writer out;
  if (!function.constants.empty()) {
    Writer list = values(static_cast<std::uint16_t>(function.constants.size()));
    for (const MetallibConstant& constant : function.constants) {
      list.name(constant.name);
      list.write(constant.type);
      list.write(constant.index);
      list.write(constant.flag);
    }
    out.tag("CNST", list.written());
  }
  out.bytes(tags_of(function.public_tags).written());
  return out;
}

void check_bitcode(const MetallibFunction& function) {
  if (function.bitcode.empty() || function.bitcode.size() % kBitcodeAlignment != 0) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("function {}: {} bytes of bitcode, expected a multiple of {}",
                                                         function.name, function.bitcode.size(), kBitcodeAlignment));
  }
}

struct Body {
  Writer functions, public_metadata, private_metadata, bitcode, reflection;
};

void add_function(Body& body, const MetallibFunction& function) {
  check_bitcode(function);
  Writer name, versions, tags;
  name.name(function.name);
  versions.version(function.air);
  versions.version(function.language);
  tags.tag("NAME", name.written());
  tags.tag("TYPE", values(static_cast<std::uint8_t>(function.type)).written());
  tags.tag("HASH", sha256_of(function.bitcode));
  tags.tag("OFFT", values(std::uint64_t{body.public_metadata.size()}, std::uint64_t{body.private_metadata.size()},
                          std::uint64_t{body.bitcode.size()})
                       .written());
  tags.tag("VERS", versions.written());
  tags.tag("MDSZ", values(std::uint64_t{function.bitcode.size()}).written());
  if (function.reflection) {
    tags.tag("RFLT", values(std::uint64_t{sizeof(std::uint32_t) + body.reflection.size()}).written());
    body.reflection.sized(tags_of<std::uint32_t>(*function.reflection));
  }
  body.functions.sized(tags);
  body.public_metadata.sized(public_tags_of(function));
  body.private_metadata.sized(tags_of(function.private_tags));
  body.bitcode.bytes(function.bitcode);
}

}  // namespace

std::vector<std::byte> write_metallib(const Metallib& library) {
  Body body;
  for (const MetallibFunction& function : library.functions) add_function(body, function);
  Writer dynamic;
  if (!library.name.empty()) {
    Writer name;
    name.name(library.name);
    dynamic.tag("NAME", name.written());
    dynamic.text(kEnd);
  }
  const bool reflection = body.reflection.size() > 0;
  constexpr std::size_t kRangeTag = 4 + 2 + 16;  // HDYN, RLST, UUID
  const std::size_t tags = kHeaderBytes + sizeof(std::uint32_t) + body.functions.size();
  const std::size_t tag_count = (dynamic.size() > 0 ? 1 : 0) + (reflection ? 1 : 0) + (library.uuid ? 1 : 0);
  const std::size_t public_at = tags + tag_count * kRangeTag + kEnd.size();
  const std::size_t private_at = public_at + body.public_metadata.size();
  const std::size_t bitcode_at = private_at + body.private_metadata.size();
  const std::size_t dynamic_at = bitcode_at + body.bitcode.size();
  const std::size_t reflection_at = dynamic_at + dynamic.size();
  const std::size_t reflection_size = reflection ? sizeof(std::uint32_t) + body.reflection.size() : 0;
  Writer out;
  out.text(kMetallibMagic);
  out.write(library.platform);
  out.version(library.format);
  out.write(library.kind);
  out.write(library.system);
  out.version(library.system_version);
  for (const std::size_t value :
       {reflection_at + reflection_size, kHeaderBytes, body.functions.size(), public_at, body.public_metadata.size(),
        private_at, body.private_metadata.size(), bitcode_at, body.bitcode.size()})
    out.write(std::uint64_t{value});
  const auto count = static_cast<std::uint32_t>(library.functions.size());
  out.write(count);
  out.bytes(body.functions.written());
  if (dynamic.size() > 0) out.tag("HDYN", values(std::uint64_t{dynamic_at}, std::uint64_t{dynamic.size()}).written());
  if (reflection) out.tag("RLST", values(std::uint64_t{reflection_at}, std::uint64_t{reflection_size}).written());
  if (library.uuid) out.tag("UUID", *library.uuid);
  out.text(kEnd);
  out.bytes(body.public_metadata.written());
  out.bytes(body.private_metadata.written());
  out.bytes(body.bitcode.written());
  out.bytes(dynamic.written());
  if (reflection) {
    out.write(count);
    out.bytes(body.reflection.written());
  }
  return out.written();
}

}  // namespace metal_marlin
