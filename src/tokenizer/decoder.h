// Turns the spelling of tokens back into text, as the `decoder` of a tokenizer.json says.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/regex.h"
#include "io/json.h"

namespace metal_marlin {

class Decoder {
 public:
  static Decoder parse(const Json& json, const std::string& where);
  // Spaces before English punctuation go from the text that the stages make.
  void clean_up_text() { clean_up_ = true; }

  // One text as its tokens arrive. A stage holds back what later tokens may still change.
  class Stream {
   public:
    virtual ~Stream() = default;
    virtual void push(std::string token) = 0;
    virtual void finish() = 0;
  };
  // Appends to `out`, which must outlive the stream as this must.
  [[nodiscard]] std::unique_ptr<Stream> stream(std::string& out) const;
  // What a token adds to a text that has begun, where that depends on nothing else.
  // \throws Error (kUnsupported) naming the stage that makes it depend on other tokens.
  [[nodiscard]] std::string bytes_of(std::string token) const;

  struct ByteLevel {};
  struct ByteFallback {};
  struct Fuse {};
  struct Spaces {};  // the reference's way without a decoder: tokens with spaces between them
  struct Replace {
    Regex pattern;
    std::string content;
  };
  struct Strip {
    std::string content;
    std::size_t start;
    std::size_t stop;
  };
  struct Metaspace {
    std::string replacement;
    bool drop_first;
  };
  struct WordPiece {
    std::string prefix;
    bool cleanup;
  };
  struct Bpe {
    std::string suffix;
  };
  struct Ctc {
    std::string pad;
    std::string delimiter;
    bool cleanup;
  };
  using Step = std::variant<ByteLevel, ByteFallback, Fuse, Spaces, Replace, Strip, Metaspace, WordPiece, Bpe, Ctc>;

 private:
  static Step make(const JsonObject& json);
  std::vector<Step> steps_;
  bool clean_up_ = false;
};

}  // namespace metal_marlin
