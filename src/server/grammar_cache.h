// Grammars that requests asked for.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "metal_marlin/grammar.h"
#include "server/grammar_fields.h"

namespace metal_marlin::server {

// By what they were made of; those that were used last are kept, within a count and a size. A grammar is of no
// tokenizer; what its tokens' masks are, an engine keeps as long as somebody has the grammar. Usable from many threads.
class GrammarCache {
 public:
  explicit GrammarCache(std::size_t most_grammars = 64, std::size_t most_bytes = std::size_t{128} << 20)
      : most_grammars_(most_grammars), most_bytes_(most_bytes) {}
  // nullptr: there is none yet.
  std::shared_ptr<const Grammar> find(const GrammarText& asked);
  // Compiles it where there is none, which may take as long as a grammar's limits allow.
  // \throws Error, as Grammar does.
  std::shared_ptr<const Grammar> make(const GrammarText& asked);
  [[nodiscard]] std::size_t size() const;

 private:
  using Key = std::pair<GrammarText::Kind, std::string>;
  struct Entry {
    Key key;
    std::shared_ptr<const Grammar> grammar;
    std::size_t bytes;
  };
  std::size_t most_grammars_;
  std::size_t most_bytes_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the last used first
  std::map<Key, std::list<Entry>::iterator> places_;
  std::size_t bytes_ = 0;
};

}  // namespace metal_marlin::server
