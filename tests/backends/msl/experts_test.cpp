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

struct Sizes {
  std::size_t experts;
  std::size_t chosen;
  std::size_t hidden;
  std::size_t intermediate;
};
// More units of 64 than simdgroups that share them out.
constexpr Sizes kSizes = {6, 2, 270, 70};

using Make = std::function<TestMatrix(std::size_t expert, std::size_t rows, std::size_t cols, unsigned seed)>;

// How a gate opens what is beside it: by silu, or clamped where many are, with biases.
enum class Form { kSilu, kClampedWithBiases };
constexpr GateClamp kClamp{1.3F, 9};

class Mixture {
 public:
  explicit Mixture(const Make& make, const Sizes& s = kSizes, Form f = Form::kSilu) : sizes(s), form(f) {
    for (std::size_t i = 0; i < s.experts; ++i) {
      const auto seed = static_cast<unsigned>(10 * i);
      matrices_["gate"].push_back(make(i, s.intermediate, s.hidden, seed + 1));
      matrices_["up"].push_back(make(i, s.intermediate, s.hidden, seed + 2));
      matrices_["down"].push_back(make(i, s.hidden, s.intermediate, seed + 3));
      biases_["gate"].push_back(normal_data(s.intermediate, seed + 4, 3));
      biases_["up"].push_back(normal_data(s.intermediate, seed + 5, 3));
      biases_["down"].push_back(normal_data(s.hidden, seed + 6, 3));
    }
  }
  [[nodiscard]] Experts on(Device& device) const {
    return {device,
            "experts.",
            static_cast<std::int64_t>(sizes.experts),
            static_cast<std::int64_t>(sizes.hidden),
            static_cast<std::int64_t>(sizes.intermediate),
            [&](std::int64_t expert, const char* projection) { return load(expert, projection); },
            test_pool(),
            form == Form::kSilu
                ? Experts::LoadBias()
                : [&](std::int64_t expert,
                      const char* projection) { return biases_.at(projection)[static_cast<std::size_t>(expert)]; }};
  }
  [[nodiscard]] GateParams gate() const {
    return form == Form::kSilu ? gate_params(GateActivation::kSilu) : gate_params(GateActivation::kClamped, kClamp);
  }
  [[nodiscard]] Weight load(std::int64_t expert, const char* projection) const {
    return matrices_.at(projection)[static_cast<std::size_t>(expert)].weight;
  }

  // y and how far a computation may be off whose products have unit roundoff u.
  void answer(const float* x, const std::int32_t* ids, const float* weights, double u, std::vector<double>& y,
              std::vector<double>& bound) const {
    y.assign(sizes.hidden, 0);
    bound.assign(sizes.hidden, 1e-30);
    for (std::size_t j = 0; j < sizes.chosen; ++j) {
      const auto e = static_cast<std::size_t>(ids[j]);
      std::vector<double> act(sizes.intermediate);
      std::vector<double> act_bound(sizes.intermediate);
      const auto gate = matrices_.at("gate")[e].decoded();
      const auto up = matrices_.at("up")[e].decoded();
      const auto down = matrices_.at("down")[e].decoded();
      const double unit = 2 * u + static_cast<double>(std::max(sizes.hidden, sizes.intermediate) + 8) * 0x1p-23;
      for (std::size_t i = 0; i < sizes.intermediate; ++i) {
        double g = 0, u_sum = 0, g_size = 0, u_size = 0;
        for (std::size_t k = 0; k < sizes.hidden; ++k) {
          const double a = static_cast<double>(gate[i * sizes.hidden + k]) * x[k];
          const double b = static_cast<double>(up[i * sizes.hidden + k]) * x[k];
          g += a;
          u_sum += b;
          g_size += std::fabs(a);
          u_size += std::fabs(b);
        }
        if (form != Form::kSilu) {
          g = std::min<double>(g + biases_.at("gate")[e][i], kClamp.limit);
          u_sum = 1 + std::clamp<double>(u_sum + biases_.at("up")[e][i], -kClamp.limit, kClamp.limit);
        }
        const double opened = g / (1 + std::exp(-(form == Form::kSilu ? 1.0 : static_cast<double>(kClamp.alpha)) * g));
        act[i] = opened * u_sum;
        // The slope of what opens is at most 1.1.
        act_bound[i] = 1.1 * g_size * unit * std::fabs(u_sum) + std::fabs(opened) * u_size * unit +
                       1.1 * g_size * unit * u_size * unit + std::fabs(act[i]) * 0x1p-21;
      }
      for (std::size_t n = 0; n < sizes.hidden; ++n) {
        if (form != Form::kSilu) {
          y[n] += weights[j] * biases_.at("down")[e][n];
          bound[n] += std::fabs(weights[j] * biases_.at("down")[e][n]) * 0x1p-21;
        }
        for (std::size_t i = 0; i < sizes.intermediate; ++i) {
          const double w = down[n * sizes.intermediate + i];
          y[n] += weights[j] * w * act[i];
          bound[n] += std::fabs(weights[j] * w) * (act_bound[i] + (std::fabs(act[i]) + act_bound[i]) * unit);
        }
      }
    }
  }

