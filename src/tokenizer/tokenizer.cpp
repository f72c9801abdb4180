#include "metal_marlin/tokenizer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "base/printable.h"
#include "base/unicode.h"
#include "io/gguf.h"
#include "io/gguf_byte_order.h"
#include "io/gguf_tokenizer.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_bounds.h"
#include "io/model_folder.h"
#include "metal_marlin/error.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/stages.h"
#include "tokenizer/token_model.h"
#include "tokenizer/tokenizer_config.h"

namespace metal_marlin {

struct Tokenizer::Impl {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  Decoder decoder;
  std::unique_ptr<const TokenModel> model;
  std::map<TokenId, AddedToken> added;
  std::map<std::string, TokenId> added_ids;
  std::set<std::string> specials;       // contents
  std::set<TokenId> normalized_ids;     // of tokens that were added as normalized once, which decoding shows so
  AddedTokenMatcher raw_tokens;         // matched in the text as it is
  AddedTokenMatcher normalized_tokens;  // matched in normalized text
  Spellings spellings;                  // as the decoder sees them
  std::int64_t size = 0;                // one more than the largest id
  bool split_specials = false;          // special tokens in a text are text

  [[nodiscard]] std::optional<TokenId> find(const std::string& token) const {
    const auto found = added_ids.find(token);
    return found != added_ids.end() ? std::optional(found->second) : model->find(token);
  }
  // Tokens of one list take the ids behind all that there are before it.
  void add(const std::vector<AddedToken>& list, const std::string& where);
  void configure(std::string_view config, const std::string& where, const Notice& notice);
  void index(const std::string& where);
  void encode_text(std::string_view text, std::size_t head, bool parse_special, std::vector<TokenId>& out) const;
};

// Tokens get the id that the model has for them, or the next one; what the file says of ids does not count.
void Tokenizer::Impl::add(const std::vector<AddedToken>& list, const std::string& where) {
  auto next = static_cast<std::int64_t>(model->size());
  if (!added.empty()) next = std::max(next, std::int64_t{added.rbegin()->first} + 1);
  for (AddedToken token : list) {
    if (token.content.empty()) continue;
    const std::optional<TokenId> known = find(token.content);
    if (!known && next > std::numeric_limits<TokenId>::max())
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: no id is left for token {} behind the largest, {}", where,
                                                       printable(token.content), next - 1));
    token.id = known ? *known : static_cast<TokenId>(next++);
    if (token.special) specials.insert(token.content);
    if (token.normalized) normalized_ids.insert(token.id);
    added_ids[token.content] = token.id;
    added[token.id] = std::move(token);
  }
}

// What encoding and decoding look up, once all tokens are known.
void Tokenizer::Impl::index(const std::string& where) {
  spellings.reserve(model->size() + added.size());
  model->spell(spellings);
  for (auto& [id, token] : added) {
    token.special = specials.contains(token.content);
    std::string spelling = normalized_ids.contains(id) ? normalizer.apply(token.content) : token.content;
    // The library finds nothing everywhere.
    if (token.normalized && spelling.empty())
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: of the added token '{}' nothing is left when it is "
                                                       "normalized",
                                                       where, printable_line(token.content)));
    (token.normalized ? normalized_tokens : raw_tokens).insert(token.normalized ? spelling : token.content, token);
    spellings[id] = std::move(spelling);
  }
  for (const auto& [id, spelling] : spellings) size = std::max(size, std::int64_t{id} + 1);
}

