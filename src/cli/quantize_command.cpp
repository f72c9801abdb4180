#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "cli/commands.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "metal_marlin/error.h"
#include "metal_marlin/quantize.h"
#include "runtime/memory.h"

namespace metal_marlin::cli {
namespace {

struct Flags {
  std::string source;
  std::string destination;
  std::string format = "fp4";
  std::string method = "rtn";
  std::string group;
  std::string scale_type;
  std::string zero;
  std::string embedding = "int8";
  std::size_t shard_megabytes = 5120;
  bool json = false;
  QuantizeOptions options;
};

FormatSpec spec_of(const Flags& flags) {
  FormatSpec spec = default_spec(parse_format(flags.format));
  if (!flags.group.empty()) spec.group = parse_group(flags.group);
  if (!flags.scale_type.empty()) spec.scale_type = parse_scale_type(flags.scale_type);
  if (!flags.zero.empty()) spec.zero = parse_zero_kind(flags.zero);
  validate(spec);
  return spec;
}

// One line for all layers' tensors of the same role, source and format.
struct Line {
  std::string role;
  std::string source;
  std::string format;
  int count = 0;
  std::int64_t weights = 0;
  std::size_t before = 0;
  std::size_t after = 0;
  double worst_error = 0;
};

// The name with the numbers of layer and expert replaced by stars.
std::string role_of(const std::string& name) {
  static const std::regex number("\\.(layers|experts)\\.[0-9]+\\.");
  return std::regex_replace(name, number, ".$1.*.");
}

std::vector<Line> group_lines(const QuantizeReport& report) {
  std::vector<Line> lines;
  for (const QuantizedTensor& tensor : report.tensors) {
    const std::string role = role_of(tensor.name);
    const auto same = [&](const Line& line) {
      return line.role == role && line.source == tensor.source && line.format == tensor.format;
    };
    auto found = std::find_if(lines.begin(), lines.end(), same);
    if (found == lines.end()) found = lines.insert(lines.end(), Line{role, tensor.source, tensor.format});
    ++found->count;
    found->weights += tensor.weights;
    found->before += tensor.source_bytes;
    found->after += tensor.bytes;
    found->worst_error = std::max(found->worst_error, tensor.relative_error);
  }
  return lines;
}

void print_table(const QuantizeReport& report) {
  std::vector<std::vector<std::string>> rows{
      {"tensors", "count#", "from", "to", "bits/weight#", "before#", "after#", "worst error#"}};
  Line total;
  for (const Line& line : group_lines(report)) {
    rows.push_back({line.role, std::to_string(line.count), line.source, line.format,
                    fmt::format("{:.3f}", bits_per_weight(line.after, line.weights)), byte_text(line.before),
                    byte_text(line.after), line.worst_error == 0 ? "" : fmt::format("{:.4f}", line.worst_error)});
    total.count += line.count;
    total.weights += line.weights;
    total.before += line.before;
    total.after += line.after;
  }
  rows.push_back({"total", std::to_string(total.count), "", "",
                  fmt::format("{:.3f}", bits_per_weight(total.after, total.weights)), byte_text(total.before),
                  byte_text(total.after), ""});
  fmt::print("{}", render_table(rows));
}

void print_json(const Flags& flags, const QuantizeReport& report) {
  nlohmann::ordered_json out;
  out["destination"] = flags.destination;
  out["quant_method"] = report.quant_method;
  out["seconds"] = report.seconds;
  std::int64_t weights = 0;
  std::size_t before = 0;
  std::size_t after = 0;
  for (const QuantizedTensor& tensor : report.tensors) {
    weights += tensor.weights;
    before += tensor.source_bytes;
    after += tensor.bytes;
    out["tensors"].push_back({{"name", tensor.name},
                              {"shape", tensor.shape},
                              {"source", tensor.source},
                              {"format", tensor.format},
                              {"bits_per_weight", bits_per_weight(tensor.bytes, tensor.weights)},
                              {"source_bytes", tensor.source_bytes},
                              {"bytes", tensor.bytes},
                              {"relative_error", tensor.relative_error},
                              {"method", method_name(tensor.method)}});
    if (!tensor.fallback.empty()) out["tensors"].back()["fallback"] = tensor.fallback;
    if (tensor.output_error > 0) {
      out["tensors"].back()["output_error"] = tensor.output_error;
      out["tensors"].back()["output_error_rtn"] = tensor.output_error_rtn;
    }
  }
  if (!report.expert_counts.empty()) out["expert_counts"] = report.expert_counts;
  out["weights"] = weights;
  out["source_bytes"] = before;
  out["bytes"] = after;
  out["bits_per_weight"] = bits_per_weight(after, weights);
  fmt::print("{}\n", out.dump(2));
}

void run(Flags& flags) {
  flags.options.spec = spec_of(flags);
  flags.options.method = parse_method(flags.method);
  if (flags.embedding == "keep") {
    flags.options.embedding.reset();
  } else {
    flags.options.embedding = default_spec(parse_format(flags.embedding));
  }
  flags.options.shard_bytes = flags.shard_megabytes << 20;
  flags.options.notice = print_notice;
  QuantizeReport report;
  {
    ProgressBar tokens("calibrate", "tokens");
    ProgressBar weights("quantize", "weights");
    flags.options.progress = [&](const QuantizeProgress& progress) {
      ProgressBar& bar = progress.calibrating ? tokens : weights;
      bar.update(static_cast<double>(progress.done_weights), static_cast<double>(progress.total_weights),
                 progress.tensor);
      return !interrupted();
    };
    report = quantize(flags.source, flags.destination, flags.options);
  }
  if (flags.json) {
    print_json(flags, report);
    return;
  }
  print_table(report);
  fmt::print("wrote {} ({}) in {:.1f} s\n", flags.destination, report.quant_method, report.seconds);
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto* const command = app.add_subcommand("quantize", "Quantize a model into a new folder");
  auto flags = std::make_shared<Flags>();
  std::string formats;
  for (const FormatInfo& info : all_formats()) {
    if (info.selectable) formats += fmt::format("{}{}", formats.empty() ? "" : ", ", info.name);
  }
  command->add_option("source", flags->source, "Hugging Face folder, quantized folder or GGUF file")->required();
  command->add_option("-o,--output", flags->destination, "folder to write")->required();
  auto* const recipe = command->add_option("--recipe", flags->options.recipe,
                                           "formats by rules, of a file or built in: qwen3-4b, glm-4.7-flash");
  command
      ->add_option("--method", flags->method,
                   "rtn (to the nearest), rtn-weighted (errors weighted by the inputs on a text), gptq")
      ->capture_default_str();
  command->add_option("--calibration", flags->options.calibration,
                      "text for the method, and on which the use of experts is counted for a recipe; without it a "
                      "recipe's cold experts are all");
  command->add_option("--calibration-tokens", flags->options.calibration_tokens, "tokens of that text")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 32))
      ->capture_default_str();
  command->add_option("--format", flags->format, "format of the linear layers: " + formats)
      ->excludes(recipe)
      ->capture_default_str();
  command->add_option("--group", flags->group, "inputs that share a scale: 16, 32, 64, 128 or row; default 32")
      ->excludes(recipe);
  command
      ->add_option("--scale-type", flags->scale_type, "f16, bf16 or f32, where the format leaves it open; default f16")
      ->excludes(recipe);
  command->add_option("--zero", flags->zero, "of u4: min (a minimum, default) or int (an integer zero point)")
      ->excludes(recipe);
  command->add_option("--embedding-format", flags->embedding, "format of embeddings and output head, or keep")
      ->excludes(recipe)
      ->capture_default_str();
  command->add_option("--include", flags->options.include,
                      "quantize only linear layers whose name matches; repeatable");
  command->add_option("--exclude", flags->options.exclude, "keep tensors whose name matches; repeatable");
  command->add_option("--threads", flags->options.threads, "threads; 0: one per usable core")
      ->check(CLI::Range(0, 4096));
  command->add_option("--shard-size", flags->shard_megabytes, "largest file, in MiB")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_flag("--overwrite", flags->options.overwrite, "replace the folder if it exists");
  command->add_flag("--json", flags->json, "print the report as JSON");
  command->footer(
      "Examples:\n"
      "  metal-marlin quantize Qwen3-4B -o Qwen3-4B-fp4\n"
      "  metal-marlin quantize model.gguf -o out --format u4 --group 64 --exclude 'layers\\.0\\.'\n"
      "  metal-marlin quantize Llama-3.2-1B -o out --format s4 --group 128 --embedding-format keep\n"
      "    (a compressed-tensors folder, which vLLM loads)\n"
      "  metal-marlin quantize Qwen3-4B -o out --format s4 --group 128 --method gptq --calibration text.txt\n"
      "  metal-marlin quantize GLM-4.7-Flash -o out --recipe glm-4.7-flash --calibration text.txt");
  command->callback([flags] { run(*flags); });
}

}  // namespace metal_marlin::cli
