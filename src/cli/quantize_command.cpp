#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "cli/table.h"
#include "formats/spec_text.h"
#include "io/sources.h"
#include "metal_marlin/error.h"
#include "metal_marlin/quantize.h"
#include "quantize/report.h"
#include "runtime/model_impl.h"

namespace metal_marlin::cli {
namespace {

struct QuantizeFlags {
  std::string source;
  std::string destination;
  std::string format = "fp4";
  std::string method = "rtn";
  std::string group;
  std::string scale_type;
  std::string zero;
  std::string sparsity;
  std::string embedding = "int8";
  std::vector<std::string> candidates;
  std::string evaluation;
  std::size_t evaluation_tokens = 8192;
  std::size_t shard_megabytes = 5120;
  bool json = false;
  QuantizeOptions options;
};

FormatSpec spec_of(const QuantizeFlags& flags) {
  return parse_spec({flags.format, flags.group, flags.scale_type, flags.zero, flags.sparsity});
}

// "int3:64": a format and its group.
FormatSpec candidate_of(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) return parse_spec({text});
  const std::string_view group = std::string_view(text).substr(colon + 1);
  if (group.empty()) throw Error(ErrorCode::kInvalidArgument, fmt::format("'{}' ends without a group", text));
  return parse_spec({std::string_view(text).substr(0, colon), group});
}

void print_table(const QuantizeReport& report) {
  std::vector<std::vector<std::string>> rows{
      {"tensors", "count#", "from", "to", "method", "bits/weight#", "before#", "after#", "worst error#"}};
  ReportLine total;
  for (const ReportLine& line : report_lines(report)) {
    rows.push_back({line.role, std::to_string(line.count), line.source, line.format,
                    line.worst_error == 0 ? "" : std::string(method_name(line.method)),
                    fmt::format("{:.3f}", bits_per_weight(line.bytes, line.weights)), byte_text(line.source_bytes),
                    byte_text(line.bytes), line.worst_error == 0 ? "" : fmt::format("{:.4f}", line.worst_error)});
    total.count += line.count;
    total.weights += line.weights;
    total.source_bytes += line.source_bytes;
    total.bytes += line.bytes;
  }
  rows.push_back({"total", std::to_string(total.count), "", "", "",
                  fmt::format("{:.3f}", bits_per_weight(total.bytes, total.weights)), byte_text(total.source_bytes),
                  byte_text(total.bytes), ""});
  fmt::print("{}", render_table(rows));
}

// What the result is to be measured on. It is read before the work, which may take hours, and must outlive it.
struct EvaluationText {
  std::vector<TokenId> tokens;
  EvaluateOptions options;
};

EvaluationText read_evaluation_text(const QuantizeFlags& flags) {
  if (flags.options.calibration == flags.evaluation && !std::filesystem::is_regular_file(flags.evaluation))
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--evaluate and --calibration: both are {}, which can be read once", flags.evaluation));
  Sources text;
  text.add(flags.evaluation);
  text.refuse(flags.destination);
  const auto tokenizer = tokenizer_of(*open_checkpoint(flags.source));
  if (!tokenizer) throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", flags.source));
  EvaluationText out;
  out.tokens = evaluation_tokens(*tokenizer, flags.evaluation, flags.evaluation_tokens, out.options);
  constexpr std::size_t kFewest = 3;  // of which one can be scored
  if (out.tokens.size() < kFewest)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} tokens, too few: nothing can be scored", flags.evaluation, out.tokens.size()));
  out.options.context = std::min(out.options.context, static_cast<int>(out.tokens.size()));
  return out;
}

// Perplexity of the result, and its divergence from the source.
Evaluation evaluate_result(const QuantizeFlags& flags, const std::vector<TokenId>& tokens, EvaluateOptions options) {
  LoadOptions load;
  load.threads = flags.options.threads;
  const auto model = Model::load(flags.destination, load);
  options.reference = Model::load(flags.source, load);
  ProgressBar bar("eval", "windows");
  options.progress = [&](std::int64_t done, std::int64_t total) {
    bar.update(static_cast<double>(done), static_cast<double>(total));
    return !interrupted();
  };
  return evaluate(model, tokens, options);
}

