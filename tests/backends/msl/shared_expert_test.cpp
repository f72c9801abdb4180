// Gate and up in one pass on every executor, against the definition in double.
#include "backends/msl/shared_expert.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class SharedExpert : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, SharedExpert, testing::ValuesIn(executors()), executor_name);

constexpr std::size_t kGateRows = 83;
constexpr std::size_t kGateCols = 75;

void check(Device& device, const TestMatrix& gate, const TestMatrix& up, std::size_t tokens, double u,
           const std::string& what) {
  const auto rows = static_cast<std::size_t>(gate.rows);
  const auto cols = static_cast<std::size_t>(gate.cols);
  const Linear gate_linear(device, "gate", gate.weight, gate.rows, gate.cols, test_pool());
  const Linear up_linear(device, "up", up.weight, up.rows, up.cols, test_pool());
  const auto count = static_cast<std::int64_t>(tokens);
  const LinearWorkspace workspace(device, count, gate.cols, gate.rows);
  const auto x = normal_data(tokens * cols, 5);
  const auto x_buffer = device.allocate_with(x);
  const auto y_buffer = device.allocate_with(std::vector<float>(tokens * rows, std::nanf("")));
  const auto commands = device.commands();
  encode_gate_up(device, *commands, gate_linear, up_linear, {x_buffer.get(), y_buffer.get(), count}, workspace);
  commands->commit();
  commands->wait();
  std::vector<float> y(tokens * rows);
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  const auto gate_values = gate.decoded();
  const auto up_values = up.decoded();
  const double unit = 2 * u + static_cast<double>(cols + 8) * 0x1p-23;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t r = 0; r < rows; ++r) {
      double g = 0, v = 0, g_size = 0, v_size = 0;
      for (std::size_t k = 0; k < cols; ++k) {
        const double a = static_cast<double>(gate_values[r * cols + k]) * x[t * cols + k];
        const double b = static_cast<double>(up_values[r * cols + k]) * x[t * cols + k];
        g += a;
        v += b;
        g_size += std::fabs(a);
        v_size += std::fabs(b);
      }
      const double silu = g / (1 + std::exp(-g));
      const double bound = 1.1 * g_size * unit * (std::fabs(v) + v_size * unit) + std::fabs(silu) * v_size * unit +
                           std::fabs(silu * v) * 0x1p-21 + 1e-30;
      ASSERT_NEAR(y[t * rows + r], silu * v, bound) << what << " token " << t << " row " << r;
    }
  }
}

TEST_P(SharedExpert, EveryFormat) {
  int number = 0;
  for (const FormatSpec& spec : kernel_specs()) {
    if (number++ % (few_shapes() ? 7 : 2) != 0) continue;
    const std::int64_t rows = number % 4 < 2 ? kGateRows : 80;  // whole blocks of 16, too, but not whole threadgroups
    const TestMatrix gate = packed_matrix(spec, rows, kGateCols, 1);
    TestMatrix up = packed_matrix(spec, rows, kGateCols, 2);
    if (spec.format == Format::kNvfp4) {  // global scales differ
      up.packed->global_scale *= 3;
      up.weight.view = up.packed->view();
    }
    for (const std::size_t tokens : {std::size_t{3}, std::size_t{41}})
      check(*device, gate, up, tokens, (spec.zero == ZeroKind::kNone ? 1 : 16) * 0x1.1p-11, text(spec));
  }
}

TEST_P(SharedExpert, DenseWeights) {
  for (const DType type : {DType::kF16, DType::kBf16}) {
    for (const std::size_t tokens : {std::size_t{1}, std::size_t{35}}) {
      check(*device, dense_matrix(type, kGateRows, kGateCols, 3), dense_matrix(type, kGateRows, kGateCols, 4), tokens,
            type == DType::kBf16 ? 0x1p-8 : 0x1p-11, std::string(dtype_name(type)));
    }
  }
}

TEST_P(SharedExpert, SmallAndWholeSizes) {
  for (const auto& [rows, cols] : {std::pair(1, 1), std::pair(16, 64), std::pair(17, 65), std::pair(64, 128)}) {
    for (const std::size_t tokens : {std::size_t{1}, std::size_t{8}, std::size_t{33}}) {
      const TestMatrix gate = packed_matrix(default_spec(Format::kFp4), rows, cols, 6);
      check(*device, gate, packed_matrix(default_spec(Format::kFp4), rows, cols, 7), tokens, 0x1.1p-11, "fp4");
    }
  }
}

TEST(StagedSharedExpert, HasNoRaces) {
  const auto device = staging_device();
  for (const std::size_t tokens : {std::size_t{3}, std::size_t{41}}) {
    check(*device, packed_matrix(default_spec(Format::kFp4), kGateRows, kGateCols, 6),
          packed_matrix(default_spec(Format::kFp4), kGateRows, kGateCols, 7), tokens, 0x1.1p-11, "fp4");
    check(*device, dense_matrix(DType::kF16, kGateRows, kGateCols, 3),
          dense_matrix(DType::kF16, kGateRows, kGateCols, 4), tokens, 0x1p-11, "f16");
  }
}

TEST_P(SharedExpert, ResultIsAddedWithAGateOrWithout) {
  const std::size_t tokens = 5;
  const std::size_t width = 37;
  const auto x = normal_data(tokens * width, 1);
  const auto gate = normal_data(tokens, 2, 3);
  const auto before = normal_data(tokens * width, 3);
  const auto x_buffer = device->allocate_with(x);
  const auto gate_buffer = device->allocate_with(gate);
  for (const bool gated : {false, true}) {
    const auto y_buffer = device->allocate_with(before);
    run([&](Commands& commands) {
      encode_shared_add(*device, commands, tokens, width, *x_buffer, gated ? gate_buffer.get() : nullptr, *y_buffer);
    });
    std::vector<float> y(tokens * width);
    y_buffer->download(std::as_writable_bytes(std::span(y)));
    for (std::size_t i = 0; i < y.size(); ++i) {
      const double factor = gated ? 1 / (1 + std::exp(-static_cast<double>(gate[i / width]))) : 1;
      ASSERT_NEAR(y[i], before[i] + factor * x[i], 4 * 0x1p-22 * (std::fabs(before[i]) + std::fabs(x[i])));
    }
  }
}

TEST_P(SharedExpert, RefusesMatricesThatDiffer) {
  const TestMatrix fp4 = packed_matrix(default_spec(Format::kFp4), kGateRows, kGateCols, 1);
  const TestMatrix int3 = packed_matrix(default_spec(Format::kInt3), kGateRows, kGateCols, 1);
  const Linear gate(*device, "gate", fp4.weight, kGateRows, kGateCols, test_pool());
  const Linear up(*device, "up", int3.weight, kGateRows, kGateCols, test_pool());
  EXPECT_FALSE(can_fuse_gate_up(gate, up));
  const auto commands = device->commands();
  const LinearWorkspace workspace(*device, 1, kGateCols, kGateRows);
  expect_error(ErrorCode::kInvalidArgument, "moe_shared_expert", [&] {
    encode_gate_up(*device, *commands, gate, up, {nullptr, nullptr, 1}, workspace);
  });
}

}  // namespace
}  // namespace metal_marlin::msl
