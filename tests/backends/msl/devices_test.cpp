#include "backends/msl/devices.h"

#include <gtest/gtest.h>

#include <algorithm>

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

}  // namespace
}  // namespace metal_marlin::msl
