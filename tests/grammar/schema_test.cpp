#include "grammar/schema.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "grammar/grammar_testing.h"

namespace metal_marlin {
namespace {

struct SchemaCase {
  std::string schema;
  std::vector<std::string> of;
  std::vector<std::string> not_of;
};

TEST(Schema, SaysWhatIsValid) {
  const std::vector<SchemaCase> cases{
      {R"({})", {"1", "null", R"({"a":[1.5e3,"\n\ud83d\ude00"]})"}, {"", "nul", R"("\ud83d")", "01", "{a:1}"}},
      {R"({"type":["integer","null"]})", {"0", "-12", "null"}, {"1.5", "-", "00", "true"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["b"],
           "additionalProperties":false})",
       {R"({"b":"x"})", R"({"a":1,"b":"x"})", R"({"a": 1, "b": "x"})"},
       {R"({"b":"x","a":1})", R"({"a":1})", "{}", R"({"b":"x","c":1})", R"({"a":1,"b":"x",})"}},
      {R"({"type":"object","properties":{"ab":{"type":"null"}},"additionalProperties":{"type":"boolean"},
           "required":["z"]})",
       {R"({"ab":null,"z":true})", R"({"z":true,"a":true,"abc":false,"":true})"},
       {R"({"z":true,"ab":true})", R"({"z":true,"\u0061b":true})", R"({"ab":null})", R"({"z":1})"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":1,
           "maxItems":3})",
       {"[1]", R"([1,"a"])", R"([1, "a",null])"},
       {"[]", R"(["a"])", R"([1,"a",null,null])", R"([1,null])"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2})", {"[1,2]", "[1,2,3]"}, {"[]", "[1]", "[1,2"}},
      {R"({"type":"array","prefixItems":[true],"items":false})", {"[]", "[1]"}, {"[1,2]"}},
      {R"({"enum":["a",1,null,{"x":[true]}],"type":["string","object"]})", {"\"a\"", R"({"x":[true]})"}, {"1", "null"}},
      {R"({"const":"a\"\n"})", {R"("a\"\n")"}, {R"("a")"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"string","maxLength":2}]})",
       {"1", "\"ab\"", R"("\u0041é")"},
       {"\"abc\""}},
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":"a"}},"required":["k"],"additionalProperties":false},
           {"type":"object","properties":{"k":{"const":"b"},"n":{"type":"integer"}},"required":["k","n"]}]})",
       {R"({"k":"a"})", R"({"k":"b","n":1})"},
       {R"({"k":"b"})", R"({"k":"a","n":1})"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"minimum":3}}},{"properties":{"a":{"type":"integer","maximum":5}},
           "required":["a"],"additionalProperties":false}]})",
       {R"({"a":3})", R"({"a":5})"},
       {R"({"a":2})", R"({"a":6})", "{}", R"({"a":3,"b":1})"}},
      {R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[
           {"$ref":"#/$defs/n"},{"type":"null"}]}},"required":["v","next"],"additionalProperties":false}}})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1,"next":{"v":2}})"}},
      {R"({"$id":"http://x/y","$ref":"http://x/y#/$defs/a~1b%25","$defs":{"a/b%":{"$anchor":"q","type":"null"},
           "r":{"$ref":"#q"}}})",
       {"null"},
       {"1"}},
      {R"({"type":"string","minLength":2,"maxLength":3})",
       {R"("é\n")", R"("\ud83d\ude00aa")"},
       {R"("a")", R"("aaaa")"}},
      {R"({"type":"string","pattern":"^a[\"x]+$|end$"})", {R"("a\"x")", R"("the end")"}, {R"("ab")", R"("end ")"}},
      {R"({"type":"string","pattern":"b"})", {R"("b")", R"("abc\n")"}, {R"("ac")"}},
      {R"({"type":"string","format":"date"})",
       {R"("2024-02-29")", R"("2000-02-29")", R"("2023-12-31")"},
       {R"("2023-02-29")", R"("1900-02-29")", R"("2023-04-31")", R"("2023-13-01")"}},
      {R"({"type":"string","format":"date-time"})",
       {R"("2024-01-01T23:59:59.5Z")", R"("2024-01-01t00:00:00+02:00")"},
       {R"("2024-01-01")", R"("2024-01-01T24:00:00Z")"}},
      {R"({"type":"string","format":"uuid"})", {R"("2eb8aa08-aa98-11ea-b4aa-73b441d16380")"}, {R"("2eb8")"}},
      {R"({"type":"string","format":"ipv4"})", {R"("192.168.0.1")"}, {R"("256.0.0.1")", R"("1.2.3")", R"("01.2.3.4")"}},
      {R"({"type":"string","format":"email"})", {R"("joe.b@example.com")"}, {R"("joe")", R"(".joe@x")", R"("j..b@x")"}},
      {R"({"type":"number","multipleOf":0.01})", {"1", "-2.5", "0.07"}, {"0.075", "1e3"}},
      {R"({"type":"string","pattern":"^(ab|é)+$","minLength":2,"maxLength":3})",
       {R"("ab")", R"("éé")", R"("abé")", R"("ééé")"},
       {R"("é")", R"("abab")", R"("a")", R"("\u00e9é")"}},
      {R"({"type":"string","format":"date","pattern":"^20|-01$","maxLength":10})",
       {R"("2024-05-07")", R"("1999-02-01")"},
       {R"("1999-02-02")", R"("2024-13-01")"}},
      {R"({"type":"string","format":"ipv6"})",
       {R"("::")", R"("1:2:3:4:5:6:7:8")", R"("::ffff:192.0.2.1")", R"("fe80::a")", R"("1:2:3:4:5:6:7::")"},
       {R"("1:2:3:4:5:6:7")", R"("1::2::3")", R"("12345::")", R"("::256.0.0.1")", R"("fe80::a%1")"}},
      {R"({"type":"string","format":"hostname"})",
       {R"("a")", R"("www.example-1.com")", R"("a1")", R"("0a-b.c")", R"("a--b")"},
       {R"("-a")", R"("a-")", R"("a..b")", R"("a_b")", R"("ab--c")", R"("")", R"("a.")"}},
      {R"({"type":"string","format":"uri"})",
       {R"("http://u:p@[::1]:80/a/%20?q#f")", R"("urn:a:b")", R"("x:")"},
       {R"("/a")", R"("http://a b")", R"("http://a/%2")", R"("1:a")"}},
      {R"({"type":"string","format":"uri-reference"})", {R"("/a")", R"("a/b?c")", R"("")", R"("x:y")"}, {R"("a\b")"}},
      {R"({"type":"string","format":"duration"})",
       {R"("P1Y2M3DT4H5M6S")", R"("PT36H")", R"("P2W")", R"("P1DT12H")"},
       {R"("P")", R"("PT")", R"("P1YT")", R"("P1Y2W")", R"("P1Y2D")"}},
      {R"({"type":"string","format":"json-pointer"})", {R"("")", R"("/a~0b//é")"}, {R"("a")", R"("/~2")"}},
      {R"({"title":"t","description":"d","default":1,"examples":[1],"$schema":"http://json-schema.org/draft-07/schema#","$comment":"c","deprecated":true,
           "readOnly":true,"writeOnly":true,"type":"boolean"})",
       {"true"},
       {"1"}},
  };
  for (const SchemaCase& each : cases) {
    SCOPED_TRACE(each.schema);
    expect_texts(*Grammar::from_json_schema(each.schema, "s"), each.of, each.not_of);
  }
}

TEST(Schema, BoundsOfIntegersAreExact) {
  const std::vector<std::pair<int, int>> ranges{{0, 0}, {-5, 5}, {7, 123}, {99, 1001}, {-1234, -56}, {-100, 9}};
  for (const auto& [low, high] : ranges) {
    for (const int multiple : {1, 3, 10}) {
      const auto both = Grammar::from_json_schema(
          fmt::format(R"({{"type":"integer","minimum":{},"exclusiveMaximum":{},"multipleOf":{}}})", low, high + 1,
                      multiple),
          "s");
      const auto from = Grammar::from_json_schema(
          fmt::format(R"({{"type":"integer","exclusiveMinimum":{},"multipleOf":{}}})", low, multiple), "s");
      const auto to = Grammar::from_json_schema(
          fmt::format(R"({{"type":"integer","maximum":{},"multipleOf":{}}})", high, multiple), "s");
      int any = 0;
      for (int i = -1300; i <= 1100; i += i > -150 && i < 150 ? 1 : 7) {
        const bool fits = i % multiple == 0;
        any += fits && i >= low && i <= high ? 1 : 0;
        EXPECT_EQ(both->matches(fmt::format("{}", i)), fits && i >= low && i <= high) << i << " " << low << " " << high;
        EXPECT_EQ(from->matches(fmt::format("{}", i)), fits && i > low) << i << " above " << low;
        EXPECT_EQ(to->matches(fmt::format("{}", i)), fits && i <= high) << i << " to " << high;
      }
      EXPECT_GT(any, 0);
      EXPECT_FALSE(from->matches("007"));
    }
  }
  const auto widest = Grammar::from_json_schema(R"({"type":"integer","maximum":1152921504606846975})", "s");
  expect_texts(*widest, {"1152921504606846975", "-99999999999999999999999"}, {"1152921504606846976", "-0.5"});
}

// Against the numbers themselves, in thousandths.
TEST(Schema, BoundsOfNumbersAreExact) {
  struct Case {
    std::string bounds;
    std::function<bool(int)> fits;
  };
  const std::vector<Case> cases{
      {R"("minimum":1.1)", [](int x) { return x >= 1100; }},
      {R"("exclusiveMinimum":1.1)", [](int x) { return x > 1100; }},
      {R"("maximum":-0.25,"minimum":-12)", [](int x) { return x >= -12000 && x <= -250; }},
      {R"("exclusiveMinimum":0,"exclusiveMaximum":1)", [](int x) { return x > 0 && x < 1000; }},
      {R"("minimum":-0.5,"maximum":10.125)", [](int x) { return x >= -500 && x <= 10125; }},
      {R"("minimum":1.5,"exclusiveMinimum":1.75,"maximum":3)", [](int x) { return x > 1750 && x <= 3000; }},
      {R"("multipleOf":0.25,"minimum":-1)", [](int x) { return x >= -1000 && x % 250 == 0; }},
      {R"("multipleOf":1.5,"exclusiveMaximum":4.5)", [](int x) { return x < 4500 && x % 1500 == 0; }},
      {R"("multipleOf":0.007)", [](int x) { return x % 7 == 0; }},
      {R"("multipleOf":3,"minimum":2.5)", [](int x) { return x >= 2500 && x % 3000 == 0; }},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.bounds);
    const auto grammar = Grammar::from_json_schema(fmt::format(R"({{"type":"number",{}}})", each.bounds), "s");
    int fit = 0;
    for (int x = -13000; x <= 13000; x += x > -2000 && x < 5000 ? 1 : 25) {
      std::string text = fmt::format("{}{}.{:03}", x < 0 ? "-" : "", std::abs(x) / 1000, std::abs(x) % 1000);
      text.erase(text.find_last_not_of('0') + 1);
      if (text.ends_with('.')) text.pop_back();
      ASSERT_EQ(grammar->matches(text), each.fits(x)) << text;
      fit += each.fits(x) ? 1 : 0;
    }
    EXPECT_GT(fit, 3);
    for (const char* const wrong : {"", "-", "01", "1.", ".5", "1e2", "00.5"}) EXPECT_FALSE(grammar->matches(wrong));
  }
}

