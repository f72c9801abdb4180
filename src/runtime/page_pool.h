// Whose the pages of a key-value cache are, and what they hold. Of the pages themselves, which a Runner has, it knows
// the numbers alone.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "backends/backend.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

using PageId = std::int32_t;

// A page's tokens together with all that come before them; equal where these are. Those below the pool's `beginnings`:
// nothing yet, of a sequence of one kind, whose pages are never another kind's.
using ContentId = std::uint64_t;

class PagePool {
 public:
  struct Counts {
    std::int64_t pages = 0;
    std::int64_t held = 0;     // by somebody
    std::int64_t shared = 0;   // by more than one
    std::int64_t kept = 0;     // by nobody, for their content
    std::int64_t evicted = 0;  // so far: kept pages that were taken for other content
  };

  explicit PagePool(ContentId beginnings = 1) : last_content_(beginnings - 1) {}

  // Adds so many pages, which are free.
  void grow(std::int64_t pages);
  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(pages_.size()); }
  [[nodiscard]] std::int64_t free() const { return static_cast<std::int64_t>(free_.size()); }
  // Pages that take() can give: free ones and kept ones.
  [[nodiscard]] std::int64_t available() const { return static_cast<std::int64_t>(free_.size() + kept_.size()); }
  // A page for its only holder to write: a free one, else of the kept ones that which was let go first. One must be
  // available.
  PageId take();
  // One more holder.
  void share(PageId page);
  // One holder fewer. Holders let go of pages in the reverse of their order, so that content goes before what it
  // follows.
  void release(PageId page);
  // As release(), and a page that nobody else holds is found no more.
  void release_and_forget(PageId page);
  // Whether its only holder may write: others hold it too, or its content can be found.
  [[nodiscard]] bool is_writable(PageId page) const;

  struct Found {
    PageId page;
    ContentId content;
  };
  // Lets a full page be found by its tokens. Where another holds the same already, the holder gets that one instead.
  Found publish(PageId page, ContentId before, std::span<const TokenId> tokens);
  // A page with these tokens after that content, with one more holder.
  std::optional<Found> find(ContentId before, std::span<const TokenId> tokens);

  [[nodiscard]] Counts counts() const;

 private:
  // A chain: what a page holds is its tokens and, by a number, all before. Compared whole, so that two contents are
  // never taken for one.
  struct Key {
    ContentId before = 0;
    std::array<TokenId, kCachePageTokens> tokens{};
    bool operator==(const Key&) const = default;
  };
  struct HashKey {
    std::size_t operator()(const Key& key) const;
  };
  struct Page {
    std::int32_t holders = 0;
    const Key* key = nullptr;               // where it is published; of contents_
    std::list<PageId>::iterator kept_at{};  // where it is kept
  };
  static Key key_of(ContentId before, std::span<const TokenId> tokens);
  Page& at(PageId page) { return pages_[static_cast<std::size_t>(page)]; }

  std::vector<Page> pages_;
  std::vector<PageId> free_;  // a stack
  std::list<PageId> kept_;    // let go first, first
  std::unordered_map<Key, Found, HashKey> contents_;
  ContentId last_content_;
  std::int64_t evicted_ = 0;
};

}  // namespace metal_marlin
