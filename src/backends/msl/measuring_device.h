// A device as far as memory goes: what is allocated is added up, and is not there.
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

class MeasuringDevice final : public Device {
 public:
  // of: whose traits decide what is allocated.
  explicit MeasuringDevice(const Device& of) : of_(of) {}

  // Of all that was asked for.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  [[nodiscard]] std::string name() const override { return of_.name(); }
  [[nodiscard]] DeviceTraits traits() const override { return of_.traits(); }
  std::unique_ptr<Buffer> allocate(std::size_t bytes) override;
  // \throws Error (kInternal): nothing runs here.
  std::unique_ptr<Commands> commands() override;

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                          const FunctionConstants& constants) override;

 private:
  const Device& of_;
  std::size_t bytes_ = 0;
};

}  // namespace metal_marlin::msl
