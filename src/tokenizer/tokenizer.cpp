#include "metal_marlin/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/unicode.h"
#include "io/gguf.h"
#include "io/gguf_byte_order.h"
#include "io/gguf_tokenizer.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_folder.h"
#include "metal_marlin/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pipeline.h"

namespace metal_marlin {

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::optional<Bpe> bpe;
  AddedTokenMatcher raw_tokens;         // matched in the text as it is
  AddedTokenMatcher normalized_tokens;  // matched in normalised text
  std::unordered_map<std::string, TokenId> ids;
  std::vector<std::string> spellings;  // by id
  std::vector<bool> special;
  std::vector<bool> added;
  std::vector<TokenId> prefix;  // what the template adds
  std::vector<TokenId> suffix;

  void encode_text(std::string_view text, bool first, bool parse_special, std::vector<TokenId>& out) const {
    const std::string normalized = normalizer.empty() ? std::string() : normalizer.apply(text);
    normalized_tokens.split(
        normalizer.empty() ? text : std::string_view(normalized), first, parse_special,
        [&](std::string_view part, bool part_first) {
          pre_tokenizer.apply(part, part_first, [&](std::string_view piece) { bpe->encode(piece, out); });
        },
        [&](TokenId id) { out.push_back(id); });
  }
};

namespace {

constexpr std::int64_t kMaxId = 1 << 26;

TokenId parse_id(const Json& json, const JsonObject& owner, const char* key) {
  if (!json.is_number_integer() || json.get<std::int64_t>() < 0 || json.get<std::int64_t>() > kMaxId) {
    owner.wrong(key, "token ids from 0 to 2^26");
  }
  return json.get<TokenId>();
}

std::unordered_map<std::string, TokenId> parse_vocab(const JsonObject& model) {
  const JsonObject vocab = model.object("vocab");
  std::unordered_map<std::string, TokenId> ids;
  ids.reserve(vocab.json().size());
  for (const auto& [token, id] : vocab.json().items()) ids.emplace(token, parse_id(id, vocab, token.c_str()));
  return ids;
}

// Merges come as "a b" or ["a", "b"].
std::vector<std::pair<std::string, std::string>> parse_merges(const JsonObject& model) {
  std::vector<std::pair<std::string, std::string>> merges;
  const Json& list = model.at("merges");
  if (!list.is_array()) model.wrong("merges", "an array");
  for (const Json& entry : list) {
    if (entry.is_string()) {
      const auto text = entry.get<std::string>();
      const std::size_t space = text.find(' ');
      if (space != std::string::npos) {
        merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
      continue;
    }
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: merges[{}] is not a pair of tokens", model.where(), merges.size()));
  }
  return merges;
}

// Undoes the byte-level spelling; tokens outside the alphabet stay as they are.
std::string raw_spelling(const std::string& token, bool byte_level) {
  std::string bytes;
  return byte_level && alphabet_to_bytes(token, bytes) ? bytes : token;
}

Bpe parse_bpe(const JsonObject& model, const std::unordered_map<std::string, TokenId>& ids, bool byte_level) {
  const std::string type = model.string_or("type", "BPE");
  if (type != "BPE") {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tokenizer type {}, expected BPE", model.where(), type));
  }
  for (const char* const affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.string_or(affix, "").empty())
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} is not supported", model.where(), affix));
  }
  if (model.number_or("dropout", 0) != 0) {
    throw Error(ErrorCode::kUnsupported, model.where() + ": dropout is not supported");
  }
  BpeOptions options;
  options.byte_level = byte_level;
  options.byte_fallback = model.boolean_or("byte_fallback", false);
  options.ignore_merges = model.boolean_or("ignore_merges", false);
  options.fuse_unknown = model.boolean_or("fuse_unk", false);
  if (model.has("unk_token")) {
    const auto found = ids.find(model.string("unk_token"));
    if (found == ids.end()) model.wrong("unk_token", "a token of the vocabulary");
    options.unknown = found->second;
  }
  std::unordered_map<std::string, TokenId> vocab;
  vocab.reserve(ids.size());
  for (const auto& [token, id] : ids) vocab.emplace(raw_spelling(token, byte_level), id);
  auto merges = parse_merges(model);
  for (auto& [left, right] : merges) {
    left = raw_spelling(left, byte_level);
    right = raw_spelling(right, byte_level);
  }
  return {std::move(vocab), merges, options, model.where()};
}

