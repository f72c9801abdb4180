#include "base/packed_text.h"

#include <gtest/gtest.h>

#include <vector>

#include "backends/msl/device.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(PackedText, ShadersTextsUnpack) {
  for (const msl::EmbeddedShader& shader : msl::embedded_shaders())
    EXPECT_NE(unpack_text(shader.source, 0).find("kernel"), std::string::npos) << shader.name;
}

TEST(PackedText, WhatIsNotThereIsAnError) {
  const std::span<const std::byte> good = msl::find_shader("rope").source;
  expect_error(ErrorCode::kInternal, "no such place", [&] { unpack_text(good, 1); });
  expect_error(ErrorCode::kInternal, "no such place", [] { unpack_text({}, 0); });
  expect_error(ErrorCode::kInternal, "lies outside", [&] { unpack_text(good.first(good.size() - 1), 0); });
  std::vector<std::byte> bad(good.begin(), good.end());
  bad[16] ^= std::byte{0xFF};
  expect_error(ErrorCode::kInternal, "text 0 of 1 built in", [&] { unpack_text(bad, 0); });
}

}  // namespace
}  // namespace metal_marlin
