// What the system has loaded: this program's and its libraries' code and data.
#pragma once

#include <cstdint>
#include <vector>

namespace metal_marlin::msl {

struct AddressRange {
  std::uintptr_t begin;
  std::uintptr_t end;
};
std::vector<AddressRange> loaded_segments();

}  // namespace metal_marlin::msl
