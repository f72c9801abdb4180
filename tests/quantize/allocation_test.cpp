// Allocations against all that are possible, and whole models by them.
#include "quantize/allocation.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "metal_marlin/error.h"
#include "metal_marlin/quantize.h"
#include "quantized_models.h"

namespace metal_marlin {
namespace {

std::vector<AllocationUnit> random_units(std::mt19937& random, int count, bool convex) {
  std::vector<AllocationUnit> units;
  std::uniform_real_distribution<double> uniform(0.1, 1);
  for (int i = 0; i < count; ++i) {
    AllocationUnit unit;
    unit.weights = {"weight " + std::to_string(i)};
    unit.elements = 64 + 64 * (i % 3);
    const double size = uniform(random);
    for (const FormatSpec& spec : default_candidates()) {
      const double bits = bits_per_weight(spec, 1, unit.elements);
      const double loss = size * std::pow(4.0, -bits) * (convex ? 1 : uniform(random));
      unit.points.push_back({spec, bits * static_cast<double>(unit.elements), loss});
    }
    units.push_back(unit);
  }
  return units;
}

double elements_of(const std::vector<AllocationUnit>& units) {
  double sum = 0;
  for (const AllocationUnit& unit : units) sum += static_cast<double>(unit.elements);
  return sum;
}

// The least loss within a budget, of all choices.
double least_loss(const std::vector<AllocationUnit>& units, std::size_t at, double budget) {
  if (at == units.size()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const AllocationUnit::Point& point : units[at].points) {
    if (point.bits <= budget) least = std::min(least, point.loss + least_loss(units, at + 1, budget - point.bits));
  }
  return least;
}

TEST(Allocation, IsCloseToTheBestOfAll) {
  std::mt19937 random(5);
  for (int round = 0; round < 20; ++round) {
    const auto units = random_units(random, 5, round % 2 == 0);
    for (const double bits : {2.6, 3.0, 3.7, 4.5, 6.0}) {
      const Allocation found = allocate(units, bits);
      EXPECT_LE(found.bits_per_weight, bits);
      const double least = least_loss(units, 0, bits * elements_of(units));
      EXPECT_GE(found.loss, least * (1 - 1e-12));
      // A Lagrangian misses the best by at most the step that did not fit, and with few units that is much.
      const double with_one_more = least_loss(units, 0, (bits - 1) * elements_of(units));
      EXPECT_LE(found.loss, std::isfinite(with_one_more) ? with_one_more : std::numeric_limits<double>::max()) << bits;
      double loss = 0;
      for (const AllocationUnit& unit : units) {
        for (const AllocationUnit::Point& point : unit.points) {
          if (point.spec == found.formats.at(unit.weights.front())) loss += point.loss;
        }
      }
      EXPECT_NEAR(loss, found.loss, 1e-12);
    }
  }
  expect_error(ErrorCode::kInvalidArgument, "the smallest candidates take 2.", [&] {
    std::mt19937 again(5);
    allocate(random_units(again, 3, true), 1.5);
  });
}

TEST(Allocation, MoreBitsNeverCostMore) {
  std::mt19937 random(6);
  const auto units = random_units(random, 40, true);
  double before = std::numeric_limits<double>::infinity();
  for (double bits = 2.5; bits < 8; bits += 0.25) {
    const double loss = allocate(units, bits).loss;
    EXPECT_LE(loss, before) << bits;
    before = loss;
  }
}

TEST(Allocation, CurvesComeBackAsTheyWere) {
  std::mt19937 random(7);
  const auto units = random_units(random, 3, false);
  const auto again = parse_curves(parse_json(curves_json(units).dump(), "x"), "x");
  ASSERT_EQ(again.size(), units.size());
  for (std::size_t i = 0; i < units.size(); ++i) {
    EXPECT_EQ(again[i].weights, units[i].weights);
    EXPECT_EQ(again[i].elements, units[i].elements);
    for (std::size_t p = 0; p < units[i].points.size(); ++p) {
      EXPECT_EQ(again[i].points[p].spec, units[i].points[p].spec);
      EXPECT_EQ(again[i].points[p].bits, units[i].points[p].bits);
      EXPECT_EQ(again[i].points[p].loss, units[i].points[p].loss);
    }
  }
  expect_error(ErrorCode::kCorruptFile, "c.json: unit 1: point 1: field bits", [] {
    parse_curves(parse_json(R"({"version": 1, "units": [{"weights": ["a"], "elements": 5,
                 "points": [{"format": "int3", "group": "32", "scale_type": "f16", "zero": "none", "bits": 0, "loss": 1}]}]})",
                            "c.json"),
                 "c.json");
  });
}

TEST(Allocation, OfWholeModels) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "text.txt")
      << std::string(40, 'a') + "The quick brown fox jumps over the lazy dog; 0123456789 times.";
  for (const char* const name : {"qwen3-tiny", "glm4-moe-lite-tiny"}) {
    const auto model = folder.path() / name;
    copy_with_tokenizer(fixture(name), model);
    QuantizeOptions options;
    options.calibration = folder.path() / "text.txt";
    options.target_bpw = 3.5;
    options.curves = folder.path() / (std::string(name) + ".json");
    options.threads = 2;
    const auto target = folder.path() / (std::string(name) + "-3.5");
    const QuantizeReport report = quantize(model, target, options);
    double bits = 0;
    double weights = 0;
    std::map<std::string, int> formats;
    std::map<std::string, std::string> of_gates;
    for (const QuantizedTensor& tensor : report.tensors) {
      if (tensor.name.find("_proj") == std::string::npos) continue;
      bits += 8 * static_cast<double>(tensor.bytes);
      weights += static_cast<double>(tensor.weights);
      ++formats[tensor.format];
    }
    EXPECT_LE(bits / weights, 3.5) << name;
    EXPECT_GT(bits / weights, 3.4) << name;
    EXPECT_NEAR(report.allocation.bits_per_weight, bits / weights, 1e-9) << name;
    EXPECT_GT(formats.size(), 2U) << name;
    EXPECT_GT(report.allocation.loss, 0);
    EXPECT_GT(report.allocation_curve.size(), 20U);
    // By the saved curves nothing is measured again, and the choice is the same.
    bool measured = false;
    options.progress = [&](const QuantizeProgress& progress) {
      measured = measured || progress.tensor == "costs of formats";
      return true;
    };
    const QuantizeReport again = quantize(model, folder.path() / (std::string(name) + "-again"), options);
    EXPECT_FALSE(measured);
    for (std::size_t i = 0; i < report.tensors.size(); ++i)
      EXPECT_EQ(again.tensors[i].format, report.tensors[i].format) << report.tensors[i].name;
    // Another number of bits of the same curves costs less.
    options.target_bpw = 5;
    EXPECT_LT(quantize(model, folder.path() / (std::string(name) + "-5"), options).allocation.loss,
              report.allocation.loss);
    options.exclude = {"o_proj"};
    expect_error(ErrorCode::kInvalidArgument, "and not the same ones",
                 [&] { quantize(model, folder.path() / "x", options); });
  }
}

TEST(Allocation, AsksForWhatItNeeds) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.target_bpw = 3;
  expect_error(ErrorCode::kInvalidArgument, "a target of bits needs a calibration text",
               [&] { quantize(fixture("qwen3-tiny"), folder.path() / "x", options); });
}

}  // namespace
}  // namespace metal_marlin
