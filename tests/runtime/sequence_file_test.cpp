// Sequences in files: what goes on from them, and what is refused.
#include "metal_marlin/sequence_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "backends/registry.h"
#include "io/file_write.h"
#include "io/mapped_file.h"
#include "runtime/sequence_file.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

struct AskedModel {
  std::string model = "qwen3-tiny";
  std::string backend = "cpu";
  std::string cache = "f16";
  std::vector<AdapterOptions> adapters = {};
  bool exact = true;
};

std::shared_ptr<const Model> load_asked(const AskedModel& asked) {
  LoadOptions options;
  options.exact = asked.exact;
  options.kv_cache = asked.cache;
  options.backend = asked.backend;
  options.threads = 1;
  options.adapters = asked.adapters;
  return Model::load(test_data("fixtures") / asked.model, options);
}

std::vector<TokenId> talk_tokens(std::size_t count) {
  std::vector<TokenId> out;
  for (std::size_t i = 0; i < count; ++i) out.push_back(static_cast<TokenId>((i * 37 + 11) % 180));
  return out;
}

SessionOptions talk_session() {
  SessionOptions out;
  out.max_sequences = 2;
  out.cache_tokens = 128;
  out.batch_tokens = 64;
  out.prefix_cache = true;
  return out;
}

std::vector<float> talk_logits(Session& session, SequenceId sequence) {
  std::vector<float> out;
  session.step(std::array{SequenceInput{sequence, std::array<TokenId, 1>{7}}}, [&](std::span<const LogitsRow> rows) {
    out.assign(rows.back().values.begin(), rows.back().values.end());
  });
  return out;
}

// Writes a file of 37 tokens. Returns the logits after one more.
std::vector<float> write_talk(const std::filesystem::path& path, const std::shared_ptr<const Model>& model,
                              const std::string& adapter = "", std::size_t count = 37) {
  Session session(model, talk_session());
  const SequenceId sequence = session.open(adapter);
  session.step(std::array{SequenceInput{sequence, talk_tokens(count), kNoLogits}}, {});
  write_sequence(path, session.save(sequence), *model);
  return talk_logits(session, sequence);
}

// In a session and a model of their own, as in another run of a program.
void expect_goes_on(const std::filesystem::path& path, const AskedModel& asked, const std::string& adapter,
                    const std::vector<float>& expected) {
  SCOPED_TRACE(asked.model + " " + asked.backend + " " + asked.cache + " " + adapter);
  const auto model = load_asked(asked);
  const SavedSequence saved = read_sequence(path, *model);
  EXPECT_EQ(saved.tokens, talk_tokens(37));
  EXPECT_EQ(saved.adapter, adapter);
  Session session(model, talk_session());
  const SequenceId sequence = session.open(adapter);
  session.restore(sequence, saved);
  EXPECT_EQ(session.length(sequence), 37);
  EXPECT_EQ(talk_logits(session, sequence), expected);
  session.close(sequence);
  const SequenceId other = session.open(adapter);
  EXPECT_EQ(session.reuse(other, talk_tokens(60)), 32);  // the full pages
}

TEST(SequenceFiles, GoOnToTheLastBitOnEveryBackendWithEveryCache) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sequence";
  for (const std::string& backend : available_backends()) {
    for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny"}) {
      for (const char* const cache : {"f16", "f32", "fp8", "int8", "int4", "fp4"}) {
        const AskedModel asked{name, backend, cache};
        expect_goes_on(path, asked, "", write_talk(path, load_asked(asked)));
      }
    }
  }
}

TEST(SequenceFiles, AreOfOneAdapterWhateverItIsCalled) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sequence";
  const auto adapter = test_data("adapters/llama-tiny-patterns");
  for (const std::string& backend : available_backends()) {
    const AskedModel asked{"llama-tiny", backend, "f16", {{"half", adapter, 0.5}, {"one", adapter, 1}}};
    const std::vector<float> expected = write_talk(path, load_asked(asked), "one");
    expect_goes_on(path, asked, "one", expected);
    expect_goes_on(path, {"llama-tiny", backend, "f16", {{"uno", adapter, 1}}}, "uno", expected);
    expect_error(ErrorCode::kInvalidArgument, "a sequence with the adapter one (", [&] {
      read_sequence(path, *load_asked({"llama-tiny", backend, "f16", {{"one", adapter, 0.5}}}));
    });
    expect_error(ErrorCode::kInvalidArgument, "there is none", [&] {
      read_sequence(path, *load_asked({"llama-tiny", backend}));
    });
    // Without one, of a model that has some.
    const auto none = folder.path() / "none";
    const std::vector<float> without = write_talk(none, load_asked(asked));
    EXPECT_NE(without, expected);
    expect_goes_on(none, {"llama-tiny", backend}, "", without);
  }
}