// Ids that a TemplateProcessing stage puts before and after a single text.
void parse_template(const JsonObject& json, const std::unordered_map<std::string, TokenId>& ids,
                    std::vector<TokenId>& prefix, std::vector<TokenId>& suffix) {
  const std::string type = json.string("type");
  if (type == "Sequence") {
    for (const Json& stage : json.at("processors")) {
      parse_template(JsonObject(stage, json.where() + ": processors"), ids, prefix, suffix);
    }
    return;
  }
  if (type == "ByteLevel") return;
  if (type != "TemplateProcessing") {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: post_processor type {} is not supported", json.where(), type));
  }
  bool before = true;
  for (const Json& entry : json.at("single")) {
    if (entry.is_object() && entry.contains("Sequence")) {
      before = false;
    } else if (entry.is_object() && entry.contains("SpecialToken")) {
      const std::string token = JsonObject(entry, json.where()).object("SpecialToken").string("id");
      const auto found = ids.find(token);
      if (found == ids.end())
        throw Error(ErrorCode::kCorruptFile,
                    fmt::format("{}: special token {} is not in the vocabulary", json.where(), token));
      (before ? prefix : suffix).push_back(found->second);
    }
  }
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view text, const std::string& where) {
  const Json json = parse_json(text, where);
  const JsonObject root(json, where);
  auto impl = std::make_unique<Impl>();
  const Json null;
  const auto field = [&](const char* key) -> const Json& { return root.has(key) ? root.at(key) : null; };
  impl->normalizer = Normalizer::parse(field("normalizer"), where + ": normalizer");
  impl->pre_tokenizer = PreTokenizer::parse(field("pre_tokenizer"), where + ": pre_tokenizer");
  impl->decoder = Decoder::parse(field("decoder"), where + ": decoder");
  const JsonObject model = root.object("model");
  impl->ids = parse_vocab(model);
  impl->bpe.emplace(parse_bpe(model, impl->ids, impl->pre_tokenizer.byte_level()));
  std::vector<AddedToken> added;
  if (root.has("added_tokens")) {
    if (!root.at("added_tokens").is_array()) root.wrong("added_tokens", "an array");
    for (const Json& entry : root.at("added_tokens")) {
      const JsonObject object(entry, where + ": added_tokens");
      AddedToken token{object.string("content"),
                       parse_id(object.at("id"), object, "id"),
                       object.boolean_or("single_word", false),
                       object.boolean_or("lstrip", false),
                       object.boolean_or("rstrip", false),
                       object.boolean_or("special", false)};
      const bool normalized = object.boolean_or("normalized", !token.special);
      if (normalized && !impl->normalizer.empty()) {
        AddedToken folded = token;
        folded.content = impl->normalizer.apply(token.content);
        impl->normalized_tokens.insert(folded);
      } else if (normalized) {
        impl->normalized_tokens.insert(token);
      } else {
        impl->raw_tokens.insert(token);
      }
      impl->ids[token.content] = token.id;
      added.push_back(std::move(token));
    }
  }
  TokenId largest = -1;
  for (const auto& [token, id] : impl->ids) largest = std::max(largest, id);
  // Ids are dense in practice; a file that says otherwise may not make us allocate.
  if (static_cast<std::size_t>(largest) + 1 > 8 * impl->ids.size() + 65536) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: largest token id {} with {} tokens", where, largest, impl->ids.size()));
  }
  const auto size = static_cast<std::size_t>(largest) + 1;
  impl->spellings.resize(size);
  impl->special.resize(size);
  impl->added.resize(size);
  for (const auto& [token, id] : impl->ids) impl->spellings[static_cast<std::size_t>(id)] = token;
  for (const AddedToken& token : added) {
    impl->special[static_cast<std::size_t>(token.id)] = token.special;
    impl->added[static_cast<std::size_t>(token.id)] = true;
    impl->spellings[static_cast<std::size_t>(token.id)] = token.content;
  }
  if (root.has("post_processor")) {
    parse_template(root.object("post_processor"), impl->ids, impl->prefix, impl->suffix);
  }
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) {
    const auto path = model / "tokenizer.json";
    if (!std::filesystem::exists(path)) {
      throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", path.string()));
    }
    const MappedFile file(file_in(model, "tokenizer.json"));
    return from_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string());
  }
  const MappedFile file(first_part(model));
  std::vector<std::byte> turned;
  if (is_big_endian_gguf(file.bytes())) turned = little_endian_gguf(file.bytes(), model.string());
  const Gguf gguf = parse_gguf(turned.empty() ? file.bytes() : turned, model.string());
  return from_json(gguf_tokenizer_json(gguf).dump(), model.string());
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string sanitized;
  if (!is_valid_utf8(text)) {
    sanitized = sanitize_utf8(text);
    text = sanitized;
  }
  std::vector<TokenId> out;
  out.reserve(text.size() / 4 + 8);
  if (options.add_special) out = impl_->prefix;
  impl_->raw_tokens.split(
      text, true, options.parse_special,
      [&](std::string_view part, bool first) { impl_->encode_text(part, first, options.parse_special, out); },
      [&](TokenId id) { out.push_back(id); });
  if (options.add_special) out.insert(out.end(), impl_->suffix.begin(), impl_->suffix.end());
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  // The tokenizer outlives this call, so a non-owning pointer will do.
  Detokenizer detokenizer(std::shared_ptr<const Tokenizer>(std::shared_ptr<const Tokenizer>(), this), skip_special);
  std::string out;
  for (const TokenId id : ids) out += detokenizer.push(id);
  return out + detokenizer.finish();
}

std::optional<TokenId> Tokenizer::find(std::string_view token) const {
  const auto found = impl_->ids.find(std::string(token));
  if (found == impl_->ids.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && id < vocab_size() && impl_->special[static_cast<std::size_t>(id)];
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(impl_->spellings.size());
}

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string Detokenizer::push(TokenId id) {
  const Tokenizer::Impl& impl = *tokenizer_->impl_;
  if (id < 0 || id >= tokenizer_->vocab_size()) return {};
  const auto index = static_cast<std::size_t>(id);
  if (skip_special_ && impl.special[index]) return {};
  // Byte-level decoding leaves added tokens as they are written.
  const bool verbatim = impl.added[index] && impl.decoder.byte_level();
  pending_ += verbatim ? impl.spellings[index] : impl.decoder.apply(impl.spellings[index], first_);
  first_ = false;
  const std::size_t complete = complete_prefix(pending_);
  std::string out = sanitize_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return out;
}

std::string Detokenizer::finish() {
  std::string out = sanitize_utf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace metal_marlin
