// Reductions over shards on every executor, and a ring of them, against double.
#include "backends/msl/all_reduce.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class AllReduce : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, AllReduce, testing::ValuesIn(executors()), executor_name);

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMax, ReduceOp::kMin};

double reduced(ReduceOp op, const std::vector<float>& shards, std::size_t elements, std::size_t at) {
  double out = shards[at];
  const std::size_t count = shards.size() / elements;
  for (std::size_t s = 1; s < count; ++s) {
    const double v = shards[s * elements + at];
    if (op == ReduceOp::kSum || op == ReduceOp::kMean) {
      out += v;
    } else {
      out = std::isnan(out) || std::isnan(v) ? NAN : op == ReduceOp::kMax ? std::max(out, v) : std::min(out, v);
    }
  }
  return op == ReduceOp::kMean ? out / static_cast<double>(count) : out;
}

void expect_reduced(float found, double expected, double size, double unit) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(found));
  } else if (std::isinf(expected)) {
    EXPECT_EQ(found, expected);
  } else {
    EXPECT_NEAR(found, expected, size * 0x1p-22 + std::fabs(expected) * unit);
  }
}

// More elements than threads.
TEST_P(AllReduce, ThreadsTakeElementsInTurn) {
  if (few_shapes()) return;
  const auto elements = static_cast<std::size_t>(busy_threads(1LL << 40)) * 2 + 77;
  const auto values = normal_data(2 * elements, 6);
  const auto buffer = device->allocate_with(values);
  const auto out = device->allocate(elements * sizeof(float));
  run([&](Commands& c) {
    encode_all_reduce(*device, c, DType::kF32, ReduceOp::kSum, 2, static_cast<std::int64_t>(elements), *buffer, *out);
  });
  const TypedData found(DType::kF32, *out);
  for (std::size_t i = 0; i < elements; ++i) ASSERT_EQ(found.values[i], values[i] + values[elements + i]) << i;
}

TEST_P(AllReduce, EveryOpTypeAndOddSize) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
    for (const ReduceOp op : kOps) {
      for (const std::size_t shards : {1U, 2U, 7U}) {
        for (const std::size_t elements : {1U, 333U}) {
          auto values = normal_data(shards * elements, 5, 3);
          if (elements > 3) {
            values[1] = std::nanf("");  // in the first shard, and in the last
            values[(shards - 1) * elements + 2] = std::nanf("");
            values[3] = -INFINITY;
          }
          const TypedData in(type, values);
          const auto buffer = device->allocate_with(in.bytes);
          const auto out = device->allocate(elements * in.size());
          run([&](Commands& c) {
            encode_all_reduce(*device, c, type, op, static_cast<std::int64_t>(shards),
                              static_cast<std::int64_t>(elements), *buffer, *out);
          });
          const TypedData found(type, *out);
          for (std::size_t i = 0; i < elements; ++i)
            expect_reduced(found.values[i], reduced(op, in.values, elements, i), 20, in.unit());
        }
      }
    }
  }
}

// Four ranks whose chunks go round: each ends with every sum.
TEST_P(AllReduce, RingOfRanks) {
  constexpr std::size_t kRanks = 4;
  constexpr std::size_t kElements = 37;
  const auto values = normal_data(kRanks * kElements, 9);
  for (const ReduceOp op : kOps) {
    std::vector<std::unique_ptr<Buffer>> ranks;
    for (std::size_t r = 0; r < kRanks; ++r)
      ranks.push_back(device->allocate_with(
          std::vector<float>(values.data() + r * kElements, values.data() + (r + 1) * kElements)));
    for (std::size_t step = 1; step < kRanks; ++step) {
      // A mean is a sum until its last step.
      const bool last = step + 1 == kRanks;
      const ReduceOp now = op == ReduceOp::kMean && !last ? ReduceOp::kSum : op;
      run([&](Commands& c) {
        encode_ring_step(*device, c, now, kElements, last ? kRanks : 1, *ranks[step], *ranks[step - 1]);
      });
    }
    const TypedData found(DType::kF32, *ranks.back());
    for (std::size_t i = 0; i < kElements; ++i)
      expect_reduced(found.values[i], reduced(op, values, kElements, i), 10, found.unit());
  }
}

TEST_P(AllReduce, RefusesNoShards) {
  const auto buffer = device->allocate(16);
  const auto commands = device->commands();
  EXPECT_THROW(encode_all_reduce(*device, *commands, DType::kF32, ReduceOp::kSum, 0, 1, *buffer, *buffer), Error);
}

}  // namespace
}  // namespace metal_marlin::msl
