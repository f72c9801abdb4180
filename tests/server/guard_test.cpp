#include "server/guard.h"

#include <gtest/gtest.h>

namespace metal_marlin::server {
namespace {

TEST(LoopbackHost, IsThisMachineAlone) {
  for (const char* const host : {"localhost", "LocalHost:8000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8000"}) {
    EXPECT_TRUE(is_loopback_host(host)) << host;
  }
  for (const char* const host : {"", "example.org", "127.0.0.1.example.org", "localhost.example.org",
                                 "127.example.org:80", "128.0.0.1", "[::2]", "[::1", "[::1]x", "127.0.0", "0.0.0.0"}) {
    EXPECT_FALSE(is_loopback_host(host)) << host;
  }
}

TEST(ApiKeys, AreFoundWhole) {
  ApiKeys keys(" one, two ,,", {}, [](const std::string&) {});
  EXPECT_TRUE(keys.needed());
  EXPECT_EQ(keys.find("one"), 0);
  EXPECT_EQ(keys.find("two"), 1);
  for (const char* const key : {"", "on", "onee", "oneone", "One", "one,two"}) EXPECT_EQ(keys.find(key), -1) << key;
  EXPECT_FALSE(ApiKeys("", {}, {}).needed());
}

}  // namespace
}  // namespace metal_marlin::server
