#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "io/file_write.h"
#include "io/safetensors.h"
#include "io/sources.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct LogitsFlags {
  ModelFlags model;
  std::string ids_file;
  std::string output;
  int batch = 512;
};

void run_logits(const LogitsFlags& flags) {
  Sources sources;
  sources.add(flags.ids_file);
  sources.add_model(flags.model.path);
  sources.refuse(flags.output);
  OutputFile file(flags.output);
  const std::vector<TokenId> ids = read_ids(flags.ids_file);
  if (ids.empty()) throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: no token ids", flags.ids_file));
  const auto model = flags.model.load_model();
  notice_context(model->info(), ids.size(), 0);
  SessionOptions options;
  options.cache_tokens = static_cast<std::int64_t>(ids.size());
  options.batch_tokens = static_cast<int>(std::min(static_cast<std::size_t>(flags.batch), ids.size()));
  options.batch_logits = std::min(options.batch_tokens, 64);
  Session session(model, options);
  const SequenceId sequence = session.open();
  SafetensorsWriter writer(file.partial(),
                           {{"logits", DType::kF32, {static_cast<std::int64_t>(ids.size()), model->info().vocab}}});
  ProgressBar bar("logits", "tokens");
  session.step(std::array{SequenceInput{sequence, ids, 0}}, [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows) writer.write(std::as_bytes(row.values));
    bar.update(static_cast<double>(rows.back().token + 1), static_cast<double>(ids.size()));
    if (interrupted()) session.cancel();
  });
  writer.finish();
  file.commit();
}

}  // namespace

void add_logits(CLI::App& app) {
  auto* const command = app.add_subcommand("logits", "Write the logits of a token sequence to a safetensors file");
  auto flags = std::make_shared<LogitsFlags>();
  flags->model.add(*command);
  command->add_option("--ids", flags->ids_file, "file with token ids as a JSON list")->required();
  command->add_option("-o,--output", flags->output, "file to write: tensor `logits`, f32 [tokens, vocabulary]")
      ->required();
  command->add_option("--batch", flags->batch, "tokens in one pass")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->footer("Example:\n  metal-marlin logits Qwen3-4B --ids ids.json -o logits.safetensors --exact");
  command->callback([flags] { run_logits(*flags); });
}

}  // namespace metal_marlin::cli
