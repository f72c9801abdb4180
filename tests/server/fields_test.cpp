#include "server/fields.h"

#include <gtest/gtest.h>

#include <array>

#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

// What a request is refused with: "param: message".
template <class F>
std::string refusal(F&& read) {
  try {
    read();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 400);
    return error.param + ": " + error.what();
  }
  return "nothing";
}

TEST(RequestFields, AreReadByName) {
  const OrderedJson body =
      parse_body(R"({"a": 1, "b": 0.5, "c": true, "d": "x", "e": ["x", "y"], "f": null, "g": [1, 2]})");
  Fields fields(body);
  EXPECT_EQ(fields.integer("a", 0, 5), 1);
  EXPECT_EQ(fields.number("a", 0, 5), 1.0);
  EXPECT_EQ(fields.number("b", 0, 5), 0.5);
  EXPECT_TRUE(fields.boolean("c", false));
  EXPECT_EQ(fields.text("d"), "x");
  EXPECT_EQ(fields.texts("d"), std::vector<std::string>{"x"});
  EXPECT_EQ(fields.texts("e").size(), 2U);
  EXPECT_EQ(fields.token_ids("g", 3), (std::vector<TokenId>{1, 2}));
  for (const char* const key : {"f", "none"}) {
    EXPECT_FALSE(fields.integer(key, 0, 5));
    EXPECT_FALSE(fields.text(key));
    EXPECT_TRUE(fields.boolean(key, true));
  }
  fields.refuse_others({});
}

TEST(RequestFields, IntegersMayBeWrittenAsFractions) {
  const OrderedJson body = parse_body(R"({"a": 8.0, "b": 8.5, "c": 1e300, "d": [2.0, -0], "e": [2.5], "f": -1e2})");
  Fields fields(body);
  EXPECT_EQ(fields.integer("a", 0, 9), 8);
  EXPECT_EQ(fields.integer("f", -100, 9), -100);
  EXPECT_EQ(fields.token_ids("d", 3), (std::vector<TokenId>{2, 0}));
  for (const char* const key : {"b", "c"}) {
    EXPECT_NE(refusal([&] { fields.integer(key, 0, INT64_MAX); }), "nothing") << key;
  }
  EXPECT_NE(refusal([&] { fields.token_ids("e", 3); }), "nothing");
}

TEST(RequestFields, NameWhatIsWrong) {
  const OrderedJson body = parse_body(R"({"a": 18446744073709551615, "b": "1", "c": [1, -1], "d": {"e": 7, "f": 1}})");
  Fields fields(body);
  EXPECT_EQ(refusal([&] { fields.integer("a", 0, 5); }),
            "a: a is 18446744073709551615, expected an integer from 0 to 5");
  EXPECT_EQ(refusal([&] { fields.number("b", 0, 1); }), "b: b is \"1\", expected a number from 0 to 1");
  EXPECT_EQ(refusal([&] { fields.texts("c"); }), "c: c[0] is 1, expected a text");
  EXPECT_EQ(refusal([&] { fields.texts("d"); }), "d: d is an object, expected a text or a list of texts");
  EXPECT_EQ(refusal([&] { fields.number("c", 2, 2); }), "c: c is a list of 2, expected 2");
  EXPECT_EQ(refusal([&] { fields.token_ids("c", 5); }), "c: c[1] is -1, expected a token id from 0 to 4");
  auto inner = fields.object("d");
  EXPECT_EQ(refusal([&] { inner->integer("e", 0, 5); }), "d.e: d.e is 7, expected an integer from 0 to 5");
  EXPECT_EQ(refusal([&] { inner->refuse_others({}); }), "d.f: d.f is not a field that this server knows");
  EXPECT_EQ(refusal([&] { fields.object("b"); }), "b: b is \"1\", expected an object");
  constexpr std::array<std::string_view, 1> harmless = {"f"};
  inner->refuse_others(harmless);
}

TEST(RequestBody, IsAnObjectOfLimitedDepth) {
  EXPECT_EQ(parse_body(R"({"z": 1, "a": 2})").begin().key(), "z");  // the order of fields stays
  std::string deep(62, '[');
  deep = "{\"a\":" + deep + std::string(62, ']') + "}";
  EXPECT_NO_THROW(parse_body(deep));
  for (const std::string& text : {std::string("[1]"), std::string("{"), std::string("{\"a\": \"\xff\"}"),
                                  "{\"a\":" + std::string(1000000, '[')}) {
    EXPECT_NE(refusal([&] { parse_body(text); }), "nothing") << text.substr(0, 20);
  }
}

}  // namespace
}  // namespace metal_marlin::server
