// Mixtures of experts on every executor, few tokens and many, exact and fast, experts of
// several formats: against the definition in double of the decoded weights.
#include "backends/msl/experts.h"

#include <cmath>
#include <map>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class MoeExperts : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, MoeExperts, testing::ValuesIn(executors()), executor_name);

constexpr std::size_t kExperts = 6;
constexpr std::size_t kHidden = 270;  // more units of 64 than simdgroups that share them out
constexpr std::size_t kIntermediate = 70;
constexpr std::size_t kChosen = 2;

using Make = std::function<TestMatrix(std::size_t expert, std::size_t rows, std::size_t cols, unsigned seed)>;

class Mixture {
 public:
  explicit Mixture(const Make& make) {
    for (std::size_t i = 0; i < kExperts; ++i) {
      const auto seed = static_cast<unsigned>(10 * i);
      matrices_["gate"].push_back(make(i, kIntermediate, kHidden, seed + 1));
      matrices_["up"].push_back(make(i, kIntermediate, kHidden, seed + 2));
      matrices_["down"].push_back(make(i, kHidden, kIntermediate, seed + 3));
    }
  }
  [[nodiscard]] Weight load(std::int64_t expert, const char* projection) const {
    return matrices_.at(projection)[static_cast<std::size_t>(expert)].weight;
  }

  // y and how far a computation may be off whose products have unit roundoff u.
  void answer(const float* x, const std::int32_t* ids, const float* weights, double u, std::vector<double>& y,
              std::vector<double>& bound) const {
    y.assign(kHidden, 0);
    bound.assign(kHidden, 1e-30);
    for (std::size_t j = 0; j < kChosen; ++j) {
      const auto e = static_cast<std::size_t>(ids[j]);
      std::vector<double> act(kIntermediate);
      std::vector<double> act_bound(kIntermediate);
      const auto gate = matrices_.at("gate")[e].decoded();
      const auto up = matrices_.at("up")[e].decoded();
      const auto down = matrices_.at("down")[e].decoded();
      const double unit = 2 * u + (kHidden + 8) * 0x1p-23;
      for (std::size_t i = 0; i < kIntermediate; ++i) {
        double g = 0, u_sum = 0, g_size = 0, u_size = 0;
        for (std::size_t k = 0; k < kHidden; ++k) {
          const double a = static_cast<double>(gate[i * kHidden + k]) * x[k];
          const double b = static_cast<double>(up[i * kHidden + k]) * x[k];
          g += a;
          u_sum += b;
          g_size += std::fabs(a);
          u_size += std::fabs(b);
        }
        const double silu = g / (1 + std::exp(-g));
        act[i] = silu * u_sum;
        // The slope of silu is at most 1.1.
        act_bound[i] = 1.1 * g_size * unit * std::fabs(u_sum) + std::fabs(silu) * u_size * unit +
                       1.1 * g_size * unit * u_size * unit + std::fabs(act[i]) * 0x1p-21;
      }
      for (std::size_t n = 0; n < kHidden; ++n) {
        for (std::size_t i = 0; i < kIntermediate; ++i) {
          const double w = down[n * kIntermediate + i];
          y[n] += weights[j] * w * act[i];
          bound[n] += std::fabs(weights[j] * w) * (act_bound[i] + (std::fabs(act[i]) + act_bound[i]) * unit);
        }
      }
    }
  }

 private:
  std::map<std::string, std::vector<TestMatrix>> matrices_;
};

