// Batched products on every executor: strided and grouped, every kind of matrix, against
// products in double of the decoded weights.
#include "backends/msl/matrix_stack.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "metal_marlin/error.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class BatchedGemm : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, BatchedGemm, testing::ValuesIn(executors()), executor_name);

constexpr std::size_t kItemRows = 35;
constexpr std::size_t kItemCols = 75;

struct Items {
  explicit Items(std::size_t count, const std::function<TestMatrix(unsigned)>& make) {
    for (std::size_t i = 0; i < count; ++i) {
      matrices.push_back(make(static_cast<unsigned>(50 + i)));
      weights.push_back(matrices.back().weight);
    }
  }
  std::vector<TestMatrix> matrices;
  std::vector<Weight> weights;
};

// item_of[r]: whose row r is.
void check(Device& device, const Items& items, const std::vector<std::size_t>& item_of,
           const std::vector<std::int32_t>& starts, Activations mode, double unit, const std::string& what) {
  const TestMatrix& first = items.matrices.front();
  const auto height = static_cast<std::size_t>(first.rows);
  const auto width = static_cast<std::size_t>(first.cols);
  const std::size_t stride = width + 5;  // of the activations
  const MatrixStack stack(device, "w", items.weights, first.rows, first.cols, test_pool());
  const auto rows = static_cast<std::int64_t>(item_of.size());
  const auto x = normal_data(item_of.size() * stride, 9);
  const auto x_buffer = device.allocate_with(x);
  const auto y_buffer = device.allocate_with(std::vector<float>(item_of.size() * height, std::nanf("")));
  const auto starts_buffer = device.allocate_with(starts.empty() ? std::vector<std::int32_t>(1) : starts);
  const LinearWorkspace workspace(device, rows, first.cols, 1);
  BatchedCall call;
  call.x = x_buffer.get();
  call.x_stride = static_cast<std::int64_t>(stride);
  call.y = y_buffer.get();
  call.y_stride = first.rows;
  call.rows = rows;
  call.starts = starts.empty() ? nullptr : starts_buffer.get();
  call.mode = mode;
  const auto commands = device.commands();
  encode_batched(device, *commands, stack, call, workspace);
  commands->commit();
  commands->wait();
  std::vector<float> y(item_of.size() * height);
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  std::vector<std::vector<float>> decoded;
  for (const TestMatrix& matrix : items.matrices) decoded.push_back(matrix.decoded());
  for (std::size_t r = 0; r < item_of.size(); ++r) {
    for (std::size_t n = 0; n < height; ++n) {
      double sum = 0;
      double size = 0;
      for (std::size_t k = 0; k < width; ++k) {
        const double term = static_cast<double>(decoded[item_of[r]][n * width + k]) * x[r * stride + k];
        sum += term;
        size += std::fabs(term);
      }
      ASSERT_NEAR(y[r * height + n], sum, size * (2 * unit + static_cast<double>(width + 8) * 0x1p-23) + 1e-30)
          << what << " row " << r << " output " << n;
    }
  }
}

void check_all(Device& device, const Items& items, double unit, const std::string& what) {
  const std::size_t count = items.weights.size();
  for (const std::size_t tokens : {std::size_t{3}, std::size_t{35}}) {
    std::vector<std::size_t> strided;
    for (std::size_t r = 0; r < tokens * count; ++r) strided.push_back(r % count);
    std::vector<std::size_t> grouped;
    std::vector<std::int32_t> starts = {0};
    for (std::size_t i = 0; i < count; ++i) {
      grouped.insert(grouped.end(), i == 1 ? 0 : tokens + i, i);  // one of them has no rows
      starts.push_back(static_cast<std::int32_t>(grouped.size()));
    }
    for (const Activations mode : {Activations::kInt8, Activations::kF32}) {
      const double u = mode == Activations::kF32 ? 0 : unit;
      check(device, items, strided, {}, mode, u, what + " strided");
      check(device, items, grouped, starts, mode, u, what + " grouped");
    }
  }
}

