#include "backends/msl/measuring_device.h"

#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class MeasuredBuffer final : public Buffer {
 public:
  using Buffer::Buffer;

 protected:
  void write(std::span<const std::byte>, std::size_t) override {}
  void read(std::span<std::byte>, std::size_t) const override {}
};

[[noreturn]] void refuse_to_run() {
  throw Error(ErrorCode::kInternal, "a device that only measures was given work");
}

}  // namespace

std::unique_ptr<Buffer> MeasuringDevice::allocate(std::size_t bytes) {
  bytes_ += bytes;
  return std::make_unique<MeasuredBuffer>(bytes);
}

std::unique_ptr<Commands> MeasuringDevice::commands() {
  refuse_to_run();
}

std::unique_ptr<Pipeline> MeasuringDevice::make_pipeline(const EmbeddedShader&, std::size_t, const FunctionConstants&) {
  refuse_to_run();
}

}  // namespace metal_marlin::msl
