#include "io/json.h"

#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>

#include "io/json_fields.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(Json, SyntaxErrorsNameTheFile) {
  EXPECT_EQ(parse_json(R"({"a": [1, 2]})", "x.json")["a"][1], 2);
  expect_error(ErrorCode::kCorruptFile, "x.json: not valid JSON", [] { parse_json("{\"a\": ", "x.json"); });
  expect_error(ErrorCode::kCorruptFile, "x.json: not valid JSON: line 1, column 7: unexpected end",
               [] { parse_json("{\"a\": ", "x.json"); });
  expect_error(ErrorCode::kCorruptFile, "line 3, column 2: unexpected '}'",
               [] { parse_json("{\"a\":\n [1,\n2}]", "x.json"); });
  expect_error(ErrorCode::kCorruptFile, "line 1, column 2: unexpected '\\xff'",
               [] { parse_json("\"\xff\"", "x.json"); });
  expect_error(ErrorCode::kCorruptFile, "line 1, column 1: unexpected end", [] { parse_json("", "x.json"); });
  expect_error(ErrorCode::kCorruptFile, "it has a number that is too large", [] { parse_json("[1e999]", "x.json"); });
  expect_error(ErrorCode::kNotFound, "no.json", [] { read_json_file(test_data("no.json")); });
}

TEST(Json, DepthIsBounded) {
  const auto nested = [](std::size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_NO_THROW(parse_json(nested(kMostJsonDepth), "x.json"));
  expect_error(ErrorCode::kCorruptFile, "x.json: JSON that is nested more than 256 deep",
               [&] { parse_json(R"({"a": )" + nested(1'000'000) + "}", "x.json"); });
  expect_error(ErrorCode::kCorruptFile, "nested more than", [&] { parse_json(std::string(500'000, '{'), "x.json"); });
  EXPECT_NO_THROW(parse_json(R"(["[[[\"{{{", "\\", [1], {"[": "]"}])", "x.json"));
  EXPECT_FALSE(is_nested_deeper(R"(["[\"[", "\\"])", 1));
  EXPECT_TRUE(is_nested_deeper(R"(["\\", []])", 1));
  EXPECT_FALSE(is_nested_deeper("\"", 1));
  EXPECT_FALSE(is_nested_deeper("\"\\", 1));
}

TEST(Json, FieldsOfTheLargestObjectAreCounted) {
  for (const auto& [text, fields] : std::initializer_list<std::pair<const char*, std::size_t>>{
           {"", 0},
           {"{}", 0},
           {"[1, 2, 3]", 0},
           {R"({"a": [1, 2, 3, 4], "b": "c:d,e:f,g:"})", 2},
           {R"({"a": {"b": 1, "c": 2, "d": {}}, "e": [{"f": 1}]})", 3},
           {R"([{"a": {"b": 1}, "c": 2}, {"a": 1}])", 2},
           {R"("\":":::")", 0},
           {"}]::", 0},
           {R"({"a": 1, "a": 2)", 2},
       }) {
    EXPECT_EQ(most_json_fields(text), fields) << text;
  }
}

TEST(JsonObject, FieldsHaveTheTypesThatAreAskedFor) {
  const Json json = {{"n", 7}, {"half", 0.5}, {"yes", true}, {"name", "x"}, {"inner", {{"n", 8}}}, {"null", nullptr}};
  const JsonObject object(json, "c.json");
  EXPECT_EQ(object.integer("n"), 7);
  EXPECT_EQ(object.integer_or("null", 3), 3);
  EXPECT_EQ(object.number("half"), 0.5);
  EXPECT_TRUE(object.boolean_or("yes", false));
  EXPECT_EQ(object.string("name"), "x");
  EXPECT_EQ(object.object("inner").integer("n"), 8);
  EXPECT_FALSE(object.has("null"));
  EXPECT_EQ(object.bounded("n", 7, 7), 7);
}

TEST(JsonObject, ErrorsNameFileFieldAndWhatWasFound) {
  const Json json = {{"n", 7}, {"half", 0.5}, {"name", "x"}, {"inner", {{"n", "eight"}}}};
  const JsonObject object(json, "c.json");
  const auto corrupt = [](const std::string& text, const auto& action) {
    expect_error(ErrorCode::kCorruptFile, text, action);
  };
  corrupt("c.json: field half is 0.5, expected an integer", [&] { return object.integer("half"); });
  corrupt("field name is \"x\"", [&] { return object.number("name"); });
  corrupt("field n is 7", [&] { return object.string("n"); });
  corrupt("field n is 7, expected an integer from 8 to 9", [&] { return object.bounded("n", 8, 9); });
  expect_error(ErrorCode::kNotFound, "c.json: field missing is nothing", [&] { return object.integer("missing"); });
  corrupt("inner", [&] { return object.object("inner").integer("n"); });
  corrupt("found number, expected an object", [&] { JsonObject(json["n"], "c.json"); });
  const std::array<std::string_view, 3> known{"n", "half", "name"};
  expect_error(ErrorCode::kUnsupported, "field inner", [&] { object.only(known); });
}

}  // namespace
}  // namespace metal_marlin
