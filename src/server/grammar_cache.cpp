#include "server/grammar_cache.h"

#include <vector>

#include "server/json_text.h"

namespace metal_marlin::server {
namespace {

std::shared_ptr<const Grammar> compile(const GrammarText& asked) {
  switch (asked.kind) {
    case GrammarText::Kind::kJsonObject: return Grammar::any_json_object();
    case GrammarText::Kind::kSchema: return Grammar::from_json_schema(asked.text, asked.field);
    case GrammarText::Kind::kRegex: return Grammar::from_regex(asked.text);
    case GrammarText::Kind::kGbnf: return Grammar::from_gbnf(asked.text, asked.field);
    case GrammarText::Kind::kChoice: break;
  }
  return Grammar::from_choice(OrderedJson::parse(asked.text).get<std::vector<std::string>>());
}

}  // namespace

std::shared_ptr<const Grammar> GrammarCache::find(const GrammarText& asked) {
  const std::scoped_lock lock(mutex_);
  const auto found = places_.find({asked.kind, asked.text});
  if (found == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second->grammar;
}

std::shared_ptr<const Grammar> GrammarCache::make(const GrammarText& asked) {
  if (auto known = find(asked)) return known;
  auto grammar = compile(asked);
  const std::size_t bytes = grammar->bytes() + asked.text.size();
  const std::scoped_lock lock(mutex_);
  if (places_.contains({asked.kind, asked.text})) return grammar;  // another thread was faster
  entries_.push_front({{asked.kind, asked.text}, grammar, bytes});
  places_.emplace(entries_.front().key, entries_.begin());
  bytes_ += bytes;
  while (entries_.size() > 1 && (entries_.size() > most_grammars_ || bytes_ > most_bytes_)) {
    bytes_ -= entries_.back().bytes;
    places_.erase(entries_.back().key);
    entries_.pop_back();
  }
  return grammar;
}

std::size_t GrammarCache::size() const {
  const std::scoped_lock lock(mutex_);
  return entries_.size();
}

}  // namespace metal_marlin::server
