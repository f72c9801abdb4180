// `metal-marlin compare`: several quantized models beside the one they were made of.
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "io/file_write.h"
#include "io/sources.h"
#include "metal_marlin/error.h"
#include "metal_marlin/evaluate.h"
#include "metal_marlin/inspect.h"
#include "quantize/svg.h"

namespace metal_marlin::cli {
namespace {

struct CompareFlags {
  ModelFlags model;
  std::vector<std::string> models;
  std::string text_file;
  std::string plot;
  std::size_t max_tokens = 0;
  bool json = false;
  EvaluateOptions options;
};

struct Row {
  std::string name;
  double bits_per_weight = 0;
  std::size_t bytes = 0;
  Evaluation evaluation;
};

// The last part of a path, also of one that ends in a slash.
std::string name_of(const std::string& path) {
  const std::filesystem::path plain = std::filesystem::path(path).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).filename().string();
}

Row measure(CompareFlags& flags, const std::string& path, std::span<const TokenId> tokens) {
  const Inspection inspection = inspect(path);
  Row row{name_of(path), bits_per_weight(inspection.bytes, inspection.weights), inspection.bytes, {}};
  const auto model = flags.model.load_model(path);
  ProgressBar bar(row.name, "windows");
  flags.options.progress = [&](std::int64_t done, std::int64_t total) {
    bar.update(static_cast<double>(done), static_cast<double>(total));
    return !interrupted();
  };
  row.evaluation = evaluate(model, tokens, flags.options);
  return row;
}

void print_json(const std::vector<Row>& rows) {
  nlohmann::ordered_json out = {{"reference_perplexity", rows.front().evaluation.divergence->reference_perplexity}};
  for (const Row& row : rows) {
    const Divergence& d = *row.evaluation.divergence;
    out["models"].push_back({{"model", row.name},
                             {"bits_per_weight", row.bits_per_weight},
                             {"bytes", row.bytes},
                             {"perplexity", row.evaluation.perplexity},
                             {"mean_kl", d.mean_kl},
                             {"mean_kl_error", d.mean_kl_error},
                             {"top1_agreement", d.top1_agreement}});
  }
  fmt::print("{}\n", out.dump(2));
}

void print_table(const std::vector<Row>& rows) {
  std::vector<std::vector<std::string>> table{
      {"model", "bits/weight#", "size#", "perplexity#", "mean KL#", "+-#", "top-1 agreement#"}};
  for (const Row& row : rows) {
    const Divergence& d = *row.evaluation.divergence;
    table.push_back({row.name, fmt::format("{:.3f}", row.bits_per_weight), byte_text(row.bytes),
                     fmt::format("{:.4f}", row.evaluation.perplexity), fmt::format("{:.5f}", d.mean_kl),
                     fmt::format("{:.5f}", d.mean_kl_error), fmt::format("{:.2f}%", 100 * d.top1_agreement)});
  }
  fmt::print("{}reference perplexity {:.4f}\n", render_table(table),
             rows.front().evaluation.divergence->reference_perplexity);
}

void write_plot(const std::string& path, const std::vector<Row>& rows) {
  std::vector<PlotPoint> points;
  for (const Row& row : rows) {
    // A model that is its own reference has none to show on a logarithmic scale.
    if (row.evaluation.divergence->mean_kl > 0)
      points.push_back({row.name, row.bits_per_weight, row.evaluation.divergence->mean_kl});
  }
  write_file_atomically(path, svg_file(scatter_plot(points, "bits per weight", "mean KL divergence, nats")));
}

void run_compare(CompareFlags& flags) {
  if (!flags.plot.empty() && !flags.plot.ends_with(".svg"))
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--plot {}: a name that ends in .svg is expected", flags.plot));
  if (!flags.plot.empty()) {
    Sources sources;
    sources.add(flags.text_file);
    sources.add_model(flags.model.path);
    for (const std::string& path : flags.models) sources.add_model(path);
    sources.refuse(flags.plot);
  }
  flags.options.reference = flags.model.load_model();
  const std::vector<TokenId> tokens =
      evaluation_tokens(*flags.options.reference->tokenizer(), flags.text_file, flags.max_tokens, flags.options);
  std::vector<Row> rows;
  for (const std::string& path : flags.models) rows.push_back(measure(flags, path, tokens));
  if (!flags.plot.empty()) write_plot(flags.plot, rows);
  if (flags.json) {
    print_json(rows);
  } else {
    print_table(rows);
  }
}

}  // namespace

void add_compare(CLI::App& app) {
  auto* const command = app.add_subcommand("compare", "Set quantized models beside the one that they were made of");
  auto flags = std::make_shared<CompareFlags>();
  flags->model.add(*command);
  command->add_option("models", flags->models, "quantized folders, GGUF or ONNX files")->required();
  command->add_option("--text", flags->text_file, "text file; -: standard input")->required();
  command->add_option("--plot", flags->plot, "SVG file for bits per weight against KL divergence");
  command->add_option("--context", flags->options.context, "tokens in a window")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  command->add_option("--max-tokens", flags->max_tokens, "use only the first tokens of the text; 0: all")
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "The first model is the reference.\nExample:\n"
      "  metal-marlin compare Qwen3-4B Qwen3-4B-fp4 Qwen3-4B-s4 --text wiki.test.raw --max-tokens 32768 --plot kl.svg");
  command->callback([flags] { run_compare(*flags); });
}

}  // namespace metal_marlin::cli