void Tokenizer::Impl::encode_text(std::string_view text, std::size_t head, bool parse_special,
                                  std::vector<TokenId>& out) const {
  NormalizedText normalized;
  if (!normalizer.empty()) {
    normalized = {std::string(text), head};
    normalizer.apply(normalized);
    text = normalized.bytes;
    head = normalized.head;
  }
  normalized_tokens.split(
      text, head, parse_special,
      [&](std::string_view part, std::size_t part_head) {
        pre_tokenizer.apply(part, part_head, [&](std::string_view piece) { model->encode(piece, out); });
      },
      [&](TokenId id) { out.push_back(id); });
}

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl, std::set<std::string, std::less<>> shown)
    : impl_(std::move(impl)), shown_(std::move(shown)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::showing(std::span<const std::string> special) const {
  std::set<std::string, std::less<>> shown = shown_;
  shown.insert(special.begin(), special.end());
  return std::shared_ptr<const Tokenizer>(new Tokenizer(impl_, std::move(shown)));
}

bool Tokenizer::is_hidden(const std::string& spelling) const {
  return impl_->specials.contains(spelling) && !shown_.contains(spelling);
}

namespace {

constexpr std::array<std::string_view, 2> kSides{"Left", "Right"};
constexpr std::array<JsonField, 7> kAddedTokenFields{{{"id", FieldKind::kId},  // not used: see add
                                                      {"content", FieldKind::kText},
                                                      {"single_word", FieldKind::kFlag},
                                                      {"lstrip", FieldKind::kFlag},
                                                      {"rstrip", FieldKind::kFlag},
                                                      {"normalized", FieldKind::kFlag},
                                                      {"special", FieldKind::kFlag}}};

// Of lengths, which Transformers sets anew for each text.
void check_truncation(const JsonObject& json) {
  constexpr std::array<JsonField, 4> kFields{{{"direction", FieldKind::kText, FieldNeed::kOptional},
                                              {"max_length", FieldKind::kCount},
                                              {"strategy", FieldKind::kText},
                                              {"stride", FieldKind::kCount}}};
  constexpr std::array<std::string_view, 3> kStrategies{"LongestFirst", "OnlyFirst", "OnlySecond"};
  check_fields(json, kFields);
  if (json.has("direction")) parse_choice(json, "direction", kSides);
  parse_choice(json, "strategy", kStrategies);
}

void check_padding(const JsonObject& json) {
  constexpr std::array<JsonField, 6> kFields{{{"strategy", FieldKind::kAny},
                                              {"direction", FieldKind::kText},
                                              {"pad_to_multiple_of", FieldKind::kCount, FieldNeed::kNullable},
                                              {"pad_id", FieldKind::kId},
                                              {"pad_type_id", FieldKind::kId},
                                              {"pad_token", FieldKind::kText}}};
  constexpr std::array<JsonField, 1> kFixed{{{"Fixed", FieldKind::kCount}}};
  check_fields(json, kFields);
  parse_choice(json, "direction", kSides);
  if (json.at("strategy").is_object()) {
    check_fields(json.object("strategy"), kFixed);
  } else if (json.at("strategy") != "BatchLongest") {
    json.wrong("strategy", "BatchLongest or {\"Fixed\": a count}");
  }
}

void check_top_level(const JsonObject& root, const Tokenizer::Notice& notice) {
  constexpr std::array<std::string_view, 9> kKeys{"version",        "truncation", "padding",
                                                  "added_tokens",   "normalizer", "pre_tokenizer",
                                                  "post_processor", "decoder",    "model"};
  root.only(kKeys);
  if (root.json().contains("version") && root.json()["version"] != "1.0") root.wrong("version", "1.0");
  if (root.has("truncation")) check_truncation(root.object("truncation"));
  if (root.has("padding")) check_padding(root.object("padding"));
  for (const char* const key : {"truncation", "padding"}) {
    if (notice && root.has(key))
      notice(fmt::format("{}: field {} is not used: texts are neither cut nor padded", root.where(), key));
  }
}

}  // namespace

void Tokenizer::Impl::configure(std::string_view config, const std::string& where, const Notice& notice) {
  const TokenizerConfig extra = parse_tokenizer_config(config, where);
  for (const AddedToken& token : extra.tokens) add({token}, where);
  for (const AddedToken& token : extra.named_tokens) {
    if (!added_ids.contains(token.content)) add({token}, where);
  }
  split_specials = extra.split_specials;
  if (dynamic_cast<const Bpe*>(model.get()) == nullptr ? extra.clean_up : extra.clean_up_bpe) decoder.clean_up_text();
  if (notice && !extra.unknown.empty())
    notice(fmt::format("{}: not known here, and not used: {}", where, fmt::join(extra.unknown, ", ")));
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view text, const std::string& where,
                                                      std::string_view config, const Notice& notice) {
  const Json json = parse_json(text, where);
  const JsonObject root(json, where);
  check_top_level(root, notice);
  auto impl = std::make_unique<Impl>();
  const Json null;
  const auto field = [&](const char* key) -> const Json& { return root.has(key) ? root.at(key) : null; };
  impl->normalizer = Normalizer::parse(field("normalizer"), where + ": normalizer");
  impl->pre_tokenizer = PreTokenizer::parse(field("pre_tokenizer"), where + ": pre_tokenizer");
  impl->decoder = Decoder::parse(field("decoder"), where + ": decoder");
  impl->model = TokenModel::parse(root.object("model"));
  impl->post_processor = PostProcessor::parse(field("post_processor"), where + ": post_processor");
  if (json.contains("added_tokens")) {
    if (!json["added_tokens"].is_array()) root.wrong("added_tokens", "an array");
    std::vector<AddedToken> list;
    for (const Json& entry : json["added_tokens"]) {
      const JsonObject token(entry, where + ": added_tokens");
      check_fields(token, kAddedTokenFields);
      list.push_back(parse_added_token(token));
    }
    impl->add(list, where);
  }
  if (!config.empty()) impl->configure(config, tokenizer_config_beside(where), notice);
  impl->index(where);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(impl), {}));
}

