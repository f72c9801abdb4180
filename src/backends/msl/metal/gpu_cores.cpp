#include "backends/msl/metal/gpu_cores.h"

#include <CoreFoundation/CoreFoundation.h>
#include <IOKit/IOKitLib.h>

namespace metal_marlin::msl::metal {

std::optional<std::uint32_t> gpu_cores() {
  const io_service_t gpu = IOServiceGetMatchingService(kIOMainPortDefault, IOServiceMatching("AGXAccelerator"));
  if (gpu == 0) return std::nullopt;
  const CFStringRef key = CFStringCreateWithCString(nullptr, "gpu-core-count", kCFStringEncodingUTF8);
  const CFTypeRef value = IORegistryEntryCreateCFProperty(gpu, key, nullptr, 0);
  CFRelease(key);
  IOObjectRelease(gpu);
  if (value == nullptr) return std::nullopt;
  std::int32_t count = 0;
  const bool told = CFGetTypeID(value) == CFNumberGetTypeID() &&
                    CFNumberGetValue(static_cast<CFNumberRef>(value), kCFNumberSInt32Type, &count);
  CFRelease(value);
  if (!told || count <= 0) return std::nullopt;
  return static_cast<std::uint32_t>(count);
}

}  // namespace metal_marlin::msl::metal