void run_quantize(QuantizeFlags& flags) {
  flags.options.spec = spec_of(flags);
  flags.options.method = parse_method(flags.method);
  for (const std::string& candidate : flags.candidates) flags.options.candidates.push_back(candidate_of(candidate));
  if (flags.embedding == "keep") {
    flags.options.embedding.reset();
  } else {
    flags.options.embedding = default_spec(parse_format(flags.embedding));
  }
  flags.options.shard_bytes = flags.shard_megabytes << 20;
  std::optional<EvaluationText> text;
  if (!flags.evaluation.empty()) text = read_evaluation_text(flags);
  QuantizeReport report = quantize_with_progress(flags.source, flags.destination, flags.options);
  if (text) {
    report.evaluation = evaluate_result(flags, text->tokens, text->options);
    write_report(flags.destination, report);
  }
  if (flags.json) {
    Json out = report_json(report);
    out["destination"] = flags.destination;
    fmt::print("{}\n", out.dump(2));
    return;
  }
  print_table(report);
  if (report.evaluation) {
    fmt::print("perplexity {:.4f}, of the source {:.4f}; mean KL divergence {:.6f}\n", report.evaluation->perplexity,
               report.evaluation->divergence->reference_perplexity, report.evaluation->divergence->mean_kl);
  }
  fmt::print("wrote {} ({}) in {:.1f} s\n", flags.destination, report.quant_method, report.seconds);
}

void add_method_options(CLI::App& command, QuantizeFlags& flags) {
  command
      .add_option("--method", flags.method,
                  "rtn (to the nearest), rtn-weighted (errors weighted by the inputs on a text), gptq, mr-gptq (gptq "
                  "of rotated weights); of a recipe's rules that name none too")
      ->capture_default_str();
  command
      .add_option("--rotation", flags.options.rotation,
                  "of mr-gptq: inputs that are rotated together, 16, 32, 64 or 128; default: the most that fit")
      ->check(CLI::IsMember({16, 32, 64, 128}));
  command
      .add_option("--memory", flags.options.memory, "memory that must do, such as 3GiB; refused at once if it cannot")
      ->transform(CLI::AsSizeValue(false));
  command.add_option_function<std::string>(
      "--merge-lora", [&flags](const std::string& text) { flags.options.merge = parse_adapter(text); },
      "folder of a LoRA adapter that PEFT saved, which is added to the weights first; PATH:0.5 halves it");
  command.add_option("--calibration", flags.options.calibration,
                     "text for the method, and on which the use of experts is counted for a recipe; without it a "
                     "recipe's cold experts are all");
  command.add_option("--backend", flags.options.backend, "what runs the model on that text, as of generate")
      ->capture_default_str();
  command.add_option("--calibration-tokens", flags.options.calibration_tokens, "tokens of that text")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 32))
      ->capture_default_str();
}

// recipe: the option that tells all of these itself.
void add_format_options(CLI::App& command, QuantizeFlags& flags, CLI::Option* recipe) {
  std::string formats;
  for (const FormatInfo& info : all_formats()) {
    if (info.selectable) formats += fmt::format("{}{}", formats.empty() ? "" : ", ", info.name);
  }
  command.add_option("--format", flags.format, "format of the linear layers: " + formats)
      ->excludes(recipe)
      ->capture_default_str();
  command.add_option("--group", flags.group, "inputs that share a scale: 16, 32, 64, 128 or row; default 32")
      ->excludes(recipe);
  command
      .add_option("--scale-type", flags.scale_type, "f16, bf16 or f32, where the format leaves it open; default f16")
      ->excludes(recipe);
  command.add_option("--zero", flags.zero, "of u4: min (a minimum, default) or int (an integer zero point)")
      ->excludes(recipe);
  auto* const sparsity =
      command
          .add_option("--sparsity", flags.sparsity,
                      "2:4: of each four neighbours in a row two become zero; of fp4, mxfp4, nvfp4 and s4")
          ->check(CLI::IsMember({"2:4"}))
          ->excludes(recipe);
  auto* const target =
      command
          .add_option("--target-bpw", flags.options.target_bpw,
                      "bits a weight of the linear layers together: each gets the format that costs the model least")
          ->check(CLI::Range(1.0, 16.0))
          ->excludes(sparsity)
          ->excludes(recipe);
  add_list(command, "--candidates", flags.candidates,
           "for the target: formats and groups to choose from, such as int3:64,s4:128; repeatable")
      ->delimiter(',')
      ->needs(target);
  command
      .add_option("--curves", flags.options.curves,
                  "for the target: a file of what candidates cost, read if it is there, else written")
      ->needs(target);
  command.add_option("--embedding-format", flags.embedding, "format of embeddings and output head, or keep")
      ->excludes(recipe)
      ->capture_default_str();
}