  Sizes sizes;
  Form form;

 private:
  std::map<std::string, std::vector<TestMatrix>> matrices_;
  std::map<std::string, std::vector<std::vector<float>>> biases_;
};

void check(Device& device, const Mixture& mixture, std::size_t tokens, Activations mode, double u,
           const std::string& what) {
  const auto& [count, chosen, hidden, intermediate] = mixture.sizes;
  const Experts experts = mixture.on(device);
  const auto width = static_cast<std::int64_t>(hidden);
  const ExpertsWorkspace workspace(device, static_cast<std::int64_t>(tokens), static_cast<std::int64_t>(chosen),
                                   static_cast<std::int64_t>(count), width, static_cast<std::int64_t>(intermediate));
  const auto x = normal_data(tokens * hidden, 77);
  const auto weights = normal_data(tokens * chosen, 78);
  std::vector<std::int32_t> ids;
  for (std::size_t t = 0; t < tokens; ++t) {  // one expert is nobody's, another nearly everybody's
    if (count != kSizes.experts) {
      for (std::size_t j = 0; j < chosen; ++j) ids.push_back(static_cast<std::int32_t>((t + j) % count));
      continue;
    }
    ids.push_back(t % 4 == 3 ? 2 : 4);
    ids.push_back(static_cast<std::int32_t>(t % 2 == 0 ? t % 3 : 5));
  }
  const auto x_buffer = device.allocate_with(x);
  const auto ids_buffer = device.allocate_with(ids);
  const auto weights_buffer = device.allocate_with(weights);
  const auto y_buffer = device.allocate_with(std::vector<float>(tokens * hidden, std::nanf("")));
  ExpertsCall call;
  call.x = x_buffer.get();
  call.ids = ids_buffer.get();
  call.weights = weights_buffer.get();
  call.y = y_buffer.get();
  call.tokens = static_cast<std::int64_t>(tokens);
  call.chosen = static_cast<std::int64_t>(chosen);
  call.mode = mode;
  call.gate = mixture.gate();
  const auto commands = device.commands();
  experts.encode(*commands, call, workspace);
  commands->commit();
  commands->wait();
  std::vector<float> y(tokens * hidden);
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  std::vector<double> expected;
  std::vector<double> bound;
  for (std::size_t t = 0; t < tokens; ++t) {
    mixture.answer(x.data() + t * hidden, ids.data() + t * chosen, weights.data() + t * chosen,
                   mode == Activations::kF32 || tokens * chosen <= Experts::kFewAssignments ? 0 : u, expected, bound);
    for (std::size_t n = 0; n < hidden; ++n)
      ASSERT_NEAR(y[t * hidden + n], expected[n], bound[n]) << what << " token " << t << " element " << n;
  }
}

void check_all(Device& device, bool small, const Make& make, double u, const std::string& what,
               const Sizes& sizes = kSizes, Form form = Form::kSilu) {
  const Mixture mixture(make, sizes, form);
  check(device, mixture, 3, Activations::kInt8, u, what + ", few");
  check(device, mixture, 20, Activations::kInt8, u, what + ", many");
  if (!small) check(device, mixture, 70, Activations::kInt8, u, what + ", more");
  check(device, mixture, 20, Activations::kF32, u, what + ", exact");
}

