#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "metal_marlin/error.h"
#include "metal_marlin/inspect.h"
#include "metal_marlin/quantize.h"
#if METAL_MARLIN_MSL
#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/host/host_device.h"
#include "backends/msl/self_test.h"
#endif

namespace metal_marlin::cli {
namespace {

using Rows = std::vector<std::vector<std::string>>;

struct ShaderReport {
  std::string name;
  std::size_t kernels = 0;
  bool executed = false;  // on the host executor
  bool matched = false;   // gave what the reference gives
  std::string cuda;       // "matched", "failed" or "no device"
  std::string fault;      // what went wrong, else empty
};

#if METAL_MARLIN_MSL
std::vector<ShaderReport> test_shaders() {
  const std::vector<msl::ShaderStatus> on_host = msl::self_test(*msl::make_host_device());
  std::vector<msl::ShaderStatus> on_cuda;
  if (msl::has_cuda_device()) on_cuda = msl::self_test(*msl::make_cuda_device());
  std::vector<ShaderReport> out;
  for (std::size_t i = 0; i < on_host.size(); ++i) {
    const msl::ShaderStatus& s = on_host[i];
    ShaderReport report{s.shader, s.kernels, s.executed, s.matched, "no device", s.fault};
    if (!on_cuda.empty()) {
      report.cuda = on_cuda[i].matched ? "matched" : "failed";
      if (report.fault.empty()) report.fault = on_cuda[i].fault;
    }
    out.push_back(std::move(report));
  }
  return out;
}
#else
[[noreturn]] std::vector<ShaderReport> test_shaders() {
  throw Error(ErrorCode::kUnsupported,
              "--self-test: this program is built without Metal shaders (METAL_MARLIN_MSL_HOST, METAL_MARLIN_CUDA)");
}
#endif

nlohmann::ordered_json to_json(const Status& s, const std::vector<RecipeReport>& recipes) {
  nlohmann::ordered_json models = nlohmann::ordered_json::array();
  for (const RecipeReport& r : recipes) {
    models.push_back({{"model", r.model},
                      {"recipe", r.recipe},
                      {"weights", r.weights},
                      {"source_bytes", r.source_bytes},
                      {"bytes", r.bytes},
                      {"bytes_all_cold", r.bytes_all_cold}});
  }
  return {{"version", s.version},
          {"backends", s.backends},
          {"metallib", s.metallib},
          {"instruction_sets", s.instruction_sets},
          {"threads", s.threads},
          {"formats", s.formats},
          {"architectures", s.architectures},
          {"recipes", models}};
}

nlohmann::ordered_json to_json(const std::vector<ShaderReport>& shaders) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const ShaderReport& r : shaders) {
    out.push_back({{"name", r.name},
                   {"kernels", r.kernels},
                   {"executed", r.executed},
                   {"matched", r.matched},
                   {"cuda", r.cuda},
                   {"fault", r.fault}});
  }
  return out;
}

void print(const Status& s, const std::vector<RecipeReport>& recipes) {
  fmt::print(
      "metal-marlin {}\nbackends: {}\n{}instruction sets: {} (the first is used)\nthreads: {}\nformats: "
      "{}\narchitectures: {}\n",
      s.version, fmt::join(s.backends, ", "),
      s.metallib.empty() ? "" : fmt::format("kernels of msl-host: {}\n", s.metallib),
      fmt::join(s.instruction_sets, ", "), s.threads, fmt::join(s.formats, ", "), fmt::join(s.architectures, ", "));
  Rows models = {{"model", "recipe", "weights#", "bf16#", "quantized#", "all experts cold#"}};
  for (const RecipeReport& r : recipes) {
    models.push_back({r.model, r.recipe, count_text(static_cast<double>(r.weights)), byte_text(r.source_bytes),
                      byte_text(r.bytes), byte_text(r.bytes_all_cold)});
  }
  fmt::print("\n{}", render_table(models));
}

void print(const std::vector<ShaderReport>& shaders) {
  Rows rows = {{"shader", "kernels#", "executed", "matched", "CUDA"}};
  const auto yes = [](bool v) { return std::string(v ? "yes" : "NO"); };
  for (const ShaderReport& r : shaders)
    rows.push_back({r.name, std::to_string(r.kernels), yes(r.executed), yes(r.matched), r.cuda});
  fmt::print("\n{}", render_table(rows));
  for (const ShaderReport& r : shaders) {
    if (!r.fault.empty()) fmt::print("blocker: {}: {}\n", r.name, r.fault);
  }
}

}  // namespace

void add_status(CLI::App& app) {
  auto* const command = app.add_subcommand("status", "Show version, backends, formats and architectures");
  struct Flags {
    bool json = false;
    bool self_test = false;
  };
  auto flags = std::make_shared<Flags>();
  command->add_flag("--json", flags->json, "print JSON");
  command->add_flag("--self-test", flags->self_test, "run every Metal shader once, small, against its reference");
  command->footer("Examples:\n  metal-marlin status --json\n  metal-marlin status --self-test");
  command->callback([flags] {
    std::vector<ShaderReport> shaders;
    if (flags->self_test) shaders = test_shaders();
    if (flags->json) {
      nlohmann::ordered_json out = to_json(status(), recipe_reports());
      if (flags->self_test) out["shaders"] = to_json(shaders);
      fmt::print("{}\n", out.dump(2));
      return;
    }
    print(status(), recipe_reports());
    if (flags->self_test) print(shaders);
  });
}

}  // namespace metal_marlin::cli
