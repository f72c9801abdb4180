// Times the linear op's kernels on a GPU and prints JSON, for msl_linear.py. Each
// time is that of one product in a graph of many, over copies of the weights that
// together exceed the GPU's cache; the activations are ready in half.
//   msl_benchmark [ROWSxCOLS...] [TOKENS...]
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <random>
#include <span>
#include <string>

#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/linear.h"

namespace metal_marlin::msl {
namespace {

constexpr std::size_t kCacheBytes = std::size_t{256} << 20;
constexpr int kRepeats = 15;

struct Shape {
  std::int64_t rows;
  std::int64_t cols;
};

TiledMatrix random_matrix(Device& device, const Shape& shape, Format format, int group, unsigned seed) {
  TiledMatrix m;
  m.codec = codec_name(format);
  m.cols = shape.cols;
  m.by_16 = group == 16;
  m.params.rows = static_cast<std::uint32_t>(shape.rows);
  m.params.units = static_cast<std::uint32_t>((shape.cols + 63) / 64);
  m.params.group_shift = static_cast<std::uint32_t>(std::countr_zero(static_cast<unsigned>(group)));
  m.params.groups = static_cast<std::uint32_t>((shape.cols + group - 1) / group);
  m.params.scale_type = 0;
  m.params.offset = format == Format::kS4 ? 8 : 0;
  const std::size_t blocks = (m.params.rows + 15) / 16;
  std::mt19937 random(seed);
  std::vector<std::uint32_t> codes(blocks * m.params.units * 32 * static_cast<std::size_t>(format_info(format).bits));
  for (std::uint32_t& word : codes) word = static_cast<std::uint32_t>(random());
  const std::size_t per_block =
      group <= 32 ? m.params.units * 16 * (64 / static_cast<std::size_t>(group)) : std::size_t{m.params.groups} * 16;
  m.codes = device.allocate_with(codes);
  m.scales = device.allocate_with(std::vector<std::uint16_t>(blocks * per_block, 0x2400));  // 2^-6
  m.minima = device.allocate(16);
  return m;
}

// Copies of a matrix that together exceed the cache.
std::vector<Linear> random_linears(Device& device, const Shape& shape, Format format, int group) {
  const std::size_t bytes = static_cast<std::size_t>(shape.rows * shape.cols) / 2;
  const std::size_t copies = std::clamp<std::size_t>(kCacheBytes / bytes, 2, 64);
  std::vector<Linear> linears;
  for (std::size_t i = 0; i < copies; ++i) {
    linears.emplace_back(device, random_matrix(device, shape, format, group, static_cast<unsigned>(i)));
  }
  return linears;
}

double time_product(Device& device, const Shape& shape, const std::vector<Linear>& linears, std::int64_t tokens) {
  const LinearWorkspace workspace(device, tokens, shape.cols, shape.rows);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(tokens * shape.cols));
  for (float& v : x) v = normal(random);
  const auto x_buffer = device.allocate_with(x);
  const auto y = device.allocate(static_cast<std::size_t>(tokens * shape.rows) * 2);
  Linear::Call call;
  call.y = y.get();
  call.y_type = DType::kF16;
  call.tokens = tokens;
  {
    Linear::Call first = call;
    first.x = x_buffer.get();
    const auto commands = device.commands();
    linears[0].encode(*commands, first, workspace);
    commands->commit();
    commands->wait();
  }
  const auto commands = device.commands();
  std::size_t products = 0;
  while (products < 24) {
    for (const Linear& linear : linears) linear.encode(*commands, call, workspace);
    products += linears.size();
  }
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) {
    commands->commit();
    commands->wait();
    times.push_back(commands->seconds() / static_cast<double>(products));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void run(const std::vector<Shape>& shapes, const std::vector<std::int64_t>& token_counts) {
  const auto device = make_cuda_device();
  fmt::print("{{\"device\": \"{}\", \"results\": [\n", device->name());
  const char* separator = "";
  for (const Shape& shape : shapes) {
    for (const auto& [format, group] : {std::pair(Format::kFp4, 32), std::pair(Format::kS4, 128)}) {
      const std::vector<Linear> linears = random_linears(*device, shape, format, group);
      for (const std::int64_t tokens : token_counts) {
        const double seconds = time_product(*device, shape, linears, tokens);
        fmt::print(
            "{}{{\"rows\": {}, \"cols\": {}, \"format\": \"{}\", \"group\": {}, \"tokens\": {}, \"us\": {:.3f}}}",
            separator, shape.rows, shape.cols, format_info(format).name, group, tokens, seconds * 1e6);
        separator = ",\n";
        std::fflush(stdout);
      }
    }
  }
  fmt::print("\n]}}\n");
}

}  // namespace
}  // namespace metal_marlin::msl

int main(int argc, char** argv) {
  try {
    std::vector<metal_marlin::msl::Shape> shapes;
    std::vector<std::int64_t> tokens;
    for (const std::string argument : std::span(argv + 1, static_cast<std::size_t>(argc - 1))) {
      const std::size_t by = argument.find('x');
      if (by == std::string::npos) {
        tokens.push_back(std::stoll(argument));
      } else {
        shapes.push_back({std::stoll(argument.substr(0, by)), std::stoll(argument.substr(by + 1))});
      }
    }
    if (shapes.empty()) shapes = {{6144, 2560}, {2560, 4096}, {19456, 2560}, {2560, 9728}};
    if (tokens.empty()) tokens = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048};
    metal_marlin::msl::run(shapes, tokens);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
