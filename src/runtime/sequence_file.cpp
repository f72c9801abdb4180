#include "runtime/sequence_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <new>

#include "backends/backend.h"
#include "base/memory.h"
#include "base/printable.h"
#include "base/word_hash.h"
#include "io/file_write.h"
#include "io/safetensors.h"
#include "metal_marlin/error.h"
#include "metal_marlin/sequence_file.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
namespace {

constexpr const char* kKind = "metal-marlin sequence";
constexpr const char* kVersion = "1";
constexpr unsigned kOwnerOnly = 0600;  // what people say to a model

using Metadata = std::map<std::string, std::string>;

// Of the metadata, in order of name and without itself, and of the data.
std::string checksum_of(const Metadata& metadata, std::span<const std::byte> tokens, std::span<const std::byte> pages) {
  std::string text;
  for (const auto& [name, value] : metadata) {
    if (name != "checksum") text += fmt::format("{}:{}={}:{}\n", name.size(), name, value.size(), value);
  }
  return fmt::format("{:016x}",
                     hash_of_words(pages, hash_of_words(tokens, hash_of_words(std::as_bytes(std::span(text))))));
}

[[noreturn]] void corrupt(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, fmt::format("{}: {}", where, what));
}

const std::string& field(const Metadata& metadata, const std::string& name, const std::string& where) {
  const auto found = metadata.find(name);
  if (found == metadata.end()) corrupt(where, fmt::format("not the file of a sequence: it has no field {}", name));
  return found->second;
}

const DenseView& tensor(const std::map<std::string, DenseView>& tensors, const std::string& name, DType type,
                        const std::string& where) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) corrupt(where, fmt::format("tensor {} is missing", name));
  if (found->second.dtype != type || found->second.shape.size() != 1) {
    corrupt(where, fmt::format("tensor {}: {} {}, expected a list of {}", name, dtype_name(found->second.dtype),
                               shape_text(found->second.shape), dtype_name(type)));
  }
  return found->second;
}

void require_same_model(const Metadata& metadata, const ModelIdentity& model, const std::string& where) {
  const std::string& kind = field(metadata, "format", where);
  if (kind != kKind) corrupt(where, fmt::format("format {}, expected {}", printable_line(kind), kKind));
  const std::string& version = field(metadata, "version", where);
  if (version != kVersion) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: version {} of a sequence's file, expected {}", where,
                                                     printable_line(version), kVersion));
  }
  for (const auto& [name, expected] : model.fields) {
    const std::string& found = field(metadata, name, where);
    if (found == expected) continue;
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: a sequence of another model: {} is {}, expected {}",
                                                         where, name, printable_line(found), expected));
  }
}

// The name that the file's adapter has in the model.
std::string adapter_of(const Metadata& metadata, const ModelIdentity& model, const std::string& where) {
  const std::string& weights = field(metadata, "adapter_weights", where);
  const std::string& name = field(metadata, "adapter", where);
  if (weights.empty()) return {};
  const auto same = [&](const auto& adapter) { return adapter.second == weights; };
  auto found = std::find(model.adapters.begin(), model.adapters.end(), std::pair(name, weights));
  if (found == model.adapters.end()) found = std::find_if(model.adapters.begin(), model.adapters.end(), same);
  if (found != model.adapters.end()) return found->first;
  std::vector<std::string> loaded;
  for (const auto& [other, identity] : model.adapters) loaded.push_back(fmt::format("{} ({})", other, identity));
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{}: a sequence with the adapter {} ({}), which was not loaded; there is {}", where,
                          printable_line(name), printable_line(weights),
                          loaded.empty() ? "none" : fmt::format("{}", fmt::join(loaded, ", "))));
}

}  // namespace