TEST(SequenceFiles, OfAnotherModelAreRefusedByName) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sequence";
  write_talk(path, load_asked({}));
  const auto refused = [&](const std::string& what, const std::shared_ptr<const Model>& model) {
    expect_error(ErrorCode::kInvalidArgument, what, [&] { read_sequence(path, *model); });
  };
  refused("kv_cache is f16, expected int8", load_asked({"qwen3-tiny", "cpu", "int8"}));
  for (const std::string& backend : available_backends()) {
    if (backend != "cpu") refused("page_layout is cpu, 16 tokens in", load_asked({"qwen3-tiny", backend}));
  }
  refused("activations is exact, expected rounded", load_asked({"qwen3-tiny", "cpu", "f16", {}, false}));
  refused("architecture is qwen3, expected llama", load_asked({"llama-tiny"}));
  // The same but for one weight, by a little, in one of its layers.
  const auto other = folder.path() / "other";
  std::filesystem::copy(test_data("fixtures/qwen3-tiny"), other, std::filesystem::copy_options::recursive);
  LoadOptions options;
  options.exact = true;
  options.kv_cache = "f16";
  options.threads = 1;
  EXPECT_EQ(read_sequence(path, *Model::load(other, options)).length, 37);
  std::vector<std::byte> bytes;
  const auto weights = other / "model.safetensors";
  {
    const SafetensorsFile file(weights);
    const DenseView& view = file.tensors().at("model.layers.1.mlp.down_proj.weight");
    const MappedFile whole(weights);
    bytes.assign(whole.bytes().begin(), whole.bytes().end());
    const auto at = std::search(bytes.begin(), bytes.end(), view.bytes.begin(), view.bytes.end());
    ASSERT_NE(at, bytes.end());
    // The lowest bit of each element, as training does.
    for (std::size_t i = 0; i < view.bytes.size(); i += dtype_bytes(view.dtype))
      at[static_cast<std::ptrdiff_t>(i)] ^= std::byte{1};
  }
  write_file_atomically(weights, bytes);
  refused("a sequence of another model: weights is ", Model::load(other, options));
}

TEST(SequenceFiles, AreForTheirOwnerAloneAndReplacedWhole) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sequence";
  const auto model = load_asked({});
  const mode_t before = umask(0);
  write_talk(path, model);
  umask(before);
  struct stat status {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  write_talk(path, model, "", 20);
  EXPECT_EQ(read_sequence(path, *model).length, 20);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  expect_error(ErrorCode::kNotFound, "sequence", [&] { read_sequence(folder.path() / "no-sequence", *model); });
  expect_error(ErrorCode::kIo, "not a regular file", [&] { read_sequence(folder.path(), *model); });
  expect_error(ErrorCode::kIo, "cannot", [&] { write_talk(folder.path() / "no" / "folder", model); });
  // A session that does not know the tokens.
  Session session(model, {1, 64});
  const SequenceId sequence = session.open();
  session.step(std::array{SequenceInput{sequence, talk_tokens(5), kNoLogits}}, {});
  expect_error(ErrorCode::kInvalidArgument, "a sequence of 5 tokens of which 0 are known",
               [&] { write_sequence(path, session.save(sequence), *model); });
  EXPECT_EQ(read_sequence(path, *model).length, 20);
}

// Cut anywhere, or one bit flipped anywhere: an error, or, in what the reader has no use for, the same sequence.
TEST(SequenceFiles, CutOrChangedAreErrors) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sequence";
  const auto model = load_asked({});
  write_talk(path, model);
  const SavedSequence whole = read_sequence(path, *model);
  const MappedFile file(path);
  const std::vector<std::byte> bytes(file.bytes().begin(), file.bytes().end());
  const auto changed = folder.path() / "changed";
  const auto is_refused = [&](std::span<const std::byte> content) {
    write_and_sync(changed, content);
    try {
      const SavedSequence found = read_sequence(changed, *model);
      EXPECT_EQ(found.tokens, whole.tokens);
      EXPECT_TRUE(std::equal(found.bytes.get(), found.bytes.get() + found.size, whole.bytes.get(),
                             whole.bytes.get() + whole.size));
      return false;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kCorruptFile || error.code() == ErrorCode::kInvalidArgument ||
                  error.code() == ErrorCode::kUnsupported || error.code() == ErrorCode::kNotFound)
          << error.what();
      return true;
    }
  };
  for (std::size_t size = 0; size < bytes.size(); size += size < 2000 ? 97 : 1999)
    EXPECT_TRUE(is_refused(std::span(bytes).first(size))) << size;
  const std::size_t data = bytes.size() - whole.size - 4 * whole.tokens.size();
  for (std::size_t at = 0; at < bytes.size(); at += at < data + 8 ? 3 : 499) {
    std::vector<std::byte> flipped = bytes;
    flipped[at] ^= std::byte{1} << (at % 8);
    const bool refused = is_refused(flipped);
    if (at >= data) {
      EXPECT_TRUE(refused) << at;
    }
  }
}

