// Parts of the transport, and the framing of streams.
#include <gtest/gtest.h>

#include "server/http/target.h"
#include "server/sse.h"

namespace metal_marlin::server {
namespace {

TEST(Target, PathIsDecoded) {
  EXPECT_EQ(target_path("/v1/models/a%2Fb?x=1"), "/v1/models/a/b");
  EXPECT_EQ(target_path("/a%"), "/a%");
  EXPECT_EQ(target_path("/a%2"), "/a%2");
  EXPECT_EQ(target_path("/a%zz%41"), "/a%zzA");
  EXPECT_EQ(target_path("/%-1"), "/%-1");
  EXPECT_EQ(target_path("/#x"), "/");
}

TEST(Target, QueryIsTakenApart) {
  using Query = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(target_query("/slots/1?action=save&model=a%2Fb%26c#x?y=1"),
            (Query{{"action", "save"}, {"model", "a/b&c"}}));
  EXPECT_EQ(target_query("/?a&=b&&c=d=e&f="), (Query{{"a", ""}, {"", "b"}, {"c", "d=e"}, {"f", ""}}));
  EXPECT_EQ(target_query("/?"), Query());
  EXPECT_EQ(target_query("/#?a=b"), Query());
}

TEST(ServerSentEvents, AreOfOneLine) {
  EXPECT_EQ(sse_data({{"text", "a\nb\r"}}), "data: {\"text\":\"a\\nb\\r\"}\n\n");
  EXPECT_EQ(sse_event("x.y", {{"a", "\xff"}}), "event: x.y\ndata: {\"a\":\"\xEF\xBF\xBD\"}\n\n");
}

}  // namespace
}  // namespace metal_marlin::server
