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

// What is kept for a key is still its own when others come and go, or the server is started anew.
TEST(Guard, KeysHaveLastingNames) {
  if (!has_lasting_key_names()) GTEST_SKIP() << "this build has no OpenSSL";
  EXPECT_EQ(name_of_key("abc", 7), "key-ba7816bf8f01cfea414140de5dae2223");  // FIPS 180-2's example
  const auto name_by = [](const char* keys, HttpHeaders headers) {
    Guard guard({keys, {}, {}, {}}, [](const std::string&) {});
    HttpRequest request;
    request.headers = std::move(headers);
    EXPECT_TRUE(guard.needs_keys());
    return guard.check_key(request, false);
  };
  const std::string name = name_by("abc", {{"authorization", "Bearer  abc "}});
  EXPECT_EQ(name, "key-ba7816bf8f01cfea414140de5dae2223");
  EXPECT_EQ(name_by("other,abc", {{"x-api-key", "abc"}}), name);
  EXPECT_EQ(name_by("other,abc", {{"x-api-key", "wrong"}, {"authorization", "bearer abc"}}), name);
  EXPECT_NE(name_by("other,abc", {{"x-api-key", "other"}}), name);
  HttpRequest request;
  request.peer = "::1";
  Guard open({{}, {}, {}, {}}, [](const std::string&) {});
  EXPECT_FALSE(open.needs_keys());
  EXPECT_EQ(open.check_key(request, false), "::1");
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
