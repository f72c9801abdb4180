#include "io/sources.h"

#include <gtest/gtest.h>

#include "io/file_write.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

// models/a/weights, models/b, and links to them.
class SourcesTest : public testing::Test {
 protected:
  SourcesTest() : root_(folder_.path()) {
    std::filesystem::create_directories(root_ / "models/a");
    std::filesystem::create_directories(root_ / "models/b");
    write_file_atomically(root_ / "models/a/weights", "w");
    std::filesystem::create_directory_symlink("models/a", root_ / "link");
    std::filesystem::create_hard_link(root_ / "models/a/weights", root_ / "hard");
  }
  void refused(const Sources& sources, const std::string& output, const std::string& why) {
    expect_error(ErrorCode::kInvalidArgument, why, [&] { sources.refuse(root_ / output); });
  }

  TemporaryFolder folder_;
  std::filesystem::path root_;
};

TEST_F(SourcesTest, FoldersByAnyName) {
  Sources sources;
  sources.add(root_ / "link/");
  refused(sources, "models/a", "is the source");
  refused(sources, "models/b/../a/", "is the source");
  refused(sources, "link", "is the source");
  refused(sources, "models/a/not/there/yet", "lies in the source");
  refused(sources, "link/weights", "lies in the source");
  refused(sources, "hard/../models", "holds the source");
  refused(sources, "models", "holds the source");
  sources.refuse(root_ / "models/b");
  sources.refuse(root_ / "models/ab");
  sources.refuse(root_ / "models/a.new");
  sources.refuse(root_ / "hard");  // the file may go: the folder has its own name for it
}

TEST_F(SourcesTest, FilesByAnyName) {
  Sources sources;
  sources.add(root_ / "models/a/weights");
  refused(sources, "hard", "is the source");
  refused(sources, "link/weights", "is the source");
  refused(sources, "link", "holds the source");
  sources.refuse(root_ / "models/a/other");
}

TEST_F(SourcesTest, WhatLinksInAFolderLeadTo) {
  std::filesystem::create_symlink("../a/weights", root_ / "models/b/weights");
  Sources sources;
  sources.add(root_ / "models/b");
  refused(sources, "models/a", "holds the source");
  refused(sources, "hard", "is the source");
  sources.refuse(root_ / "models/a/other");
}

TEST_F(SourcesTest, LinksToWhatIsNotThereYet) {
  std::filesystem::create_symlink("models/a/new", root_ / "dangling");
  Sources sources;
  sources.add(root_ / "models/a");
  refused(sources, "dangling", "lies in the source");
}

TEST_F(SourcesTest, WhatAnOutputWouldSweepAway) {
  std::filesystem::create_directories(root_ / "out.partial-abc");
  std::filesystem::create_directories(root_ / "out.replaced");
  for (const char* const name : {"out.partial-abc", "out.replaced"}) {
    Sources sources;
    sources.add(root_ / name);
    refused(sources, "out", "stands in the way");
    sources.refuse(root_ / "other");
  }
}

TEST_F(SourcesTest, NothingAndTheStandardInputAreNoSources) {
  Sources sources;
  sources.add("");
  sources.add("-");
  sources.refuse(std::filesystem::current_path());
}

}  // namespace
}  // namespace metal_marlin
