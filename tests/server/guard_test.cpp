#include "server/guard.h"

#include <gtest/gtest.h>

#include "server/api_error.h"

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

TEST(HostName, HasNoPortAndSmallLetters) {
  for (const auto& [host, name] :
       std::initializer_list<std::pair<const char*, const char*>>{{"MyBox:8000", "mybox"},
                                                                  {"mybox", "mybox"},
                                                                  {"[FE80::1]:80", "[fe80::1]"},
                                                                  {"[fe80::1]", "[fe80::1]"},
                                                                  {"", ""},
                                                                  {"[::1", "[::1"},
                                                                  {"[::1]x", "[::1]x"}}) {
    EXPECT_EQ(host_name(host), name);
  }
}

TEST(Guard, HostsThatAreMeantAreTakenHoweverTheyAreWritten) {
  Guard guard({{}, {}, {}, {"MyBox", "[FE80::1]"}}, [](const std::string&) {});
  guard.only_local_hosts();
  const auto asked_by = [](const char* host) {
    HttpRequest request;
    request.headers = {{"host", host}};
    return request;
  };
  for (const char* const host : {"mybox", "MYBOX:8000", "[fe80::1]:80", "localhost"})
    EXPECT_NO_THROW(guard.check_host(asked_by(host))) << host;
  for (const char* const host : {"mybox.example", "xmybox", "[fe80::2]", "[fe80"})
    EXPECT_THROW(guard.check_host(asked_by(host)), ApiError) << host;
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
