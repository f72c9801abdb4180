#include "tokenizer/normalizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tokenizer/byte_level.h"
#include "tokenizer/stages.h"

namespace metal_marlin {
namespace {

const std::vector<StageType>& normalizer_types() {
  static const std::vector<StageType> all{
      {"NFC", {}},
      {"NFD", {}},
      {"NFKC", {}},
      {"NFKD", {}},
      {"Nmt", {}},
      {"Lowercase", {}},
      {"StripAccents", {}},
      {"ByteLevel", {}},
      {"Prepend", {{"prepend", FieldKind::kText}}},
      {"Replace", {{"pattern", FieldKind::kAny}, {"content", FieldKind::kText}}},
      {"Strip", {{"strip_left", FieldKind::kFlag}, {"strip_right", FieldKind::kFlag}}},
      {"Precompiled", {{"precompiled_charsmap", FieldKind::kText}}},
      {"BertNormalizer",
       {{"clean_text", FieldKind::kFlag},
        {"handle_chinese_chars", FieldKind::kFlag},
        {"strip_accents", FieldKind::kFlag, FieldNeed::kNullable},
        {"lowercase", FieldKind::kFlag}}}};
  return all;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// Keeps the characters that `keep` says, and maps them.
template <typename Keep, typename Map>
void filter_map(NormalizedText& text, const Keep& keep, const Map& map) {
  NormalizedText::Changes changes;
  std::size_t removed_first = 0;
  for (std::size_t at = 0; at < text.bytes.size();) {
    const char32_t c = next_character(text.bytes, at);
    if (keep(c)) {
      changes.emplace_back(map(c), 0);
    } else if (changes.empty()) {
      ++removed_first;
    } else {
      --changes.back().second;
    }
  }
  text.transform(changes, removed_first);
}

char32_t same(char32_t c) {
  return c;
}

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// Where the first `count` characters end.
std::size_t prefix_bytes(std::string_view text, std::size_t count) {
  std::size_t at = 0;
  for (; count > 0 && at < text.size(); --count) next_character(text, at);
  return at;
}

}  // namespace

void NormalizedText::append(std::string_view text, bool from_head) {
  if (from_head && head == bytes.size()) head += text.size();
  bytes += text;
}

void NormalizedText::transform(const Changes& changes, std::size_t removed) {
  NormalizedText out;
  out.bytes.reserve(bytes.size());
  std::size_t offset = prefix_bytes(bytes, removed);
  std::string character;
  for (const auto& [c, change] : changes) {
    // A new character belongs to the one before it.
    const std::size_t source = change > 0 && offset > 0 ? offset - 1 : offset;
    character.clear();
    append_utf8(c, character);
    out.append(character, source < head);
    for (int left = change; left <= 0 && offset < bytes.size(); ++left) next_character(bytes, offset);
  }
  *this = std::move(out);
}

Normalizer Normalizer::parse(const Json& json, const std::string& where) {
  Normalizer normalizer;
  for_each_stage(json, where, "normalizer", "normalizers", normalizer_types(),
                 [&](const JsonObject& stage) { normalizer.steps_.push_back(make(stage)); });
  return normalizer;
}

Normalizer::Step Normalizer::make(const JsonObject& json) {
  const std::string type = json.string("type");
  if (type == "NFC") return NormalForm::kNfc;
  if (type == "NFD") return NormalForm::kNfd;
  if (type == "NFKC") return NormalForm::kNfkc;
  if (type == "NFKD") return NormalForm::kNfkd;
  if (type == "Prepend") {
    Prepend prepend{json.string("prepend")};
    // The library's offsets go wrong with it, so that ByteLevel doubles a text's first character.
    if (prepend.text.empty()) unsupported_stage(json, "Prepend of an empty text");
    return prepend;
  }
  if (type == "Replace") return Replace{parse_pattern(json), json.string("content")};
  if (type == "Lowercase") return Lowercase{};
  if (type == "Strip") return Strip{json.boolean("strip_left"), json.boolean("strip_right")};
  if (type == "StripAccents") return StripAccents{};
  if (type == "Nmt") return Nmt{};
  if (type == "ByteLevel") return ByteLevel{};
  if (type == "Precompiled") {
    return std::make_shared<const PrecompiledMap>(json.string("precompiled_charsmap"), json.where());
  }
  const bool lower = json.boolean("lowercase");
  return Bert{json.boolean("clean_text"), json.boolean("handle_chinese_chars"), json.boolean_or("strip_accents", lower),
              lower};
}

void Normalizer::run(NormalForm form, NormalizedText& text) {
  if (is_ascii(text.bytes)) return;
  const std::string head = normalize(std::string_view(text.bytes).substr(0, text.head), form);
  text.bytes = normalize(text.bytes, form);
  text.head = prefix_bytes(text.bytes, count_characters(head));
}

void Normalizer::run(const Prepend& step, NormalizedText& text) {
  if (text.bytes.empty()) return;
  text.bytes.insert(0, step.text);
  if (text.head > 0) text.head += step.text.size();
}

void Normalizer::run(const Replace& step, NormalizedText& text) {
  if (text.bytes.empty()) return;  // of which stages before may have left nothing; it is not searched
  NormalizedText out;
  std::size_t done = 0;
  const auto keep = [&](std::size_t end) {
    const std::string_view kept = std::string_view(text.bytes).substr(done, end - done);
    const std::size_t from_head = std::min(kept.size(), text.head - std::min(text.head, done));
    out.append(kept.substr(0, from_head), true);
    out.append(kept.substr(from_head), false);
  };
  for (const Regex::Match& match : step.pattern.matches(text.bytes)) {
    keep(match.begin);
    out.append(step.content, match.end == 0 || match.end - 1 < text.head);
    done = match.end;
  }
  if (done == 0 && out.bytes.empty()) return;
  keep(text.bytes.size());
  text = std::move(out);
}

void Normalizer::run(Lowercase /*step*/, NormalizedText& text) {
  const std::size_t head = lowercase(std::string_view(text.bytes).substr(0, text.head)).size();
  text.bytes = lowercase(text.bytes);
  text.head = head;
}

void Normalizer::run(const Strip& step, NormalizedText& text) {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool seen = false;
  for (std::size_t at = 0; at < text.bytes.size();) {
    const std::size_t start = at;
    if (is_white_space(next_character(text.bytes, at))) continue;
    if (!seen) begin = start;
    seen = true;
    end = at;
  }
  if (!seen && (step.left || step.right)) begin = end = text.bytes.size();
  if (!step.left && seen) begin = 0;
  if (!step.right && seen) end = text.bytes.size();
  if (!step.left && !step.right) return;
  text.head = std::min(text.head, end);
  text.head -= std::min(text.head, begin);
  text.bytes = text.bytes.substr(begin, end - begin);
}

void Normalizer::run(StripAccents /*step*/, NormalizedText& text) {
  if (is_ascii(text.bytes)) return;
  filter_map(
      text, [](char32_t c) { return !is_mark(c); }, same);
}

void Normalizer::run(Nmt /*step*/, NormalizedText& text) {
  filter_map(
      text,
      [](char32_t c) {
        return !((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F);
      },
      [](char32_t c) {
        const bool space = c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) ||
                           c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF || c == 0xFFFD;
        return space ? U' ' : c;
      });
}

void Normalizer::run(ByteLevel /*step*/, NormalizedText& text) {
  const std::size_t head = bytes_to_alphabet(std::string_view(text.bytes).substr(0, text.head)).size();
  text.bytes = bytes_to_alphabet(text.bytes);
  text.head = head;
}

void Normalizer::run(const Bert& step, NormalizedText& text) {
  if (step.clean_text) {
    const auto control = [](char32_t c) { return c != '\t' && c != '\n' && c != '\r' && is_other(c); };
    filter_map(
        text, [&](char32_t c) { return c != 0 && c != 0xFFFD && !control(c); },
        [](char32_t c) { return is_white_space(c) ? U' ' : c; });
  }
  if (step.chinese && !is_ascii(text.bytes)) {
    NormalizedText::Changes changes;
    for (std::size_t at = 0; at < text.bytes.size();) {
      const char32_t c = next_character(text.bytes, at);
      const bool apart = is_chinese(c);
      if (apart) changes.emplace_back(U' ', 0);
      changes.emplace_back(c, apart ? 1 : 0);
      if (apart) changes.emplace_back(U' ', 1);
    }
    text.transform(changes, 0);
  }
  if (step.strip_accents) {
    run(NormalForm::kNfd, text);
    filter_map(
        text, [](char32_t c) { return !is_nonspacing_mark(c); }, same);
  }
  if (step.lowercase) run(Lowercase{}, text);
}

void Normalizer::run(const std::shared_ptr<const PrecompiledMap>& map, NormalizedText& text) {
  NormalizedText::Changes changes;
  bool modified = false;
  const auto replace = [&](std::string_view part, std::string_view by) {
    const std::size_t before = count_characters(part);
    std::size_t count = 0;
    for (std::size_t at = 0; at < by.size(); ++count) {
      const char32_t c = next_character(by, at);
      changes.emplace_back(c, count < before ? 0 : 1);
    }
    if (count < before && !changes.empty()) changes.back().second -= static_cast<int>(before - count);
    modified = true;
  };
  for (std::size_t at = 0; at < text.bytes.size();) {
    const std::size_t end = grapheme_end(text.bytes, at);
    const std::string_view cluster = std::string_view(text.bytes).substr(at, end - at);
    const auto whole = cluster.size() < 6 ? map->find(cluster) : std::nullopt;
    if (whole) replace(cluster, *whole);
    for (std::size_t in = whole ? cluster.size() : 0; in < cluster.size();) {
      const std::size_t begin = in;
      const char32_t c = next_character(cluster, in);
      const std::string_view part = cluster.substr(begin, in - begin);
      if (const auto found = map->find(part)) {
        replace(part, *found);
      } else {
        changes.emplace_back(c, 0);
      }
    }
    at = end;
  }
  if (modified) text.transform(changes, 0);
}

void Normalizer::apply(NormalizedText& text) const {
  for (const Step& step : steps_) {
    std::visit([&](const auto& concrete) { run(concrete, text); }, step);
  }
}

std::string Normalizer::apply(std::string_view text) const {
  NormalizedText out{std::string(text), 0};
  apply(out);
  return std::move(out.bytes);
}

}  // namespace metal_marlin