void check(Device& device, const Mixture& mixture, std::size_t tokens, Activations mode, double u,
           const std::string& what) {
  const Experts experts(
      device, "experts.", kExperts, kHidden, kIntermediate,
      [&](std::int64_t expert, const char* projection) { return mixture.load(expert, projection); }, test_pool());
  const ExpertsWorkspace workspace(device, static_cast<std::int64_t>(tokens), kChosen, kExperts, kHidden,
                                   kIntermediate);
  const auto x = normal_data(tokens * kHidden, 77);
  const auto weights = normal_data(tokens * kChosen, 78);
  std::vector<std::int32_t> ids;
  for (std::size_t t = 0; t < tokens; ++t) {  // one expert is nobody's, another nearly everybody's
    ids.push_back(t % 4 == 3 ? 2 : 4);
    ids.push_back(static_cast<std::int32_t>(t % 2 == 0 ? t % 3 : 5));
  }
  const auto x_buffer = device.allocate_with(x);
  const auto ids_buffer = device.allocate_with(ids);
  const auto weights_buffer = device.allocate_with(weights);
  const auto y_buffer = device.allocate_with(std::vector<float>(tokens * kHidden, std::nanf("")));
  ExpertsCall call;
  call.x = x_buffer.get();
  call.ids = ids_buffer.get();
  call.weights = weights_buffer.get();
  call.y = y_buffer.get();
  call.tokens = static_cast<std::int64_t>(tokens);
  call.chosen = kChosen;
  call.mode = mode;
  const auto commands = device.commands();
  experts.encode(*commands, call, workspace);
  commands->commit();
  commands->wait();
  std::vector<float> y(tokens * kHidden);
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  std::vector<double> expected;
  std::vector<double> bound;
  for (std::size_t t = 0; t < tokens; ++t) {
    mixture.answer(x.data() + t * kHidden, ids.data() + t * kChosen, weights.data() + t * kChosen,
                   mode == Activations::kF32 || tokens * kChosen <= Experts::kFewAssignments ? 0 : u, expected, bound);
    for (std::size_t n = 0; n < kHidden; ++n)
      ASSERT_NEAR(y[t * kHidden + n], expected[n], bound[n]) << what << " token " << t << " element " << n;
  }
}

void check_all(Device& device, bool small, const Make& make, double u, const std::string& what) {
  const Mixture mixture(make);
  check(device, mixture, 3, Activations::kInt8, u, what + ", few");
  check(device, mixture, 20, Activations::kInt8, u, what + ", many");
  if (!small) check(device, mixture, 70, Activations::kInt8, u, what + ", more");
  check(device, mixture, 20, Activations::kF32, u, what + ", exact");
}

TEST_P(MoeExperts, EveryFormat) {
  int number = 0;
  for (const FormatSpec& spec : kernel_specs()) {
    if (number++ % (detectors() ? 12 : 8) != 0) continue;
    check_all(
        *device, detectors(),
        [&](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
          return packed_matrix(spec, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
        },
        (spec.zero == ZeroKind::kNone ? 1 : 16) * 0x1.1p-11, text(spec));
  }
}

TEST_P(MoeExperts, DenseExperts) {
  for (const DType type : {DType::kF16, DType::kBf16, DType::kF32}) {
    check_all(
        *device, detectors(),
        [&](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
          return dense_matrix(type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
        },
        type == DType::kBf16 ? 0x1p-8 : 0x1p-11, std::string(dtype_name(type)));
  }
}

TEST_P(MoeExperts, HotAndColdExpertsDiffer) {
  check_all(
      *device, detectors(),
      [&](std::size_t expert, std::size_t rows, std::size_t cols, unsigned seed) {
        const auto r = static_cast<std::int64_t>(rows);
        const auto c = static_cast<std::int64_t>(cols);
        if (expert == 5) return dense_matrix(DType::kBf16, r, c, seed);
        return packed_matrix(default_spec(expert % 2 == 0 ? Format::kInt2 : Format::kFp4), r, c, seed);
      },
      0x1p-8, "mixed");
}

TEST_P(MoeExperts, GateAndUpOfOneFormat) {
  const Mixture mixture([](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
    const Format format = seed % 10 == 1 ? Format::kFp4 : Format::kInt3;  // of gates alone
    return packed_matrix(default_spec(format), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
  });
  expect_error(ErrorCode::kUnsupported, "experts.0: its gate is fp4 group 32 f16 none, its up int3", [&] {
    Experts(
        *device, "experts.", kExperts, kHidden, kIntermediate,
        [&](std::int64_t expert, const char* projection) { return mixture.load(expert, projection); }, test_pool());
  });
}

}  // namespace
}  // namespace metal_marlin::msl