// Files whose checksum is right: written on purpose.
TEST(SequenceFiles, MadeUpOnesAreRefused) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "sequence";
  const auto model = load_asked({});
  write_talk(path, model);
  const auto write = [&](const auto& change) {
    SavedSequence saved = read_sequence(path, *model);
    change(saved);
    write_sequence(folder.path() / "made-up", saved, *model);
    read_sequence(folder.path() / "made-up", *model);
  };
  expect_error(ErrorCode::kCorruptFile, "token id -1 is outside the vocabulary of",
               [&] { write([](SavedSequence& saved) { saved.tokens[5] = -1; }); });
  expect_error(ErrorCode::kCorruptFile, "token id 1000000 is outside the vocabulary of",
               [&] { write([](SavedSequence& saved) { saved.tokens[5] = 1000000; }); });
  expect_error(ErrorCode::kCorruptFile, "37 tokens with ", [&] { write([](SavedSequence& saved) { --saved.size; }); });
  // Pages of what is no number: the step says so.
  SavedSequence saved = read_sequence(path, *model);
  std::fill_n(saved.bytes.get(), saved.size, std::byte{0xFF});
  write_sequence(folder.path() / "nan", saved, *model);
  Session session(model, talk_session());
  const SequenceId sequence = session.open();
  session.restore(sequence, read_sequence(folder.path() / "nan", *model));
  expect_error(ErrorCode::kCorruptFile, "not finite", [&] { talk_logits(session, sequence); });
  expect_error(ErrorCode::kCorruptFile, "other: format pt, expected metal-marlin sequence", [&] {
    const MappedFile other(test_data("fixtures/qwen3-tiny/model.safetensors"));
    ModelIdentity none;
    parse_sequence(other.bytes(), none, "other");
  });
}

TEST(SequenceFiles, EachOfTheCorpusIsRefusedForItsFault) {
  ModelIdentity model;
  model.fields = {{"architecture", "qwen3"}, {"kv_cache", "f16"}};
  model.adapters = {{"two", "0123456789abcdef"}};
  model.vocab = 100;
  model.page_bytes = 8;
  const auto parse = [&](const std::string& name) {
    const MappedFile file(test_data("../fuzz/corpus/sequence") / name);
    return parse_sequence(file.bytes(), model, name);
  };
  EXPECT_EQ(parse("good").length, 17);
  EXPECT_EQ(parse("good").adapter, "two");
  EXPECT_EQ(parse("no_adapter").adapter, "");
  expect_error(ErrorCode::kInvalidArgument, "architecture is llama\\x1b[31m, expected qwen3",
               [&] { parse("other_model"); });
  expect_error(ErrorCode::kInvalidArgument,
               "the adapter one (00), which was not loaded; there is two (0123456789abcdef)",
               [&] { parse("other_adapter"); });
  expect_error(ErrorCode::kUnsupported, "version 2 of a sequence's file, expected 1", [&] { parse("version_2"); });
  expect_error(ErrorCode::kCorruptFile, "the checksum is another", [&] { parse("checksum"); });
  expect_error(ErrorCode::kCorruptFile, "token id 100 is outside the vocabulary of 100", [&] { parse("token"); });
  expect_error(ErrorCode::kCorruptFile, "2 tokens with 16 bytes of pages, expected 8", [&] { parse("pages"); });
  expect_error(ErrorCode::kCorruptFile, "0 tokens with 0 bytes of pages, expected some", [&] { parse("empty"); });
  expect_error(ErrorCode::kCorruptFile, "expected a list of I32", [&] { parse("shape"); });
  expect_error(ErrorCode::kCorruptFile, "it has no field kv_cache", [&] { parse("no_cache_type"); });
  expect_error(ErrorCode::kCorruptFile, "field format", [&] { parse("metadata_number"); });
  expect_error(ErrorCode::kCorruptFile, "field __metadata__", [&] { parse("metadata_list"); });
}

}  // namespace
}  // namespace metal_marlin
