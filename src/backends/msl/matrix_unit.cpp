#include "backends/msl/matrix_unit.h"

#include "backends/msl/tiled_matrix.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kTileStageBytes = 1024;  // as in shaders/common/tile_multiply.h

}  // namespace

MatrixUnit probe_matrix_unit(Device& device) {
  std::array<std::array<std::array<std::uint16_t, kSlots>, kLanes>, 2> words{};
  std::array<std::uint32_t, 2> found{};
  const auto places = device.allocate(sizeof(words));
  const auto answers = device.allocate(sizeof(found));
  const auto commands = device.commands();
  commands->dispatch(device.pipeline("marlin_gemm", "tile_map"), {1, 1, 1}, {32, 1, 1},
                     Arguments().buffer(0, *places).buffer(1, *answers));
  commands->commit();
  commands->wait();
  places->download(std::as_writable_bytes(std::span(words)));
  answers->download(std::as_writable_bytes(std::span(found)));
  MatrixUnit unit{};
  unit.staged = found[0] == 0;
  unit.flushes = found[1] == 0;
  for (std::size_t by_16 = 0; by_16 < 2; ++by_16) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      for (std::size_t slot = 0; slot < kSlots; ++slot) {
        unit.maps[by_16].row[lane][slot] = static_cast<std::uint8_t>(words[by_16][lane][slot] & 0xFFU);
        unit.maps[by_16].input[lane][slot] = static_cast<std::uint8_t>(words[by_16][lane][slot] >> 8);
      }
    }
  }
  return unit;
}

FunctionConstants tile_constants(Device& device) {
  const MatrixUnit& unit = device.matrix_unit();
  const auto byte = [](bool value) { return BytesArgument(1, std::byte{value}); };
  return {{0, byte(unit.staged)}, {1, byte(unit.flushes)}};  // by their indices there
}

std::uint32_t tile_bytes(Device& device, std::uint32_t simdgroups) {
  return device.matrix_unit().staged ? simdgroups * kTileStageBytes : 16;
}

}  // namespace metal_marlin::msl
