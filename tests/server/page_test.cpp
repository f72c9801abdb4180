#include "server/page.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <string>

namespace metal_marlin::server {
namespace {

TEST(Page, FilesAreThoseOfTheFolder) {
  ASSERT_GT(page_files().size(), 3u);
  for (const PageFile& file : page_files()) {
    const std::string name = file.path == "/" ? "/page/index.html" : std::string(file.path);
    std::ifstream stream(METAL_MARLIN_TEST_DATA "/../../src/server" + name, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(stream)), {});
    EXPECT_EQ(file.text, text) << file.path;
    EXPECT_NE(file.content_type.find(name.ends_with(".js")    ? "javascript"
                                     : name.ends_with(".css") ? "css"
                                                              : "html"),
              file.content_type.npos);
  }
}

TEST(Page, WhatItAsksForIsThere) {
  const std::regex reference(R"re((?:href|src|from)\s*=?\s*"(?:\./|page/)([\w.]+)")re");
  size_t references = 0;
  for (const PageFile& file : page_files()) {
    const std::string text(file.text);
    for (std::sregex_iterator it(text.begin(), text.end(), reference), end; it != end; ++it, ++references) {
      EXPECT_NE(page_file("/page/" + (*it)[1].str()), nullptr) << file.path << " names " << (*it)[1];
    }
  }
  EXPECT_GT(references, 10u);
  EXPECT_NE(page_file("/"), nullptr);
  EXPECT_EQ(page_file("/page/index.html"), nullptr);
  EXPECT_EQ(page_file("/page/../page.h"), nullptr);
  EXPECT_EQ(page_file(""), nullptr);
}

}  // namespace
}  // namespace metal_marlin::server
