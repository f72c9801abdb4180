#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "metal_marlin/error.h"
#include "metal_marlin/inspect.h"
#include "metal_marlin/quantize.h"
#if METAL_MARLIN_MSL
#include "backends/msl/devices.h"
#include "backends/msl/matrix_unit.h"
#include "backends/msl/self_test.h"
#endif

namespace metal_marlin::cli {
namespace {

using Rows = std::vector<std::vector<std::string>>;

struct ShaderReport {
  std::string name;
  std::size_t kernels = 0;
  bool executed = false;                    // on the host executor
  bool matched = false;                     // gave what the reference gives
  std::map<std::string, bool> gpu_matched;  // by backend
  std::string fault;                        // what went wrong, else empty
};

struct SelfTest {
  std::vector<ShaderReport> shaders;
  std::map<std::string, std::string> matrix_units;  // by backend: what only the device itself could tell
};

#if METAL_MARLIN_MSL
using GpuRows = std::vector<msl::GpuReport>;
GpuRows gpus() {
  return msl::gpu_reports();
}

std::string matrix_unit_text(msl::Device& device) try {
  const msl::MatrixUnit& unit = device.matrix_unit();
  return fmt::format("elements in {} lanes, subnormal halves {}", unit.staged ? "other" : "the expected",
                     unit.flushes ? "are zeros" : "are kept");
} catch (const Error& error) {  // such as a metallib without the kernel that asks
  return fmt::format("not known: {}", error.what());
}

SelfTest test_shaders() {
  SelfTest out;
  for (const std::string& backend : {std::string("msl-host"), std::string("msl-metal"), std::string("msl-cuda")}) {
    const std::vector<std::string> there = msl::available_devices();
    if (std::find(there.begin(), there.end(), backend) == there.end()) continue;
    const std::unique_ptr<msl::Device> device = msl::make_device(backend);
    const std::vector<msl::ShaderStatus> results = msl::self_test(*device);
    out.matrix_units[backend] = matrix_unit_text(*device);
    out.shaders.resize(results.size());
    for (std::size_t i = 0; i < results.size(); ++i) {
      const msl::ShaderStatus& s = results[i];
      ShaderReport& report = out.shaders[i];
      report.name = s.shader;
      report.kernels = s.kernels;
      if (backend == "msl-host") {
        report.executed = s.executed;
        report.matched = s.matched;
      } else {
        report.gpu_matched[backend] = s.matched;
      }
      if (report.fault.empty()) report.fault = s.fault;
    }
  }
  return out;
}
#else
struct GpuRow {
  std::string backend;
  std::string text;
};
using GpuRows = std::vector<GpuRow>;
GpuRows gpus() {
  return {};
}
[[noreturn]] SelfTest test_shaders() {
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
  nlohmann::ordered_json gpu_texts = nlohmann::ordered_json::object();
  for (const auto& gpu : gpus()) gpu_texts[gpu.backend] = gpu.text;
  return {{"version", s.version},
          {"backends", s.backends},
          {"gpus", gpu_texts},
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
                   {"gpu_matched", r.gpu_matched},
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
  for (const auto& gpu : gpus()) fmt::print("{}: {}\n", gpu.backend, gpu.text);
  Rows models = {{"model", "recipe", "weights#", "bf16#", "quantized#", "all experts cold#"}};
  for (const RecipeReport& r : recipes) {
    models.push_back({r.model, r.recipe, count_text(static_cast<double>(r.weights)), byte_text(r.source_bytes),
                      byte_text(r.bytes), byte_text(r.bytes_all_cold)});
  }
  fmt::print("\n{}", render_table(models));
}

void print(const SelfTest& test) {
  Rows rows = {{"shader", "kernels#", "executed", "matched"}};
  const auto yes = [](bool v) { return std::string(v ? "yes" : "NO"); };
  for (const ShaderReport& r : test.shaders) {
    rows.push_back({r.name, std::to_string(r.kernels), yes(r.executed), yes(r.matched)});
    for (const auto& [backend, matched] : r.gpu_matched) {
      if (rows.size() == 2) rows.front().push_back(backend);
      rows.back().push_back(yes(matched));
    }
  }
  fmt::print("\n{}", render_table(rows));
  for (const auto& [backend, text] : test.matrix_units) fmt::print("matrix unit of {}: {}\n", backend, text);
  for (const ShaderReport& r : test.shaders) {
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
    SelfTest test;
    if (flags->self_test) test = test_shaders();
    if (flags->json) {
      nlohmann::ordered_json out = to_json(status(), recipe_reports());
      if (flags->self_test) {
        out["shaders"] = to_json(test.shaders);
        out["matrix_units"] = test.matrix_units;
      }
      fmt::print("{}\n", out.dump(2));
      return;
    }
    print(status(), recipe_reports());
    if (flags->self_test) print(test);
  });
}

}  // namespace metal_marlin::cli
