// Folders as people have them, and as attackers make them.
#include "io/model_folder.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "io/checkpoint.h"
#include "io/file_kind.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& text = "x") {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::vector<std::string> names(const std::vector<fs::path>& files) {
  std::vector<std::string> out;
  for (const fs::path& file : files) out.push_back(file.filename().string());
  return out;
}

using Names = std::vector<std::string>;

TEST(ModelFolder, FindsTheWeights) {
  const TemporaryFolder temporary;
  const fs::path f = temporary.path();
  write(f / "model-00001-of-00002.safetensors");
  expect_error(ErrorCode::kNotFound, "model-00002-of-00002.safetensors (part 2 of 2) is missing",
               [&] { weight_files(f); });
  write(f / "model-00002-of-00002.safetensors");
  const Names set{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  EXPECT_EQ(names(weight_files(f)), set);
  // An index of shards that are not there is stale.
  write(f / "model.safetensors.index.json", R"({"weight_map": {"a": "model-00001-of-00003.safetensors"}})");
  EXPECT_EQ(names(weight_files(f)), set);
  fs::remove(f / "model-00002-of-00002.safetensors");
  expect_error(ErrorCode::kNotFound, "shard model-00001-of-00003.safetensors (part 1 of 3), which",
               [&] { weight_files(f); });
  write(f / "model.safetensors");  // counts before the index
  EXPECT_EQ(names(weight_files(f)), Names{"model.safetensors"});
}

TEST(ModelFolder, TakesTheOnlyFile) {
  const TemporaryFolder temporary;
  write(temporary.path() / "weights.safetensors");
  EXPECT_EQ(names(weight_files(temporary.path())), Names{"weights.safetensors"});
  write(temporary.path() / "adapter.safetensors");
  expect_error(ErrorCode::kNotFound, "holds 2 safetensors files that are no parts",
               [&] { weight_files(temporary.path()); });
}

TEST(ModelFolder, SaysWhatItHoldsInstead) {
  for (const auto& [file, code, text] : std::initializer_list<std::tuple<const char*, ErrorCode, const char*>>{
           {"pytorch_model.bin", ErrorCode::kUnsupported, "holds pytorch_model.bin, PyTorch's pickled weights"},
           {"model-q4.gguf", ErrorCode::kNotFound, "holds GGUF files: name one of them, such as model-q4.gguf"},
           {"weights.npz", ErrorCode::kUnsupported, "holds weights.npz"},
           {"readme.md", ErrorCode::kNotFound, "no model.safetensors and no shards"}}) {
    const TemporaryFolder temporary;
    write(temporary.path() / file);
    expect_error(code, text, [&] { weight_files(temporary.path()); });
  }
}

// Folders without a config.json, and adapters.
TEST(ModelFolder, SaysWhatItLacks) {
  const TemporaryFolder temporary;
  const fs::path f = temporary.path();
  expect_error(ErrorCode::kNotFound, "no config.json: not a model's folder", [&] { open_checkpoint(f); });
  write(f / "params.json");
  expect_error(ErrorCode::kNotFound, "holds params.json", [&] { open_checkpoint(f); });
  write(f / "m-Q4_0.gguf");
  expect_error(ErrorCode::kNotFound, "name one of them, such as m-Q4_0.gguf", [&] { open_checkpoint(f); });
  write(f / "adapter_config.json");
  write(f / "adapter_model.safetensors");
  expect_error(ErrorCode::kUnsupported, "holds an adapter", [&] { open_checkpoint(f); });
  expect_error(ErrorCode::kUnsupported, "merge it into its model first", [&] { weight_files(f); });
}

TEST(ModelFolder, NamesDoNotLeaveIt) {
  const TemporaryFolder temporary;
  const fs::path f = temporary.path() / "model";
  write(f / "a");
  for (const char* const name : {"../a", "/etc/passwd", "..", ".", "", "sub/a", "a/"})
    expect_error(ErrorCode::kCorruptFile, "leaves the folder", [&] { file_in(f, name); });
  for (const char* const name : {"../secret.safetensors", "/etc/passwd"}) {
    write(f / "model.safetensors.index.json", fmt::format(R"({{"weight_map": {{"a": "{}"}}}})", name));
    expect_error(ErrorCode::kCorruptFile, "leaves the folder", [&] { weight_files(f); });
  }
  write(temporary.path() / "secret");
  fs::create_symlink("../secret", f / "link");
  expect_error(ErrorCode::kCorruptFile, "links out of it", [&] { file_in(f, "link"); });
  expect_error(ErrorCode::kCorruptFile, "copy the file into the folder, or name the folder that it lies in",
               [&] { file_in(f, "link"); });
  fs::create_symlink("a", f / "inner");
  EXPECT_EQ(file_in(f, "inner"), f / "inner");
}

TEST(ModelFolder, JsonThatIsEmptyIsNamed) {
  const TemporaryFolder folder;
  for (const char* const name : {"tokenizer.json", "chat_template.jinja"}) write(folder.path() / name, "");
  expect_error(ErrorCode::kCorruptFile, "tokenizer.json: is empty", [&] { text_in(folder.path(), "tokenizer.json"); });
  EXPECT_EQ(text_in(folder.path(), "chat_template.jinja"), "");
  expect_error(ErrorCode::kCorruptFile, "tokenizer.json: is empty",
               [&] { static_cast<void>(Tokenizer::load(folder.path())); });
}

TEST(ModelFolder, LinksOfAHubsCacheAreFine) {
  const TemporaryFolder temporary;
  const fs::path cache = temporary.path() / "models--org--name";
  const fs::path f = cache / "snapshots" / "abc";
  write(cache / "blobs" / "0123");
  write(temporary.path() / "secret");
  fs::create_directories(f);
  fs::create_symlink("../../blobs/0123", f / "model.safetensors");
  fs::create_symlink("../../../secret", f / "config.json");
  EXPECT_EQ(names(weight_files(f)), Names{"model.safetensors"});
  expect_error(ErrorCode::kCorruptFile, "links out of it", [&] { file_in(f, "config.json"); });
}

TEST(ModelFolder, NumberedParts) {
  EXPECT_EQ(numbered_parts("m-00002-of-00003.gguf"),
            (Names{"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}));
  for (const char* const name : {"m.gguf", "m-of-3.gguf", "m-00004-of-00003.gguf", "m-1-of-9999999.gguf", "m-1-of-0.x"})
    EXPECT_TRUE(numbered_parts(name).empty()) << name;
}

TEST(FileKind, TellsTheCause) {
  const auto kind = [](const std::string& text) { return foreign_kind(std::as_bytes(std::span(text))); };
  EXPECT_NE(kind("version https://git-lfs.github.com/spec/v1\noid sha256:00").find("Git LFS pointer"),
            std::string::npos);
  EXPECT_NE(kind("\n <!DOCTYPE html><html>").find("a web page"), std::string::npos);
  EXPECT_NE(kind(std::string("PK\x03\x04", 4)).find("zip"), std::string::npos);
  EXPECT_NE(kind("lmgg").find("GGML file from before GGUF"), std::string::npos);
  EXPECT_EQ(kind("{}"), "");
  EXPECT_EQ(kind(""), "");
}

// Texts are the causes of files that should be none.
TEST(FileKind, TextsAreNamedWhereNoneIsExpected) {
  const auto refuse = [](const std::string& text, bool expected) {
    refuse_foreign(std::as_bytes(std::span(text)), "f", expected);
  };
  expect_error(ErrorCode::kCorruptFile, R"(f: is a text that begins '{"error": "none"}', not the file itself)",
               [&] { refuse("{\"error\": \"none\"}\nmore", false); });
  expect_error(ErrorCode::kCorruptFile, "f: is empty", [&] { refuse("", false); });
  expect_error(ErrorCode::kCorruptFile, "f: is a safetensors file",
               [&] { refuse(std::string("\x40\0\0\0\0\0\0\0{\"a\"", 12), false); });
  EXPECT_NO_THROW(refuse("{\"error\": 1", true));
  EXPECT_NO_THROW(refuse(std::string("\x01\x02\x03", 3), false));
}

// Each of a model's files may be such a thing.
TEST(FileKind, IsToldWhereItIsFound) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
  const TemporaryFolder temporary;
  const fs::path f = temporary.path();
  write(f / "config.json", pointer);
  write(f / "model.safetensors", pointer);
  write(f / "model.gguf", "<!doctype html><html></html>");
  expect_error(ErrorCode::kCorruptFile, "config.json: is a Git LFS pointer", [&] { open_checkpoint(f); });
  write(f / "config.json", "{}");
  expect_error(ErrorCode::kCorruptFile, "model.safetensors: is a Git LFS pointer", [&] { open_checkpoint(f); });
  expect_error(ErrorCode::kCorruptFile, "model.gguf: is a web page", [&] { open_checkpoint(f / "model.gguf"); });
  write(f / "model.onnx", pointer);
  expect_error(ErrorCode::kCorruptFile, "model.onnx: is a Git LFS pointer", [&] { open_checkpoint(f / "model.onnx"); });
  fs::remove(f / "model.onnx");
  expect_error(ErrorCode::kInvalidArgument, "name the folder that holds it",
               [&] { open_checkpoint(f / "model.safetensors"); });
}

}  // namespace
}  // namespace metal_marlin
