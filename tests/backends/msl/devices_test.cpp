#include "backends/msl/devices.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backends/msl/executors.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

bool available(const std::string& device) {
  const auto devices = available_devices();
  return std::find(devices.begin(), devices.end(), device) != devices.end();
}

// Why there is no CUDA, on a machine or in a build without it.
std::string no_cuda() {
  return embedded_shaders().front().ptx.empty() ? "this program is built without CUDA (METAL_MARLIN_CUDA)"
                                                : "no NVIDIA driver, or no GPU";
}

TEST(Devices, MslIsAGpuAndNeverTheSlowHost) {
  if (available("msl-metal")) {
    EXPECT_EQ(resolve_device("msl"), "msl-metal");
  } else if (available("msl-cuda")) {
    EXPECT_EQ(resolve_device("msl"), "msl-cuda");
  } else {
    for (const auto& ask : {+[] { resolve_device("msl"); }, +[] { make_device("msl"); }}) {
      expect_error(ErrorCode::kNotFound, "no GPU for backend msl here (msl-metal: ", ask);
      expect_error(ErrorCode::kNotFound,
                   "; msl-cuda: " + no_cuda() + "); the host executor, which is slow, is msl-host", ask);
    }
  }
}

TEST(Devices, TheHostIsTakenByName) {
  EXPECT_EQ(available_devices().back(), "msl-host");
  EXPECT_EQ(make_device("msl-host")->name().find("host executor"), 0U);
  EXPECT_EQ(resolve_device("msl-host"), "msl-host");
}

TEST(Devices, ThoseThatAreNotHereAreRefusedWithTheReason) {
  expect_error(ErrorCode::kNotFound, "no backend msl-vulkan here; there are cpu, ", [] { make_device("msl-vulkan"); });
#if METAL_MARLIN_RECORDED_METAL  // a build without Metal
  expect_error(ErrorCode::kNotFound,
               "no backend msl-metal here: this program is built without Metal, which is macOS's; there are cpu, ",
               [] { make_device("msl-metal"); });
#endif
  if (!available("msl-cuda")) {
    expect_error(ErrorCode::kNotFound, "no backend msl-cuda here: " + no_cuda(), [] { make_device("msl-cuda"); });
  }
}

// Copies of many pieces at a time, one of them larger than the memory that a device may take them through.
class ManyPieces : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executors, ManyPieces, testing::ValuesIn(executors()), executor_name);

TEST_P(ManyPieces, AreCopiedEachToItsPlace) {
  const std::size_t large = few_shapes() ? 5000 : (std::size_t{16} << 20) + 5000;
  std::vector<std::byte> bytes(large + 300);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
  const std::span<const std::byte> all(bytes);
  const auto first = device->allocate_with(std::vector<std::byte>(large + 64, std::byte{1}));
  const auto second = device->allocate_with(std::vector<std::byte>(512, std::byte{2}));
  const auto queue = device->make_queue();
  queue->upload(std::vector<UploadPiece>{{second.get(), 8, all.first(100)},
                                         {first.get(), 32, all.subspan(100, large)},
                                         {second.get(), 200, {}},
                                         {second.get(), 300, all.last(200)}});
  std::vector<std::byte> found(bytes.size());
  const std::span<std::byte> into(found);
  queue->download(std::vector<DownloadPiece>{{first.get(), 32, into.subspan(100, large)},
                                             {second.get(), 300, into.last(200)},
                                             {second.get(), 8, into.first(100)}});
  EXPECT_TRUE(found == bytes);
  std::vector<std::byte> around(large + 64);
  first->download(around);
  EXPECT_EQ(std::count(around.begin(), around.begin() + 32, std::byte{1}), 32);
  EXPECT_EQ(std::count(around.end() - 32, around.end(), std::byte{1}), 32);
  expect_error(ErrorCode::kInvalidArgument, "", [&] {
    queue->download(std::vector<DownloadPiece>{{second.get(), 500, into.first(13)}});
  });
  expect_error(ErrorCode::kInvalidArgument, "", [&] {
    queue->upload(std::vector<UploadPiece>{{second.get(), 500, all.first(13)}});
  });
}

}  // namespace
}  // namespace metal_marlin::msl