void add_run_options(CLI::App& command, QuantizeFlags& flags) {
  command.add_option("--evaluate", flags.evaluation,
                     "text on which the result is measured beside the source: perplexity and KL, into the report too");
  command.add_option("--evaluate-tokens", flags.evaluation_tokens, "tokens of that text")->capture_default_str();
  add_list(command, "--include", flags.options.include, "quantize only linear layers whose name matches; repeatable");
  add_list(command, "--exclude", flags.options.exclude, "keep tensors whose name matches; repeatable");
  command.add_option("--threads", flags.options.threads, "threads; 0: one per usable core")->check(CLI::Range(0, 4096));
  command.add_option("--shard-size", flags.shard_megabytes, "largest file, in MiB")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command.add_flag("--overwrite", flags.options.overwrite, "replace the folder if it exists");
  command.add_flag("--json", flags.json, "print the report as JSON");
}

}  // namespace

QuantizeReport quantize_with_progress(const std::filesystem::path& source, const std::filesystem::path& destination,
                                      QuantizeOptions options) {
  ProgressBar layers("calibrate", "layers");
  ProgressBar weights("quantize", "weights");
  options.notice = print_notice;
  options.progress = [&](const QuantizeProgress& progress) {
    ProgressBar& bar = progress.calibrating ? layers : weights;
    bar.update(static_cast<double>(progress.done_weights), static_cast<double>(progress.total_weights),
               progress.output_error > 0 ? fmt::format("{} error {:.3f}", progress.tensor, progress.output_error)
                                         : progress.tensor);
    return !interrupted();
  };
  return quantize(source, destination, options);
}

void add_quantize(CLI::App& app) {
  auto* const command = app.add_subcommand("quantize", "Quantize a model into a new folder");
  auto flags = std::make_shared<QuantizeFlags>();
  command->add_option("source", flags->source, "Hugging Face folder, quantized folder, GGUF or ONNX file")->required();
  command->add_option("-o,--output", flags->destination, "folder to write")->required();
  auto* const recipe = command->add_option("--recipe", flags->options.recipe,
                                           "formats by rules, of a file or built in: qwen3-4b, glm-4.7-flash");
  add_method_options(*command, *flags);
  add_format_options(*command, *flags, recipe);
  add_run_options(*command, *flags);
  command->footer(
      "Examples:\n"
      "  metal-marlin quantize Qwen3-4B -o Qwen3-4B-fp4\n"
      "  metal-marlin quantize model.gguf -o out --format u4 --group 64 --exclude 'layers\\.0\\.'\n"
      "  metal-marlin quantize Llama-3.2-1B -o out --format s4 --group 128 --embedding-format keep\n"
      "    (a compressed-tensors folder, which vLLM loads)\n"
      "  metal-marlin quantize Qwen3-4B -o out --format s4 --group 128 --method gptq --calibration text.txt\n"
      "  metal-marlin quantize Qwen3-4B -o out --format mxfp4 --method mr-gptq --calibration text.txt\n"
      "  metal-marlin quantize Qwen3-4B -o out --format s4 --sparsity 2:4 --method gptq --calibration text.txt\n"
      "  metal-marlin quantize Qwen3-4B -o out --target-bpw 3.5 --curves curves.json --method gptq --calibration "
      "text.txt\n"
      "  metal-marlin quantize GLM-4.7-Flash -o out --recipe glm-4.7-flash --calibration text.txt\n"
      "A run that was cut off goes on where it stopped when it is started again with the same options.");
  command->callback([flags] { run_quantize(*flags); });
}

}  // namespace metal_marlin::cli
