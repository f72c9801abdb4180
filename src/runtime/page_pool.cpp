#include "runtime/page_pool.h"

#include <algorithm>

#include "base/hash.h"

namespace metal_marlin {

std::size_t PagePool::HashKey::operator()(const Key& key) const {
  static_assert(sizeof(Key) == sizeof(ContentId) + kCachePageTokens * sizeof(TokenId));  // no padding
  return hash_of(std::as_bytes(std::span(&key, 1)));
}

PagePool::Key PagePool::key_of(ContentId before, std::span<const TokenId> tokens) {
  Key key;
  key.before = before;
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  return key;
}

void PagePool::grow(std::int64_t pages) {
  const auto first = static_cast<std::int64_t>(pages_.size());
  pages_.resize(static_cast<std::size_t>(first + pages));
  std::vector<PageId> added;
  for (std::int64_t page = first + pages - 1; page >= first; --page) added.push_back(static_cast<PageId>(page));
  free_.insert(free_.begin(), added.begin(), added.end());  // lower numbers go first
}

PageId PagePool::take() {
  PageId page = 0;
  if (!free_.empty()) {
    page = free_.back();
    free_.pop_back();
  } else {
    page = kept_.front();
    kept_.pop_front();
    contents_.erase(contents_.find(*at(page).key));
    at(page).key = nullptr;
    ++evicted_;
  }
  at(page).holders = 1;
  return page;
}

void PagePool::share(PageId page) {
  Page& shared = at(page);
  if (shared.holders++ == 0) kept_.erase(shared.kept_at);
}

void PagePool::release(PageId page) {
  Page& released = at(page);
  if (--released.holders > 0) return;
  if (released.key == nullptr) {
    free_.push_back(page);
  } else {
    released.kept_at = kept_.insert(kept_.end(), page);
  }
}

void PagePool::release_and_forget(PageId page) {
  Page& released = at(page);
  if (released.holders == 1 && released.key != nullptr) {
    contents_.erase(contents_.find(*released.key));
    released.key = nullptr;
  }
  release(page);
}

bool PagePool::is_writable(PageId page) const {
  const Page& asked = pages_[static_cast<std::size_t>(page)];
  return asked.holders == 1 && asked.key == nullptr;
}

PagePool::Found PagePool::publish(PageId page, ContentId before, std::span<const TokenId> tokens) {
  const auto [entry, added] = contents_.try_emplace(key_of(before, tokens), Found{page, last_content_ + 1});
  if (added) {
    ++last_content_;
    at(page).key = &entry->first;
  } else if (entry->second.page != page) {
    share(entry->second.page);
    release(page);
  }
  return entry->second;
}

std::optional<PagePool::Found> PagePool::find(ContentId before, std::span<const TokenId> tokens) {
  const auto found = contents_.find(key_of(before, tokens));
  if (found == contents_.end()) return std::nullopt;
  share(found->second.page);
  return found->second;
}

PagePool::Counts PagePool::counts() const {
  Counts out;
  out.pages = size();
  out.kept = static_cast<std::int64_t>(kept_.size());
  out.held = out.pages - available();
  out.shared = std::count_if(pages_.begin(), pages_.end(), [](const Page& page) { return page.holders > 1; });
  out.evicted = evicted_;
  return out;
}

}  // namespace metal_marlin
