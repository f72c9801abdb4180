#include "io/safetensors.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "io/file_write.h"
#include "io/json.h"
#include "io/output_folder.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  std::vector<float> a(6);
  std::iota(a.begin(), a.end(), 0.5F);
  const std::vector<std::uint8_t> b{1, 2, 3};
  SafetensorsWriter writer(path, {{"a", DType::kF32, {2, 3}}, {"b", DType::kU8, {3}}, {"none", DType::kI64, {0, 5}}});
  writer.write(std::as_bytes(std::span(a)));
  writer.write(std::as_bytes(std::span(b)));
  writer.finish();
  const SafetensorsFile file(path);
  EXPECT_EQ(read_tensor<float>(file, "a"), a);
  EXPECT_EQ(read_tensor<std::uint8_t>(file, "b"), b);
  EXPECT_EQ(file.tensors().at("a").shape, (Shape{2, 3}));
  EXPECT_TRUE(file.tensors().at("none").bytes.empty());
  // Data is aligned for every element type.
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensors().at("a").bytes.data()) % 8, 0U);
}

TEST(Safetensors, WriterRefusesToFinishEarlyOrToOverflow) {
  const TemporaryFolder folder;
  const std::vector<std::byte> bytes(20);
  SafetensorsWriter writer(folder.path() / "x", {{"a", DType::kF32, {4}}});
  expect_error(ErrorCode::kInternal, "more data than planned", [&] { writer.write(bytes); });
  expect_error(ErrorCode::kInternal, "16 planned bytes were not written", [&] { writer.finish(); });
}

TEST(Safetensors, MetadataIsReadBack) {
  const TemporaryFolder folder;
  const std::map<std::string, std::string> metadata{{"kind", "a \"kind\""}, {"empty", ""}};
  SafetensorsOptions options;
  options.metadata = metadata;
  SafetensorsWriter(folder.path() / "x", {{"none", DType::kF32, {0}}}, options).finish();
  const MappedFile file(folder.path() / "x");
  EXPECT_EQ(parse_safetensors_metadata(file.bytes(), "x"), metadata);
  EXPECT_EQ(parse_safetensors(file.bytes(), "x").size(), 1U);
  const auto corpus = test_data("../fuzz/corpus");
  const auto parse = [&](const char* name) {
    return parse_safetensors_metadata(MappedFile(corpus / name).bytes(), name);
  };
  EXPECT_EQ(parse("safetensors/good").count("kind"), 0U);
  expect_error(ErrorCode::kCorruptFile, "header of 1152921504606846976 bytes",
               [&] { parse("safetensors/huge_header"); });
  expect_error(ErrorCode::kCorruptFile, "__metadata__: field format", [&] { parse("sequence/metadata_number"); });
  expect_error(ErrorCode::kCorruptFile, "field __metadata__ is", [&] { parse("sequence/metadata_list"); });
}

TEST(Safetensors, BadFilesAreRefusedByName) {
  const auto folder = test_data("../fuzz/corpus/safetensors");
  const auto parse = [&](const char* name) {
    const MappedFile file(folder / name);
    return parse_safetensors(file.bytes(), name);
  };
  EXPECT_EQ(parse("good").size(), 1U);
  expect_error(ErrorCode::kCorruptFile, "tensors a and b overlap", [&] { parse("overlap"); });
  expect_error(ErrorCode::kCorruptFile, "tensor a: data_offsets [8, 24]", [&] { parse("past_end"); });
  expect_error(ErrorCode::kCorruptFile, "header of 1152921504606846976 bytes", [&] { parse("huge_header"); });
  expect_error(ErrorCode::kCorruptFile, "tensor a: shape", [&] { parse("huge_shape"); });
  expect_error(ErrorCode::kCorruptFile, "tensor a: field shape", [&] { parse("negative"); });
  expect_error(ErrorCode::kCorruptFile, "unknown dtype F7", [&] { parse("bad_dtype"); });
  expect_error(ErrorCode::kCorruptFile, "not valid JSON", [&] { parse("not_json"); });
  expect_error(ErrorCode::kCorruptFile, "expected an object", [&] { parse("array"); });
  expect_error(ErrorCode::kCorruptFile, "too short", [&] { parse_safetensors({}, "x"); });
}

