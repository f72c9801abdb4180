#include "base/paths.h"

#include <gtest/gtest.h>

#include <fstream>

#include "test_data.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

TEST(Paths, LieInAFolderOrNot) {
  const TemporaryFolder work;
  const fs::path folder = fs::canonical(work.path()) / "model";
  fs::create_directories(folder / "deep");
  EXPECT_TRUE(lies_in(folder, folder));
  EXPECT_TRUE(lies_in(folder / "deep" / "file", folder));
  EXPECT_TRUE(lies_in(folder / "not there", folder));
  EXPECT_FALSE(lies_in(folder.parent_path(), folder));
  EXPECT_FALSE(lies_in(folder.parent_path() / "model2", folder));  // begins with the same letters
  EXPECT_FALSE(lies_in("", folder));
}

TEST(Paths, OfOneFileAreTheSame) {
  const TemporaryFolder work;
  std::ofstream(work.path() / "a") << "text";
  std::ofstream(work.path() / "b") << "text";
  fs::create_hard_link(work.path() / "a", work.path() / "link");
  EXPECT_TRUE(is_same_file(work.path() / "a", work.path() / "link"));
  EXPECT_TRUE(is_same_file(work.path() / "nothing", work.path() / "nothing"));
  EXPECT_FALSE(is_same_file(work.path() / "a", work.path() / "b"));
  EXPECT_FALSE(is_same_file(work.path() / "nothing", work.path() / "no more"));
}

}  // namespace
}  // namespace metal_marlin