TEST_P(MoeExperts, EveryFormat) {
  int number = 0;
  for (const FormatSpec& spec : kernel_specs()) {
    if (number++ % (few_shapes() ? 12 : 8) != 0) continue;
    check_all(
        *device, few_shapes(),
        [&](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
          return packed_matrix(spec, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
        },
        (spec.zero == ZeroKind::kNone ? 1 : 16) * 0x1.1p-11, text(spec));
  }
}

TEST_P(MoeExperts, DenseExperts) {
  for (const DType type : {DType::kF16, DType::kBf16, DType::kF32}) {
    check_all(
        *device, few_shapes(),
        [&](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
          return dense_matrix(type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
        },
        type == DType::kBf16 ? 0x1p-8 : 0x1p-11, std::string(dtype_name(type)));
  }
}

TEST_P(MoeExperts, HotAndColdExpertsDiffer) {
  check_all(
      *device, few_shapes(),
      [&](std::size_t expert, std::size_t rows, std::size_t cols, unsigned seed) {
        const auto r = static_cast<std::int64_t>(rows);
        const auto c = static_cast<std::int64_t>(cols);
        if (expert == 5) return dense_matrix(DType::kBf16, r, c, seed);
        return packed_matrix(default_spec(expert % 2 == 0 ? Format::kInt2 : Format::kFp4), r, c, seed);
      },
      0x1p-8, "mixed");
}

TEST_P(MoeExperts, BiasesAndClampedGates) {
  check_all(
      *device, few_shapes(),
      [&](std::size_t expert, std::size_t rows, std::size_t cols, unsigned seed) {
        const auto r = static_cast<std::int64_t>(rows);
        const auto c = static_cast<std::int64_t>(cols);
        if (expert == 5) return dense_matrix(DType::kBf16, r, c, seed);
        return packed_matrix(default_spec(Format::kMxfp4), r, c, seed);
      },
      0x1p-8, "clamped", kSizes, Form::kClampedWithBiases);
}

// One expert, all of them chosen, widths within a tile and of whole units.
TEST_P(MoeExperts, SmallSizes) {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 1}, Sizes{3, 3, 17, 64}, Sizes{40, 9, 64, 15}}) {
    for (const DType type : {DType::kF32, DType::kF16}) {
      check_all(
          *device, few_shapes(),
          [&](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
            return dense_matrix(type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
          },
          0x1p-11, std::string(dtype_name(type)), sizes);
    }
    for (const Format format : {Format::kNvfp4, Format::kInt2}) {
      check_all(
          *device, few_shapes(),
          [&](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
            return packed_matrix(default_spec(format), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols),
                                 seed);
          },
          0x1.1p-11, std::string(format_info(format).name), sizes);
    }
  }
}

TEST(StagedMoeExperts, HaveNoRaces) {
  const auto device = staging_device();
  check_all(*device, true,
            [&](std::size_t expert, std::size_t rows, std::size_t cols, unsigned seed) {
              const auto r = static_cast<std::int64_t>(rows);
              const auto c = static_cast<std::int64_t>(cols);
              return expert % 2 == 0 ? dense_matrix(DType::kF16, r, c, seed)
                                     : packed_matrix(default_spec(Format::kFp4), r, c, seed);
            },
            0x1.1p-11, "staged", {4, 2, 100, 90});
}

TEST_P(MoeExperts, GateAndUpOfOneFormat) {
  const Mixture mixture([](std::size_t, std::size_t rows, std::size_t cols, unsigned seed) {
    const Format format = seed % 10 == 1 ? Format::kFp4 : Format::kInt3;  // of gates alone
    return packed_matrix(default_spec(format), static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), seed);
  });
  expect_error(ErrorCode::kUnsupported, "experts.0: its gate is fp4 group 32 f16 none, its up int3",
               [&] { static_cast<void>(mixture.on(*device)); });
}

}  // namespace
}  // namespace metal_marlin::msl
