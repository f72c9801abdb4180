#include "chat_template/json_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "chat_template/failure.h"
#include "metal_marlin/error.h"

namespace metal_marlin::jinja {
namespace {

// Makes values as nlohmann's parser finds them; an object's keys keep their order.
class ValueBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit ValueBuilder(std::string where) : where_(std::move(where)) {}
  Value take() { return std::move(root_); }

  bool null() override { return add(None{}); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<std::uint64_t>(INT64_MAX)) refuse(std::to_string(value));
    return add(static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == text.npos) refuse(text);
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*size*/) override { return open(true); }
  bool start_array(std::size_t /*size*/) override { return open(false); }
  bool key(string_t& value) override {
    open_.back().keys.emplace_back(std::move(value));
    return true;
  }
  bool end_object() override {
    Level level = close();
    Dict::Items items;
    for (std::size_t i = 0; i < level.items.size(); ++i) {
      items.emplace_back(std::move(level.keys[i]), std::move(level.items[i]));
    }
    return add(std::make_shared<const Dict>(std::move(items)));
  }
  bool end_array() override { return add(Value::list(close().items)); }
  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    const std::string what = error.what();
    const std::size_t cause = what.rfind("; ");
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: not JSON at byte {}: {}", where_, position,
                                                         cause == what.npos ? token : what.substr(cause + 2)));
  }

 private:
  struct Level {
    std::vector<Value> keys;
    std::vector<Value> items;
  };
  [[noreturn]] void refuse(const std::string& number) const {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: the integer {} is beyond 64 bits", where_, number));
  }
  bool open(bool /*object*/) {
    if (open_.size() >= kMaxDepth / 2) {
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: nested more than {} deep", where_, kMaxDepth / 2));
    }
    open_.emplace_back();
    return true;
  }
  Level close() {
    Level level = std::move(open_.back());
    open_.pop_back();
    return level;
  }
  bool add(Value value) {
    (open_.empty() ? root_ : open_.back().items.emplace_back()) = std::move(value);
    return true;
  }

  std::string where_;
  Value root_;
  std::vector<Level> open_;
};

void append_escaped(char32_t c, bool ascii, std::string& out) {
  static constexpr std::string_view kNames = "\"\\\n\r\t\b\f";
  static constexpr std::string_view kEscapes = "\"\\nrtbf";
  const std::size_t known = c < 0x80 ? kNames.find(static_cast<char>(c)) : kNames.npos;
  if (known != kNames.npos) {
    out += '\\';
    out += kEscapes[known];
  } else if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) {
    out += fmt::format("\\u{:04x}", static_cast<std::uint32_t>(c));
  } else if (ascii && c >= 0x10000) {
    const std::uint32_t code = static_cast<std::uint32_t>(c) - 0x10000;
    out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF));
  } else {
    append_utf8(c, out);
  }
}

class Writer {
 public:
  explicit Writer(const JsonStyle& style) : style_(style) {}
  std::string take() { return std::move(out_); }

  void write(const Value& value, int level) {
    charge(0);
    check_size(out_.size());
    if (value.is_text()) {
      quote(value.text());
    } else if (value.is<None>()) {
      out_ += "null";
    } else if (const bool* boolean = value.get<bool>()) {
      out_ += *boolean ? "true" : "false";
    } else if (value.is_number()) {
      out_ += number(value);
    } else if (const auto* items = value.object<Sequence>()) {
      write_list(items->items, level);
    } else if (const auto* dict = value.object<Dict>()) {
      write_dict(*dict, level);
    } else {
      python_error("Object of type {} is not JSON serializable", type_name(value));
    }
  }

 private:
  static std::string number(const Value& value) {
    if (value.is_integer()) return std::to_string(value.integer());
    const std::string text = repr_double(value.number());
    return text == "nan" ? "NaN" : text == "inf" ? "Infinity" : text == "-inf" ? "-Infinity" : text;
  }

  void quote(std::string_view text) {
    out_ += '"';
    for (std::size_t at = 0; at < text.size();) append_escaped(next_character(text, at), style_.ascii, out_);
    out_ += '"';
  }

  void new_line(int level) {
    if (style_.indent == nullptr) return;
    out_ += '\n';
    check_size(style_.indent->size() * static_cast<std::size_t>(level));
    for (int i = 0; i < level; ++i) out_ += *style_.indent;
  }

  void write_list(const std::vector<Value>& items, int level) {
    out_ += '[';
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    if (!items.empty()) new_line(level);
    out_ += ']';
  }

  void write_dict(const Dict& dict, int level) {
    Dict::Items items = dict.items();
    if (style_.sorted) {
      std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    out_ += '{';
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write_key(items[i].first);
      out_ += style_.key_separator;
      write(items[i].second, level + 1);
    }
    if (!items.empty()) new_line(level);
    out_ += '}';
  }

  void write_key(const Value& key) {
    if (key.is_text()) {
      quote(key.text());
    } else if (key.is<None>() || key.is_number()) {
      out_ += '"';
      write(key, 0);
      out_ += '"';
    } else {
      python_error("keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

Value parse_json_value(std::string_view text, const std::string& where) {
  ValueBuilder builder(where);
  nlohmann::json::sax_parse(text, &builder);
  return builder.take();
}

std::string write_json_value(const Value& value, const JsonStyle& style) {
  Writer writer(style);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace metal_marlin::jinja
