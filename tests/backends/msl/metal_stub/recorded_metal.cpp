#include "backends/msl/recorded_metal.h"

#include "backends/msl/devices.h"
#include "backends/msl/metal/metal_device.h"
#include "rules.h"

namespace metal_marlin::msl {
namespace {

[[maybe_unused]] const bool added = (add_device(kRecordedMetal, make_recorded_metal), true);

}  // namespace

std::unique_ptr<Device> make_recorded_metal() {
  MetalOptions options;
  options.limits.first = std::size_t{256} << 10;
  options.limits.each = std::size_t{1} << 20;
  options.labels = true;
  metal_stub::machine().most_work = options.limits.each;
  return make_metal_device(options);
}

int recorded_command_buffers() {
  return metal_stub::counts().command_buffers;
}

}  // namespace metal_marlin::msl
