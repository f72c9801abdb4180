#include "runtime/page_pool.h"

#include <gtest/gtest.h>

#include <numeric>

namespace metal_marlin {
namespace {

std::vector<TokenId> page_of(TokenId first) {
  std::vector<TokenId> tokens(kCachePageTokens);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(PagePool, GivesEveryPageOnceAndTakesItBack) {
  PagePool pool;
  pool.grow(3);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.take(), 0);
  EXPECT_EQ(pool.take(), 1);
  pool.grow(1);
  EXPECT_EQ(pool.take(), 2);
  EXPECT_EQ(pool.take(), 3);
  EXPECT_EQ(pool.available(), 0);
  pool.release(1);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.take(), 1);
  EXPECT_EQ(pool.counts().held, 4);
  EXPECT_EQ(pool.counts().pages, 4);
}

TEST(PagePool, SharedPagesGoWithTheirLastHolder) {
  PagePool pool;
  pool.grow(1);
  const PageId page = pool.take();
  EXPECT_TRUE(pool.is_writable(page));
  pool.share(page);
  EXPECT_FALSE(pool.is_writable(page));
  EXPECT_EQ(pool.counts().shared, 1);
  pool.release(page);
  EXPECT_TRUE(pool.is_writable(page));
  EXPECT_EQ(pool.available(), 0);
  pool.release(page);
  EXPECT_EQ(pool.free(), 1);
}

TEST(PagePool, FindsContentByItsTokensAndAllBeforeThem) {
  PagePool pool;
  pool.grow(4);
  const PageId first = pool.take();
  const PageId second = pool.take();
  const ContentId beginning = pool.publish(first, 0, page_of(1)).content;
  const ContentId both = pool.publish(second, beginning, page_of(50)).content;
  EXPECT_NE(beginning, both);
  EXPECT_FALSE(pool.is_writable(first));
  EXPECT_FALSE(pool.find(0, page_of(50)).has_value());     // not at the beginning
  EXPECT_FALSE(pool.find(both, page_of(50)).has_value());  // not after itself
  pool.release(second);
  pool.release(first);
  EXPECT_EQ(pool.counts().kept, 2);
  EXPECT_EQ(pool.free(), 2);
  const auto found = pool.find(0, page_of(1));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->page, first);
  EXPECT_EQ(found->content, beginning);
  EXPECT_EQ(pool.find(beginning, page_of(50))->page, second);
  EXPECT_EQ(pool.counts().kept, 0);
  EXPECT_EQ(pool.counts().held, 2);
}

TEST(PagePool, OnePageHoldsAContentThatSeveralComputed) {
  PagePool pool;
  pool.grow(2);
  const PageId one = pool.take();
  const PageId other = pool.take();
  const PagePool::Found first = pool.publish(one, 0, page_of(1));
  EXPECT_EQ(pool.publish(one, 0, page_of(1)).page, one);  // again, by its holder
  const PagePool::Found second = pool.publish(other, 0, page_of(1));
  EXPECT_EQ(second.page, one);
  EXPECT_EQ(second.content, first.content);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.counts().shared, 1);
}

TEST(PagePool, EvictsWhatWasLetGoFirst) {
  PagePool pool;
  pool.grow(3);
  std::vector<PageId> pages;
  ContentId content = 0;
  for (const TokenId first : {1, 50, 100}) {
    pages.push_back(pool.take());
    content = pool.publish(pages.back(), content, page_of(first)).content;
  }
  for (auto page = pages.rbegin(); page != pages.rend(); ++page) pool.release(*page);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.take(), pages[2]);  // the end of the text before its beginning
  EXPECT_EQ(pool.counts().evicted, 1);
  const auto first = pool.find(0, page_of(1));
  ASSERT_TRUE(first.has_value());
  const auto second = pool.find(first->content, page_of(50));
  ASSERT_TRUE(second.has_value());
  EXPECT_FALSE(pool.find(second->content, page_of(100)).has_value());
  EXPECT_EQ(pool.available(), 0);
  // What was evicted can come again, under another number.
  EXPECT_NE(pool.publish(pages[2], second->content, page_of(100)).content, content);
}

TEST(PagePool, ForgetsWhatOneHolderLetsGo) {
  PagePool pool;
  pool.grow(2);
  const PageId page = pool.take();
  pool.publish(page, 0, page_of(1));
  pool.share(page);
  pool.release_and_forget(page);
  ASSERT_TRUE(pool.find(0, page_of(1)).has_value());
  pool.release(page);
  pool.release_and_forget(page);
  EXPECT_FALSE(pool.find(0, page_of(1)).has_value());
  EXPECT_EQ(pool.free(), 2);
  pool.release_and_forget(pool.take());  // which nobody could find
  EXPECT_EQ(pool.free(), 2);
}

}  // namespace
}  // namespace metal_marlin