std::string adapter_identity(const Adapter& adapter) {
  std::uint64_t hash = 0;
  const auto add = [&](const std::string& name, const LowRank& part) {
    const std::string text = fmt::format("{} {} {}", name, part.rank, part.scale);
    for (const auto bytes :
         {std::as_bytes(std::span(text)), std::as_bytes(std::span(part.a)), std::as_bytes(std::span(part.b))})
      hash = hash_of_words(bytes, hash);
  };
  for (const auto& [name, part] : adapter.linears) add(name, part);
  for (const auto& [name, part] : adapter.embeddings) add(name, part);
  return fmt::format("{:016x}", hash);
}

SavedSequence parse_sequence(std::span<const std::byte> bytes, const ModelIdentity& model, const std::string& where) {
  const Metadata metadata = parse_safetensors_metadata(bytes, where);
  require_same_model(metadata, model, where);
  const std::map<std::string, DenseView> tensors = parse_safetensors(bytes, where);
  const DenseView& tokens = tensor(tensors, "tokens", DType::kI32, where);
  const DenseView& pages = tensor(tensors, "pages", DType::kU8, where);
  if (checksum_of(metadata, tokens.bytes, pages.bytes) != field(metadata, "checksum", where))
    corrupt(where, "the checksum is another: the file was changed");
  SavedSequence out;
  out.adapter = adapter_of(metadata, model, where);
  out.length = tokens.shape[0];
  const std::size_t wanted = static_cast<std::size_t>(pages_for(out.length)) * model.page_bytes;
  if (out.length == 0 || pages.bytes.size() != wanted) {
    corrupt(where, fmt::format("{} tokens with {} bytes of pages, expected {}", out.length, pages.bytes.size(),
                               out.length == 0 ? "some" : fmt::format("{}", wanted)));
  }
  try {
    out.tokens.resize(static_cast<std::size_t>(out.length));
    out.bytes = std::make_unique_for_overwrite<std::byte[]>(wanted);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kOutOfMemory, fmt::format("{}: there is no memory for its {}", where, byte_text(wanted)));
  }
  std::memcpy(out.tokens.data(), tokens.bytes.data(), tokens.bytes.size());
  for (const TokenId id : out.tokens) {
    if (id < 0 || id >= model.vocab)
      corrupt(where, fmt::format("token id {} is outside the vocabulary of {}", id, model.vocab));
  }
  std::memcpy(out.bytes.get(), pages.bytes.data(), wanted);
  out.size = wanted;
  return out;
}

void write_sequence(const std::filesystem::path& path, const SavedSequence& saved, const Model& model) {
  if (saved.tokens.empty() || static_cast<std::int64_t>(saved.tokens.size()) != saved.length) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: a sequence of {} tokens of which {} are known, expected all of some: a session with a "
                            "prefix cache knows them",
                            path.string(), saved.length, saved.tokens.size()));
  }
  const ModelIdentity& identity = model.impl_->identity;
  SafetensorsOptions options;
  options.mode = kOwnerOnly;
  options.metadata = {{"format", kKind}, {"version", kVersion}, {"adapter", saved.adapter}, {"adapter_weights", ""}};
  options.metadata.insert(identity.fields.begin(), identity.fields.end());
  if (!saved.adapter.empty())
    options.metadata["adapter_weights"] =
        identity.adapters[static_cast<std::size_t>(model.impl_->adapter(saved.adapter))].second;
  const std::span<const std::byte> tokens = std::as_bytes(std::span(saved.tokens));
  const std::span<const std::byte> pages(saved.bytes.get(), saved.size);
  options.metadata["checksum"] = checksum_of(options.metadata, tokens, pages);
  OutputFile file(path);
  SafetensorsWriter writer(
      file.partial(),
      {{"tokens", DType::kI32, {saved.length}}, {"pages", DType::kU8, {static_cast<std::int64_t>(saved.size)}}},
      options);
  writer.write(tokens);
  writer.write(pages);
  writer.finish();
  file.commit();
}

SavedSequence read_sequence(const std::filesystem::path& path, const Model& model) {
  const MappedFile file(path);
  return parse_sequence(file.bytes(), model.impl_->identity, path.string());
}

}  // namespace metal_marlin
