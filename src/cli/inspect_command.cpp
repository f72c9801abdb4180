#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "io/dtype.h"
#include "metal_marlin/inspect.h"
#include "metal_marlin/quantize.h"

namespace metal_marlin::cli {
namespace {

void print_json(const Inspection& model) {
  nlohmann::ordered_json out = {{"kind", model.kind},
                                {"architecture", model.architecture},
                                {"weights", model.weights},
                                {"bytes", model.bytes},
                                {"bits_per_weight", bits_per_weight(model.bytes, model.weights)}};
  out["config"] = nlohmann::ordered_json::parse(model.config_json);
  out["tensors"] = nlohmann::ordered_json::array();
  for (const InspectedTensor& tensor : model.tensors) {
    nlohmann::ordered_json entry = {{"name", tensor.name},
                                    {"shape", tensor.shape},
                                    {"format", tensor.stored_as},
                                    {"bytes", tensor.bytes},
                                    {"bits_per_weight", tensor.bits_per_weight}};
    if (!tensor.group.empty()) {
      entry["group"] = tensor.group;
      entry["scale_type"] = tensor.scale_type;
    }
    out["tensors"].push_back(std::move(entry));
  }
  fmt::print("{}\n", out.dump(2));
}

void print_table(const Inspection& model) {
  std::vector<std::vector<std::string>> rows{{"tensor", "shape", "format", "group#", "scale", "bits/weight#", "size#"}};
  for (const InspectedTensor& tensor : model.tensors) {
    rows.push_back({tensor.name, shape_text(tensor.shape), tensor.stored_as, tensor.group, tensor.scale_type,
                    fmt::format("{:.3f}", tensor.bits_per_weight), byte_text(tensor.bytes)});
  }
  auto config = nlohmann::ordered_json::parse(model.config_json);
  if (config.contains("quantization_config"))
    config["quantization_config"] = config["quantization_config"]["quant_method"];
  for (const auto& [key, value] : config.items()) fmt::print("{}: {}\n", key, value.dump());
  fmt::print("\n{}\n{} {}: {} tensors, {} weights, {}, {:.3f} bits/weight\n", render_table(rows), model.architecture,
             model.kind, model.tensors.size(), count_text(static_cast<double>(model.weights)), byte_text(model.bytes),
             bits_per_weight(model.bytes, model.weights));
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto* const command = app.add_subcommand("inspect", "Show a model's configuration, tensors, formats and sizes");
  struct Flags {
    std::string path;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  command->add_option("path", flags->path, "Hugging Face folder, quantized folder, GGUF or ONNX file")->required();
  command->add_flag("--json", flags->json, "print JSON");
  command->footer("Example:\n  metal-marlin inspect Qwen3-4B-fp4 --json");
  command->callback([flags] {
    const Inspection model = inspect(flags->path);
    if (flags->json) {
      print_json(model);
    } else {
      print_table(model);
    }
  });
}

void add_status(CLI::App& app) {
  auto* const command = app.add_subcommand("status", "Show version, backends, formats and architectures");
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "print JSON");
  command->footer("Example:\n  metal-marlin status --json");
  command->callback([json] {
    const Status s = status();
    std::vector<std::vector<std::string>> rows = {
        {"shader", "kernels#", "compiled", "strict", "executed", "matched", "CUDA"}};
    nlohmann::ordered_json shaders = nlohmann::ordered_json::array();
    const auto yes = [](bool v) { return std::string(v ? "yes" : "NO"); };
    for (const ShaderReport& r : s.shaders) {
      rows.push_back(
          {r.name, std::to_string(r.kernels), yes(r.compiled), yes(r.strict), yes(r.executed), yes(r.matched), r.cuda});
      shaders.push_back({{"name", r.name},
                         {"kernels", r.kernels},
                         {"compiled", r.compiled},
                         {"strict", r.strict},
                         {"executed", r.executed},
                         {"matched", r.matched},
                         {"cuda", r.cuda},
                         {"fault", r.fault}});
    }
    std::vector<std::vector<std::string>> models = {
        {"model", "recipe", "weights#", "bf16#", "quantized#", "all experts cold#"}};
    nlohmann::ordered_json recipes = nlohmann::ordered_json::array();
    for (const RecipeReport& r : recipe_reports()) {
      models.push_back({r.model, r.recipe, count_text(static_cast<double>(r.weights)), byte_text(r.source_bytes),
                        byte_text(r.bytes), byte_text(r.bytes_all_cold)});
      recipes.push_back({{"model", r.model},
                         {"recipe", r.recipe},
                         {"weights", r.weights},
                         {"source_bytes", r.source_bytes},
                         {"bytes", r.bytes},
                         {"bytes_all_cold", r.bytes_all_cold}});
    }
    if (*json) {
      const nlohmann::ordered_json out = {{"version", s.version},
                                          {"backends", s.backends},
                                          {"metallib", s.metallib},
                                          {"instruction_sets", s.instruction_sets},
                                          {"threads", s.threads},
                                          {"formats", s.formats},
                                          {"architectures", s.architectures},
                                          {"shaders", shaders},
                                          {"recipes", recipes}};
      fmt::print("{}\n", out.dump(2));
      return;
    }
    fmt::print(
        "metal-marlin {}\nbackends: {}\n{}instruction sets: {} (the first is used)\nthreads: {}\nformats: "
        "{}\narchitectures: {}\n\n{}",
        s.version, fmt::join(s.backends, ", "),
        s.metallib.empty() ? "" : fmt::format("kernels of msl-host: {}\n", s.metallib),
        fmt::join(s.instruction_sets, ", "), s.threads, fmt::join(s.formats, ", "), fmt::join(s.architectures, ", "),
        render_table(rows));
    for (const ShaderReport& r : s.shaders) {
      if (!r.fault.empty()) fmt::print("blocker: {}: {}\n", r.name, r.fault);
    }
    fmt::print("\n{}", render_table(models));
  });
}

}  // namespace metal_marlin::cli