void write_file(const std::filesystem::path& path, const std::vector<TensorPlan>& plan) {
  SafetensorsWriter writer(path, plan);
  for (const TensorPlan& tensor : plan) writer.write(std::vector<std::byte>(tensor.bytes()));
  writer.finish();
}

TEST(SafetensorsFolder, ReadsShardsAndNamesWhatIsMissing) {
  const TemporaryFolder folder;
  write_file(folder.path() / "one.safetensors", {{"a", DType::kF32, {4}}});
  const auto write_index = [&](const Json& map) {
    write_file_atomically(folder.path() / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  };
  write_index({{"a", "one.safetensors"}, {"b", "two.safetensors"}});
  expect_error(ErrorCode::kNotFound, "shard two.safetensors, which model.safetensors.index.json names, is missing",
               [&] { SafetensorsFolder{folder.path()}; });
  // What the index says of tensors is not asked: the shards tell.
  write_file(folder.path() / "two.safetensors", {{"c", DType::kF32, {4}}});
  EXPECT_NE(SafetensorsFolder(folder.path()).find("c"), nullptr);
  write_file(folder.path() / "two.safetensors", {{"b", DType::kF32, {4}}});
  EXPECT_EQ(SafetensorsFolder(folder.path()).tensors().size(), 2U);
  write_file(folder.path() / "two.safetensors", {{"b", DType::kF32, {4}}, {"a", DType::kF32, {1}}});
  expect_error(ErrorCode::kCorruptFile, "tensor a is another one in", [&] { SafetensorsFolder{folder.path()}; });
  write_index({{"a", "../one.safetensors"}});
  expect_error(ErrorCode::kCorruptFile, "leaves the folder", [&] { SafetensorsFolder{folder.path()}; });
}

TEST(OutputFolder, AppearsOnlyWhenCommitted) {
  const TemporaryFolder folder;
  const auto target = folder.path() / "model";
  {
    OutputFolder output(target, false);
    output.write_file("config.json", "{}");
    EXPECT_FALSE(std::filesystem::exists(target));
  }
  EXPECT_FALSE(std::filesystem::exists(target));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  OutputFolder output(target, false);
  output.write_file("config.json", "{}");
  output.commit();
  EXPECT_TRUE(std::filesystem::exists(target / "config.json"));
  expect_error(ErrorCode::kInvalidArgument, "exists already", [&] { OutputFolder(target, false); });
  OutputFolder again(target, true);
  again.write_file("other.json", "{}");
  again.commit();
  EXPECT_FALSE(std::filesystem::exists(target / "config.json"));
  EXPECT_TRUE(std::filesystem::exists(target / "other.json"));
}

TEST(Dtype, ConvertsEveryFloatingType) {
  const std::vector<double> f64{1.5, -2};
  const std::vector<std::uint16_t> bf16{0x3FC0, 0xC000};
  const std::vector<std::uint8_t> e4m3{0x3C, 0xC0};
  for (const auto& [type, bytes] :
       {std::pair(DType::kF64, std::as_bytes(std::span(f64))), std::pair(DType::kBf16, std::as_bytes(std::span(bf16))),
        std::pair(DType::kF8E4M3, std::as_bytes(std::span(e4m3)))}) {
    std::vector<float> out(2);
    convert_to_f32(type, bytes, 0, 2, out.data());
    EXPECT_EQ(out, (std::vector<float>{1.5F, -2}));
  }
  expect_error(ErrorCode::kUnsupported, "I32", [&] { convert_to_f32(DType::kI32, {}, 0, 0, nullptr); });
}

}  // namespace
}  // namespace metal_marlin
