#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "base/printable.h"
#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "io/dtype.h"
#include "metal_marlin/inspect.h"

namespace metal_marlin::cli {
namespace {

void print_json(const Inspection& model) {
  nlohmann::ordered_json out = {{"kind", model.kind},
                                {"architecture", model.architecture},
                                {"weights", model.weights},
                                {"bytes", model.bytes},
                                {"bits_per_weight", bits_per_weight(model.bytes, model.weights)}};
  if (model.memory) {
    out["memory"] = {{"weights", model.memory->weights},
                     {"workspace", model.memory->workspace},
                     {"cache_token", model.memory->cache_token}};
  }
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
    rows.push_back({printable_line(tensor.name), shape_text(tensor.shape), tensor.stored_as, tensor.group,
                    tensor.scale_type, fmt::format("{:.3f}", tensor.bits_per_weight), byte_text(tensor.bytes)});
  }
  auto config = nlohmann::ordered_json::parse(model.config_json);
  if (config.contains("quantization_config"))
    config["quantization_config"] = config["quantization_config"]["quant_method"];
  for (const auto& [key, value] : config.items()) fmt::print("{}: {}\n", printable_line(key), printable(value.dump()));
  fmt::print("\n{}\n{} {}: {} tensors, {} weights, {}, {:.3f} bits/weight\n", render_table(rows),
             printable_line(model.architecture), model.kind, model.tensors.size(),
             count_text(static_cast<double>(model.weights)), byte_text(model.bytes),
             bits_per_weight(model.bytes, model.weights));
  if (model.memory) {
    fmt::print("in memory: weights {}, a session {}, cache {} a token\n", byte_text(model.memory->weights),
               byte_text(model.memory->workspace), byte_text(model.memory->cache_token));
  } else {
    fmt::print("cannot be run: {}\n", printable(model.not_run));
  }
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

}  // namespace metal_marlin::cli
