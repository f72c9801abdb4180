#include "server/grammar_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

using Kind = GrammarText::Kind;

class GrammarReader {
 public:
  explicit GrammarReader(Fields& fields) : fields_(fields) {}

  // OpenAI's, in chats {"type", "json_schema": {"name", "schema"}}.
  void read_response_format() {
    auto format = fields_.object("response_format");
    if (!format) return;
    const std::string type = read_type(*format);
    if (type == "json_object") {
      // As llama.cpp and others have it: a schema beside it.
      if (format->find("schema") != nullptr) {
        add_schema(*format, "schema", false);
      } else {
        add(Kind::kJsonObject, "", format->name_of("type"));
      }
    } else if (type == "json_schema") {
      auto named = format->object("json_schema");
      if (!named) format->wrong("json_schema", "an object with a schema");
      read_named_schema(*named);
      named->refuse_others({});
    }
    format->refuse_others({});
  }

  // OpenAI's, in responses {"format": {"type", "name", "schema"}}.
  void read_text() {
    auto text = fields_.object("text");
    if (!text) return;
    constexpr std::array<std::string_view, 1> harmless = {"verbosity"};
    if (auto format = text->object("format")) {
      const std::string type = read_type(*format);
      if (type == "json_object") add(Kind::kJsonObject, "", format->name_of("type"));
      if (type == "json_schema") read_named_schema(*format);
      format->refuse_others({});
    }
    text->refuse_others(harmless);
  }

  // Anthropic's: {"type": "json_schema", "schema"}, in output_config or, before it was there, beside everything.
  void read_output_format() {
    constexpr std::array<std::string_view, 1> types = {"json_schema"};
    const auto read = [&](Fields& fields, const char* key) {
      auto format = fields.object(key);
      if (!format) return;
      format->choice("type", types);
      read_named_schema(*format);
      format->refuse_others({});
    };
    read(fields_, "output_format");
    auto output = fields_.object("output_config");
    if (!output) return;
    read(*output, "format");
    output->text("effort");  // templates are told
    output->refuse_others({});
  }

  void read_others() {
    add_schema(fields_, "guided_json", true);
    add_text(fields_, "guided_regex", Kind::kRegex);
    add_choice(fields_, "guided_choice");
    add_text(fields_, "guided_grammar", Kind::kGbnf);
    add_schema(fields_, "json_schema", false);
    add_text(fields_, "grammar", Kind::kGbnf);
    auto outputs = fields_.object("structured_outputs");
    if (!outputs) return;
    add_schema(*outputs, "json", true);
    add_text(*outputs, "regex", Kind::kRegex);
    add_choice(*outputs, "choice");
    add_text(*outputs, "grammar", Kind::kGbnf);
    if (outputs->boolean("json_object", false)) add(Kind::kJsonObject, "", outputs->name_of("json_object"));
    outputs->refuse_others({});
  }

  [[nodiscard]] std::optional<GrammarText> found() { return std::move(found_); }

 private:
  static std::string read_type(Fields& format) {
    constexpr std::array<std::string_view, 3> types = {"text", "json_object", "json_schema"};
    std::string type = format.text("type").value_or("");
    if (std::find(types.begin(), types.end(), type) == types.end())
      format.wrong("type", "text, json_object or json_schema");
    return type;
  }

  // Answers are always of the schema, strict or not.
  void read_named_schema(Fields& named) {
    named.text("name");
    named.text("description");
    named.boolean("strict", false);
    if (named.find("schema") == nullptr) named.wrong("schema", "a JSON Schema");
    add_schema(named, "schema", false);
  }

  void add(Kind kind, std::string text, std::string field) {
    if (found_) throw conflict(fmt::format("{} and {}: an answer is held to one of them", found_->field, field), field);
    found_ = GrammarText{kind, std::move(text), std::move(field)};
  }

  // `as_text`: it may also be JSON in a text.
  void add_schema(Fields& fields, const char* key, bool as_text) {
    const OrderedJson* const value = fields.find(key);
    if (value == nullptr) return;
    if (as_text && value->is_string()) return add(Kind::kSchema, value->get<std::string>(), fields.name_of(key));
    if (!value->is_object() && !value->is_boolean()) fields.wrong(key, "a JSON Schema");
    add(Kind::kSchema, json_text(*value), fields.name_of(key));
  }

  void add_text(Fields& fields, const char* key, Kind kind) {
    auto text = fields.text(key);
    if (text && text->empty()) fields.wrong(key, "a text that is not empty");
    if (text) add(kind, std::move(*text), fields.name_of(key));
  }

  void add_choice(Fields& fields, const char* key) {
    const OrderedJson* const value = fields.find(key);
    if (value == nullptr) return;
    const auto is_text = [](const OrderedJson& item) {
      return item.is_string() && !item.get_ref<const std::string&>().empty();
    };
    if (!value->is_array() || value->empty() || !std::all_of(value->begin(), value->end(), is_text))
      fields.wrong(key, "a list of texts that are not empty");
    add(Kind::kChoice, json_text(*value), fields.name_of(key));
  }

  Fields& fields_;
  std::optional<GrammarText> found_;
};

}  // namespace

std::optional<GrammarText> read_grammar(Fields& fields) {
  GrammarReader reader(fields);
  reader.read_response_format();
  reader.read_others();
  return reader.found();
}

std::optional<GrammarText> read_message_grammar(Fields& fields) {
  GrammarReader reader(fields);
  reader.read_output_format();
  reader.read_others();
  return reader.found();
}

std::optional<GrammarText> read_response_grammar(Fields& fields) {
  GrammarReader reader(fields);
  reader.read_text();
  reader.read_others();
  return reader.found();
}

}  // namespace metal_marlin::server
