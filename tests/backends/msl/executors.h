// The executors that shader tests run on: the host's, plain (in reverse order), with
// every detector, and with a matrix unit that has matrices in other lanes and flushes subnormal halves; the Metal
// device, recorded; and a GPU where there is one.
#pragma once

#include <gtest/gtest.h>

#include "backends/msl/devices.h"
#include "backends/msl/host/host_device.h"
#include "backends/msl/recorded_metal.h"

namespace metal_marlin::msl {

enum class Executor { kPlain, kDetectors, kOtherLanes, kRecorded, kCuda, kMetal };

// Whether this build has what the detectors need.
inline bool has_detectors() {
  return embedded_shaders().front().instrumented != nullptr;
}

// With matrices in other lanes, so that tiles pass through threadgroup memory, and every detector.
inline std::unique_ptr<Device> staging_device() {
  return make_host_device({1, has_detectors(), LaneOrder::kRandom, 5, 0b10110});
}

inline std::vector<Executor> executors() {
  std::vector<Executor> out = {Executor::kPlain, Executor::kOtherLanes};
  if (has_detectors()) out.push_back(Executor::kDetectors);
  if (kRecordedMetal[0] != '\0') out.push_back(Executor::kRecorded);
  for (const std::string& device : available_devices()) {
    if (device == "msl-cuda") out.push_back(Executor::kCuda);
    if (device == "msl-metal") out.push_back(Executor::kMetal);
  }
  return out;
}

class OnExecutor : public testing::TestWithParam<Executor> {
 protected:
  static std::unique_ptr<Device> make() {
    switch (GetParam()) {
      case Executor::kPlain: return make_host_device({2, false, LaneOrder::kReverse, 0});
      case Executor::kDetectors: return make_host_device({1, true, LaneOrder::kForward, 0});
      case Executor::kOtherLanes: return make_host_device({2, false, LaneOrder::kForward, 0, 0b10110, true});
      case Executor::kRecorded: return make_device(kRecordedMetal);
      case Executor::kCuda: return make_device("msl-cuda");
      case Executor::kMetal: break;
    }
    return make_device("msl-metal");
  }
  // Runs what `encode` puts into commands.
  template <typename Encode>
  void run(const Encode& encode) {
    const auto commands = device->commands();
    encode(*commands);
    commands->commit();
    commands->wait();
  }
  // For the detectors, which look at every byte, and for the recorded device, which runs what the plain one does.
  static bool few_shapes() { return GetParam() == Executor::kDetectors || GetParam() == Executor::kRecorded; }
  std::unique_ptr<Device> device = make();
};

inline std::string executor_name(const testing::TestParamInfo<Executor>& test) {
  switch (test.param) {
    case Executor::kPlain: return "Plain";
    case Executor::kDetectors: return "Detectors";
    case Executor::kOtherLanes: return "OtherLanes";
    case Executor::kRecorded: return "RecordedMetal";
    case Executor::kCuda: return "Cuda";
    case Executor::kMetal: break;
  }
  return "Metal";
}

}  // namespace metal_marlin::msl
