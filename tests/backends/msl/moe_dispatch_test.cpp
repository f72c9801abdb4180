// Grouping by expert and putting together again, on every executor.
#include "backends/msl/moe_dispatch.h"

#include <cmath>
#include <random>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"

namespace metal_marlin::msl {
namespace {

class MoeDispatch : public OnExecutor {
 protected:
  template <typename T>
  static std::vector<T> values(const Buffer& buffer) {
    std::vector<T> out(buffer.size() / sizeof(T));
    buffer.download(std::as_writable_bytes(std::span(out)));
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Executor, MoeDispatch, testing::ValuesIn(executors()), executor_name);

struct DispatchCase {
  std::size_t experts;
  std::size_t tokens;
  std::size_t chosen;
  std::size_t width;
};

std::vector<std::int32_t> random_ids(const DispatchCase& c, bool some_invalid) {
  std::mt19937 random(static_cast<unsigned>(c.experts * 31 + c.tokens));
  std::vector<std::int32_t> ids(c.tokens * c.chosen);
  for (std::int32_t& id : ids) {
    id = static_cast<std::int32_t>(random() % c.experts);
    if (some_invalid && random() % 7 == 0) id = random() % 2 == 0 ? -1 : static_cast<std::int32_t>(c.experts);
  }
  return ids;
}

TEST_P(MoeDispatch, GroupsStablyAndCombinesInOrder) {
  for (const DispatchCase& c : {DispatchCase{4, 1, 2, 5}, DispatchCase{64, 33, 4, 70}, DispatchCase{1, 130, 1, 3},
                                DispatchCase{100, 50, 8, 33}}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
      const std::vector<std::int32_t> ids = random_ids(c, type == DType::kF16);
      const std::size_t rows = c.tokens * c.chosen;
      const TypedData x(type, normal_data(c.tokens * c.width, 1));
      const auto weights = normal_data(rows, 2);
      const TypedData before(type, normal_data(c.tokens * c.width, 3));
      const auto id_buffer = device->allocate_with(ids);
      const auto counts = device->allocate(c.experts * 4);
      const auto offsets = device->allocate((c.experts + 1) * 4);
      const auto order = device->allocate(rows * 4);
      const auto places = device->allocate(rows * 4);
      const auto x_buffer = device->allocate_with(x.bytes);
      const auto gathered = device->allocate(rows * c.width * x.size());
      const auto weight_buffer = device->allocate_with(weights);
      const auto y = device->allocate_with(before.bytes);
      const MoeGroups groups{counts.get(), offsets.get(), order.get(), places.get()};
      const auto n = [](std::size_t v) { return static_cast<std::int64_t>(v); };
      const auto commands = device->commands();
      encode_moe_groups(*device, *commands, n(c.experts), n(c.tokens), n(c.chosen), *id_buffer, groups);
      encode_moe_gather(*device, *commands, type, n(c.experts), n(c.tokens), n(c.chosen), n(c.width), *x_buffer, groups,
                        *gathered);
      encode_moe_combine(*device, *commands, type, n(c.tokens), n(c.chosen), n(c.width), *gathered, groups,
                         *weight_buffer, true, *y);
      commands->commit();
      commands->wait();
      // By expert, each in the order of assignments.
      std::vector<std::int32_t> expected;
      std::vector<std::int32_t> expected_offsets;
      for (std::size_t e = 0; e < c.experts; ++e) {
        expected_offsets.push_back(static_cast<std::int32_t>(expected.size()));
        for (std::size_t a = 0; a < rows; ++a) {
          if (ids[a] == static_cast<std::int32_t>(e)) expected.push_back(static_cast<std::int32_t>(a));
        }
      }
      expected_offsets.push_back(static_cast<std::int32_t>(expected.size()));
      ASSERT_EQ(values<std::int32_t>(*offsets), expected_offsets);
      auto found_order = values<std::int32_t>(*order);
      found_order.resize(expected.size());  // beyond lies nothing
      ASSERT_EQ(found_order, expected);
      std::vector<std::int32_t> expected_places(rows, -1);
      for (std::size_t i = 0; i < expected.size(); ++i)
        expected_places[static_cast<std::size_t>(expected[i])] = static_cast<std::int32_t>(i);
      ASSERT_EQ(values<std::int32_t>(*places), expected_places);
      const TypedData found(type, *gathered);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const std::size_t token = static_cast<std::size_t>(expected[i]) / c.chosen;
        for (std::size_t k = 0; k < c.width; ++k)
          ASSERT_EQ(found.values[i * c.width + k], x.values[token * c.width + k]);
      }
      const TypedData sums(type, *y);
      for (std::size_t t = 0; t < c.tokens; ++t) {
        double factor = 0;
        double size = 0;
        for (std::size_t a = t * c.chosen; a < (t + 1) * c.chosen; ++a) {
          if (expected_places[a] < 0) continue;
          factor += weights[a];
          size += std::fabs(weights[a]);
        }
        for (std::size_t k = 0; k < c.width; ++k) {
          const std::size_t at = t * c.width + k;
          const double result = before.values[at] + factor * x.values[at];
          ASSERT_NEAR(
              sums.values[at], result,
              (std::fabs(before.values[at]) + size * std::fabs(x.values[at])) * 0x1p-20 + std::fabs(result) * x.unit());
        }
      }
    }
  }
}

}  // namespace
}  // namespace metal_marlin::msl