namespace {

// Forms of tokenizers that others read; tokenizer.json says what they leave to the program.
[[noreturn]] void explain_no_tokenizer(const std::filesystem::path& folder) {
  const std::string path = (folder / "tokenizer.json").string();
  for (const char* const other : {"tokenizer.model", "tekken.json", "tiktoken.model", "vocab.json", "vocab.txt"}) {
    if (!std::filesystem::exists(folder / other)) continue;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: the folder has its tokenizer as {} alone, which is not read; expected tokenizer.json "
                            "(load it with transformers and save_pretrained)",
                            path, other));
  }
  throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", path));
}

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& model, const Notice& notice) {
  if (std::filesystem::is_directory(model)) {
    const auto path = model / "tokenizer.json";
    if (!std::filesystem::exists(path)) explain_no_tokenizer(model);
    const auto text = [&](const char* name) { return has_file(model, name) ? text_in(model, name) : ""; };
    const std::string config = join_tokenizer_config(text("tokenizer_config.json"), text("special_tokens_map.json"),
                                                     text("added_tokens.json"), path.string());
    return from_json(text_in(model, "tokenizer.json"), path.string(), config, notice);
  }
  const MappedFile file(first_part(model));
  std::vector<std::byte> turned;
  if (is_big_endian_gguf(file.bytes())) turned = little_endian_gguf(file.bytes(), model.string());
  const Gguf gguf = parse_gguf(turned.empty() ? file.bytes() : turned, model.string());
  return from_json(gguf_tokenizer_json(gguf).dump(), model.string(), {}, notice);
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string sanitized;
  if (!is_valid_utf8(text)) {
    sanitized = sanitize_utf8(text);
    text = sanitized;
  }
  std::vector<TokenId> out;
  out.reserve(text.size() / 4 + 8);
  const bool parse_special = options.parse_special && !impl_->split_specials;
  std::size_t head = 0;
  if (!text.empty()) next_character(text, head);
  impl_->raw_tokens.split(
      text, head, parse_special,
      [&](std::string_view part, std::size_t part_head) { impl_->encode_text(part, part_head, parse_special, out); },
      [&](TokenId id) { out.push_back(id); });
  impl_->post_processor.apply(out, options.add_special);
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
  return impl_->find(std::string(token));
}

bool Tokenizer::is_special(TokenId id) const {
  const auto found = impl_->added.find(id);
  return found != impl_->added.end() && found->second.special;
}

std::int64_t Tokenizer::vocab_size() const {
  return impl_->size;
}

std::vector<std::string> Tokenizer::token_bytes() const {
  // No model has tokens behind the most that a vocabulary may have, whatever ids a file gives.
  std::vector<std::string> out(static_cast<std::size_t>(std::min(impl_->size, kMaxDimension)));
  for (const auto& [id, spelling] : impl_->spellings) {
    if (id < kMaxDimension && !is_hidden(spelling))
      out[static_cast<std::size_t>(id)] = impl_->decoder.bytes_of(spelling);
  }
  return out;
}

struct Detokenizer::State {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool skip_special;
  std::string out;     // what the stages have given since it was last taken
  std::string before;  // the rest of the text that is not to be emitted
  std::unique_ptr<Decoder::Stream> stream;

  void push(TokenId id) {
    const Tokenizer::Impl& impl = *tokenizer->impl_;
    const auto found = impl.spellings.find(id);
    if (found == impl.spellings.end() || (skip_special && tokenizer->is_hidden(found->second))) return;
    stream->push(found->second);
  }

  // Takes what is there, less the text before as far as it has come out as expected.
  std::string take() {
    std::size_t same = 0;
    while (same < out.size() && same < before.size() && out[same] == before[same]) ++same;
    if (same < std::min(out.size(), before.size())) {
      while (same > 0 && is_continuation(out[same])) --same;
      before.clear();
    }
    before.erase(0, same);
    out.erase(0, same);
    return std::exchange(out, {});
  }
};

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special, std::span<const TokenId> before)
    : state_(std::make_unique<State>()) {
  if (!before.empty()) state_->before = tokenizer->decode(before, skip_special);
  state_->skip_special = skip_special;
  state_->stream = tokenizer->impl_->decoder.stream(state_->out);
  state_->tokenizer = std::move(tokenizer);
  for (const TokenId id : before) state_->push(id);
}

Detokenizer::~Detokenizer() = default;
Detokenizer::Detokenizer(Detokenizer&&) noexcept = default;
Detokenizer& Detokenizer::operator=(Detokenizer&&) noexcept = default;

std::string Detokenizer::push(TokenId id) {
  state_->push(id);
  return state_->take();
}

std::string Detokenizer::finish() {
  state_->stream->finish();
  return state_->take();
}

}  // namespace metal_marlin