TEST(Schema, MultiplesOfLargeNumbers) {
  for (const int multiple : {1024, 2039, 5000, 20000, 204800}) {
    const auto grammar = Grammar::from_json_schema(
        fmt::format(R"({{"type":"integer","multipleOf":{},"minimum":-1000000,"maximum":900000}})", multiple), "s");
    for (int x = -1024000; x <= 1024000; x += 500) {
      const bool fits = x % multiple == 0 && x >= -1000000 && x <= 900000;
      ASSERT_EQ(grammar->matches(fmt::format("{}", x)), fits) << x << " of " << multiple;
    }
    EXPECT_TRUE(grammar->matches(fmt::format("{}", multiple)));
    EXPECT_FALSE(grammar->matches("00"));
  }
  const auto whole = Grammar::from_json_schema(R"({"type":"integer","multipleOf":2.5})", "s");
  expect_texts(*whole, {"5", "-10", "0"}, {"2", "2.5", "7"});
}

TEST(Schema, RefusesByNameAndPlace) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"{", "not valid JSON"},
      {"3", "a schema is number"},
      {R"({"properties":{"a":{"not":{}}}})", "/properties/a: the keyword not is not supported"},
      {R"({"uniqueItems":true})", "uniqueItems"},
      {R"({"patternProperties":{}})", "patternProperties"},
      {R"({"colour":1})", "colour"},
      {R"({"type":"float"})", "type is \"float\""},
      {R"({"format":"iri"})", "the format \"iri\""},
      {R"({"$schema":"http://localhost/own"})", "$schema is \"http://localhost/own\""},
      {R"x({"type":"string","pattern":"(?=a)"})x", "lookahead"},
      {R"({"type":"string","pattern":"b","maxLength":0})", "no text at all"},
      {R"({"type":"string","pattern":"(a|b)*a(a|b){12}","maxLength":9000})", "too large"},
      {R"({"type":"number","multipleOf":0.2049})", "multipleOf is 0.2049"},
      {R"({"type":"integer","multipleOf":20490})", "multipleOf is 20490"},
      {R"({"type":"number","multipleOf":0})", "expected more than 0"},
      {R"({"type":"number","minimum":1e30})", "too large"},
      {R"({"type":"number","exclusiveMaximum":1.2345678901234567})", "more than 15 digits"},
      {R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", "both 0 and 1"},
      {R"({"$ref":"other.json"})", "in another document"},
      {R"({"$ref":"#/$defs/x"})", "does not have"},
      {R"({"$ref":"#nowhere"})", "an anchor"},
      {R"({"$ref":"#"})", "no text at all"},
      {R"({"allOf":[{"$ref":"#"}],"type":"string"})", "too large"},
      {R"({"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"})", "no text at all"},
      {R"({"allOf":[{"pattern":"a"},{"pattern":"b"}]})", "pattern: two different ones"},
      {R"({"items":{"$id":"x","type":"string"}})", "$id"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})", "no text at all"},
      {R"({"minItems":-1})", "minItems is -1"},
      {R"({"maxLength":"3"})", "maxLength is \"3\""},
      {R"(false)", "no text at all"},
      {R"({"enum":[{"a":1}],"properties":{"a":{"$ref":"#"}}})", "too deep in each other"},
  };
  for (const auto& [schema, what] : cases) {
    SCOPED_TRACE(schema);
    expect_refused([&] { Grammar::from_json_schema(schema, "s"); }, what);
  }
}

TEST(Schema, BombsAreRefused) {
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += R"({"items":)";
  expect_refused([&] { Grammar::from_json_schema(deep + "{}" + std::string(1000, '}'), "s"); }, "in each other");
  // Each definition holds the next one several times over, in place.
  std::string bomb = R"({"allOf":[{"$ref":"#/$defs/d0"},{"type":"object"}],"$defs":{)";
  for (int i = 0; i < 20; ++i)
    bomb += fmt::format(R"("d{}":{{"anyOf":[{{"$ref":"#/$defs/d{}"}},{{"$ref":"#/$defs/d{}"}}],"minItems":{}}},)", i,
                        i + 1, i + 1, i);
  expect_refused([&] { Grammar::from_json_schema(bomb + R"("d20":{"maxItems":3}}})", "s"); }, "");
  const char* const counts =
      R"({"type":"array","maxItems":30000,"items":{"type":"array","maxItems":30000,"minItems":30000}})";
  EXPECT_TRUE(Grammar::from_json_schema(counts, "s")->matches("[]"));  // a rule each, not one within the other
}

}  // namespace
}  // namespace metal_marlin
