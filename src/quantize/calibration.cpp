#include "quantize/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "io/mapped_file.h"
#include "metal_marlin/error.h"
#include "metal_marlin/model.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kContext = 2048;
constexpr std::int64_t kStep = 512;

}  // namespace

ExpertCounts count_experts(const std::filesystem::path& source, const std::filesystem::path& text,
                           const CalibrationOptions& options) {
  const MappedFile file(text);
  LoadOptions load;
  load.threads = options.threads;
  const auto model = Model::load(source, load);
  SessionOptions session_options;
  session_options.cache_tokens = std::min(kContext, model->info().max_positions);
  Session session(model, session_options);
  if (session.expert_counts().empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: the model has no experts whose use a text could tell", source.string()));
  }
  std::vector<TokenId> ids =
      model->tokenizer()->encode({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  if (ids.empty()) throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: the text is empty", text.string()));
  ids.resize(std::min(ids.size(), static_cast<std::size_t>(options.tokens)));
  const auto total = static_cast<std::int64_t>(ids.size());
  SequenceId sequence = session.open();
  for (std::int64_t done = 0; done < total;) {
    if (session.length(sequence) == session_options.cache_tokens) session.truncate(sequence, 0);
    const std::int64_t count = std::min({kStep, total - done, session_options.cache_tokens - session.length(sequence)});
    const auto part = std::span(ids).subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(count));
    session.step(std::array{SequenceInput{sequence, part}}, {});
    done += count;
    if (options.progress && !options.progress(done, total))
      throw Error(ErrorCode::kCancelled, "calibration was cancelled");
  }
  return session.expert_counts();
}

}  // namespace metal_marlin