TEST_P(BatchedGemm, QuantizedItems) {
  int number = 0;
  for (const FormatSpec& spec : kernel_specs()) {
    if (number++ % (few_shapes() ? 9 : 3) != 0) continue;
    const Items items(3, [&](unsigned seed) { return packed_matrix(spec, kItemRows, kItemCols, seed); });
    check_all(*device, items, (spec.zero == ZeroKind::kNone ? 1 : 16) * 0x1.1p-11, text(spec));
  }
}

TEST_P(BatchedGemm, NvFp4ItemsHaveGlobalScalesOfTheirOwn) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{3}}) {
    Items items(count,
                [&](unsigned seed) { return packed_matrix(default_spec(Format::kNvfp4), kItemRows, kItemCols, seed); });
    for (std::size_t i = 0; i < count; ++i) {
      items.matrices[i].packed->global_scale *= static_cast<float>(i + 1);
      items.matrices[i].weight.view = items.matrices[i].packed->view();
      items.weights[i] = items.matrices[i].weight;
    }
    check_all(*device, items, 0x1.1p-11, "nvfp4");
  }
}

TEST_P(BatchedGemm, DenseItems) {
  for (const DType type : {DType::kF16, DType::kBf16, DType::kF32}) {
    const double unit = type == DType::kF16 ? 0x1p-11 : type == DType::kBf16 ? 0x1p-8 : 0;
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}}) {
      const Items items(count, [&](unsigned seed) { return dense_matrix(type, kItemRows, kItemCols, seed); });
      check_all(*device, items, unit, std::string(dtype_name(type)));
    }
  }
}

TEST_P(BatchedGemm, SmallAndWholeSizes) {
  for (const std::pair<int, int>& size : {std::pair(1, 1), std::pair(16, 64), std::pair(17, 65), std::pair(64, 128)}) {
    const int rows = size.first;
    const int cols = size.second;
    const Items packed(2, [&](unsigned seed) { return packed_matrix(default_spec(Format::kFp4), rows, cols, seed); });
    check_all(*device, packed, 0x1.1p-11, "fp4");
    const Items dense(2, [&](unsigned seed) { return dense_matrix(DType::kF16, rows, cols, seed); });
    check_all(*device, dense, 0x1p-11, "f16");
  }
}

TEST(StagedBatchedGemm, HasNoRaces) {
  const auto device = staging_device();
  const Items packed(2, [&](unsigned seed) { return packed_matrix(default_spec(Format::kU4), 90, 100, seed); });
  check_all(*device, packed, 16 * 0x1.1p-11, "u4");
  const Items dense(2, [&](unsigned seed) { return dense_matrix(DType::kF16, 90, 100, seed); });
  check_all(*device, dense, 0x1p-11, "f16");
}

TEST_P(BatchedGemm, RefusesWhatDoesNotFit) {
  std::vector<Weight> weights;
  const TestMatrix a = packed_matrix(default_spec(Format::kFp4), kItemRows, kItemCols, 1);
  const TestMatrix b = packed_matrix(default_spec(Format::kInt3), kItemRows, kItemCols, 2);
  expect_error(ErrorCode::kInvalidArgument, "w: matrices of several formats", [&] {
    MatrixStack(*device, "w", std::vector<Weight>{a.weight, b.weight}, kItemRows, kItemCols, test_pool());
  });
  const MatrixStack stack(*device, "w", std::vector<Weight>{a.weight, a.weight}, kItemRows, kItemCols, test_pool());
  const LinearWorkspace workspace(*device, 3, kItemCols, 1);
  BatchedCall call;
  call.rows = 3;
  const auto commands = device->commands();
  expect_error(ErrorCode::kInvalidArgument, "3 rows are no multiple of 2 items",
               [&] { encode_batched(*device, *commands, stack, call, workspace); });
}

}  // namespace
}  // namespace metal_marlin::msl
