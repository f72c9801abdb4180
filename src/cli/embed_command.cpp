#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/model_source.h"
#include "cli/progress_bar.h"
#include "io/npy.h"
#include "io/sources.h"
#include "io/text_file.h"
#include "metal_marlin/embed.h"

namespace metal_marlin::cli {
namespace {

struct EmbedFlags {
  ModelFlags model;
  SourceFlags source;
  std::string file = "-";
  std::string output;
  std::string pooling;
  std::string prompt_name;
  std::int64_t dimensions = 0;
  std::int64_t context = 0;
  int step_tokens = 512;
  bool json = false;
  bool no_normalize = false;
};

// Of a file, each a text.
std::vector<std::string> lines_of_file(const std::string& path) {
  const std::string text = read_text_file(path);
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: line {} is empty, expected a text in each", path, lines.size() + 1));
    }
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  if (lines.empty()) throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: there is no text in it", path));
  return lines;
}

void write_vectors(const EmbedFlags& flags, const std::vector<std::vector<float>>& vectors,
                   const EmbedOptions& options) {
  const auto dimensions = static_cast<std::int64_t>(vectors.front().size());
  if (!flags.output.empty()) {
    std::vector<float> all;
    for (const std::vector<float>& vector : vectors) all.insert(all.end(), vector.begin(), vector.end());
    return write_npy(flags.output, "<f4", {static_cast<std::int64_t>(vectors.size()), dimensions},
                     std::as_bytes(std::span(all)));
  }
  if (!flags.json) {
    for (const std::vector<float>& vector : vectors) fmt::print("{}\n", nlohmann::json(vector).dump());
    return;
  }
  const nlohmann::ordered_json report = {{"pooling", pooling_name(options.form.pooling)},
                                         {"normalized", options.form.normalize},
                                         {"dimensions", dimensions},
                                         {"embeddings", vectors}};
  fmt::print("{}\n", report.dump());
}

void run_embed(EmbedFlags& flags) {
  const ModelSource source = find_model(flags.model.path, flags.source, flags.model.load.threads);
  if (!flags.output.empty()) {
    Sources sources;
    if (flags.file != "-") sources.add(flags.file);
    sources.add_model(source.path);
    sources.refuse(flags.output);
  }
  const EmbeddingConfig config = read_embedding_config(source.path);
  EmbedOptions options;
  options.form.pooling = flags.pooling.empty() ? config.pooling : parse_pooling(flags.pooling);
  options.form.normalize = config.normalize && !flags.no_normalize;
  options.form.dimensions = flags.dimensions;
  options.prompt = config.prompt(flags.prompt_name);
  options.include_prompt = config.include_prompt;
  options.context = flags.context;
  options.step_tokens = flags.step_tokens;
  const std::vector<std::string> lines = lines_of_file(flags.file);
  flags.model.path = source.path.string();
  options.adapter = flags.model.lora;
  const auto model = flags.model.load_model();
  if (!config.is_described && flags.pooling.empty()) {
    print_notice(fmt::format("{}: no file tells how its vectors are pooled: the mean of all tokens (--pooling)",
                             source.path.string()));
  }
  ProgressBar bar("embed", "tokens");
  options.progress = [&](std::int64_t done, std::int64_t total) {
    bar.update(static_cast<double>(done), static_cast<double>(total));
    return !interrupted();
  };
  write_vectors(flags, embed(model, lines, options), options);
}

}  // namespace

void add_embed(CLI::App& app) {
  auto* const command = app.add_subcommand("embed", "Turn texts into vectors");
  auto flags = std::make_shared<EmbedFlags>();
  command->add_option("model", flags->model.path, kModelHelp)->required();
  flags->source.add(*command);
  flags->model.add_load(*command);
  flags->model.add_lora(*command);
  command->add_option("-f,--file", flags->file, "texts, one a line; -: standard input")->capture_default_str();
  auto* const json = command->add_flag("--json", flags->json, "print one JSON object; else a JSON list for each text");
  command->add_option("-o,--output", flags->output, "write an array to this .npy file: f32 [texts, dimensions]")
      ->excludes(json);
  command->add_option("--pooling", flags->pooling, "mean, last or cls; default: what the model's files say, else mean")
      ->check(CLI::IsMember({"mean", "last", "cls"}));
  command->add_flag("--no-normalize", flags->no_normalize, "leave vectors as long as they are");
  command->add_option("--dimensions", flags->dimensions, "the first so many elements of vectors; 0: all")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 24));
  command->add_option("--prompt-name", flags->prompt_name,
                      "which of the model's prompts goes before texts, such as query; default: what its files say");
  command->add_option("--context", flags->context, "most tokens of a text; 0: what the model has")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  command->add_option("--step-tokens", flags->step_tokens, "most tokens in a step, of several texts together")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->footer(
      "Examples:\n  metal-marlin embed Qwen3-Embedding-0.6B -f texts.txt -o vectors.npy\n"
      "  echo 'What is 2 + 2?' | metal-marlin embed Qwen3-Embedding-0.6B --prompt-name query --dimensions 256 --json\n"
      "docs/embeddings.md tells how vectors are made.");
  command->callback([flags] { run_embed(*flags); });
}

}  // namespace metal_marlin::cli
