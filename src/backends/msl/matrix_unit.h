// A device's matrix unit: what Apple does not document of it, asked once by the kernel tile_map, and what
// kernels that multiply tiles are given because of it.
#pragma once

#include <array>
#include <cstdint>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Which row (0 to 15) and input (0 to 63) of a unit each lane's 32 codes are:
// slot = 2 (4 tile + pair) + element.
struct TileMap {
  std::array<std::array<std::uint8_t, 32>, 32> row;
  std::array<std::array<std::uint8_t, 32>, 32> input;
};

struct MatrixUnit {
  std::array<TileMap, 2> maps;  // [1]: where a scale spans 16 inputs
  bool staged = false;          // it has elements in other lanes than the shaders expect
  bool flushes = false;         // subnormal halves are zeros to it
};
MatrixUnit probe_matrix_unit(Device& device);

// The function constants of shaders/common/tile_multiply.h, for a kernel that needs no other.
FunctionConstants tile_constants(Device& device);
// Threadgroup memory for the tiles that so many simdgroups stage, at least what Metal takes.
std::uint32_t tile_bytes(Device& device, std::uint32_t simdgroups);

}  // namespace metal_marlin::msl
