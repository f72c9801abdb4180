#include "quantize/output.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/file_write.h"
#include "metal_marlin/error.h"
#include "quantize/report.h"

namespace metal_marlin {
namespace {

constexpr const char* kJournal = "journal.jsonl";
constexpr std::chrono::seconds kFlush{2};

}  // namespace

QuantizedOutput::QuantizedOutput(const std::filesystem::path& destination, bool overwrite, const JobPlan& plan,
                                 const std::string& key)
    : plan_(plan),
      key_(key),
      folder_(destination, overwrite, [this](const std::filesystem::path& folder) { return read_journal(folder); }),
      flushed_(std::chrono::steady_clock::now()) {
  const bool resumed = folder_.adopted();
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  std::size_t total = 0;
  for (std::size_t shard = 0; shard < plan.shards(); ++shard) {
    std::vector<TensorPlan> entries;
    for (const Job& job : plan.jobs) {
      if (job.shard != shard) continue;
      entries.insert(entries.end(), job.entries.begin(), job.entries.end());
      total += job.bytes;
    }
    for (const TensorPlan& entry : entries) index["weight_map"][entry.name] = plan.shard_name(shard);
    SafetensorsOptions options;
    options.resume = resumed;
    shards_.push_back(std::make_unique<SafetensorsWriter>(path() / plan.shard_name(shard), entries, options));
  }
  if (resumed) {
    for (const auto& [name, report] : done_) writer(plan.find(name)).skip(plan.find(name).bytes);
    return;
  }
  index["metadata"]["total_size"] = total;
  folder_.write_file("model.safetensors.index.json", index.dump(2));
  folder_.write_file(kJournal, key_ + "\n");
}

// Whether an abandoned folder is one to go on with. A line that was cut off ends what is known.
bool QuantizedOutput::read_journal(const std::filesystem::path& folder) {
  std::ifstream file(folder / kJournal, std::ios::binary);
  std::string line;
  if (!std::getline(file, line) || file.eof() || line != key_) return false;
  while (std::getline(file, line) && !file.eof()) {
    const Json entry = Json::parse(line, nullptr, false);
    if (entry.is_discarded()) break;
    if (entry.contains("layer")) {
      layer_ = entry["layer"].get<int>();
    } else {
      QuantizedTensor report = parse_tensor_report(entry);
      done_[report.name] = std::move(report);
    }
  }
  // What a cut-off line leaves would run into the next one.
  std::string text = key_ + "\n";
  for (const auto& [name, report] : done_) text += tensor_report_json(report).dump() + "\n";
  if (layer_ > 0) text += Json{{"layer", layer_}}.dump() + "\n";
  write_file_atomically(folder / kJournal, text);
  return true;
}

SafetensorsWriter& QuantizedOutput::writer(const Job& job) {
  return *shards_[job.shard];
}

void QuantizedOutput::store(const Job& job, const PackedMatrix& matrix, const QuantizedTensor& report) {
  writer(job).seek(job.entries.front().name);
  write_packed_tensors(plan_.scheme, matrix, writer(job));
  done_[report.name] = report;
  record(tensor_report_json(report).dump());
}

void QuantizedOutput::store(const Job& job, std::span<const std::byte> bytes, const QuantizedTensor& report) {
  writer(job).seek(job.entries.front().name);
  writer(job).write(bytes);
  done_[report.name] = report;
  record(tensor_report_json(report).dump());
}

Weight QuantizedOutput::load(const std::string& name) {
  if (!reader_) reader_ = std::make_unique<SafetensorsFolder>(path());
  reader_->release();
  const Job& job = plan_.find(name);
  if (!job.spec) return {part(*reader_, name), nullptr};
  const std::string module = module_name(name);
  LoadedPack pack = load_packed_tensors(*reader_, plan_.scheme, module, plan_.modules.at(module));
  return {pack.view, std::move(pack.owner)};
}

void QuantizedOutput::reach_layer(int layer) {
  layer_ = layer;
  record(Json{{"layer", layer}}.dump());
  flush();
}

void QuantizedOutput::record(const std::string& line) {
  pending_ += line + "\n";
  if (std::chrono::steady_clock::now() - flushed_ >= kFlush) flush();
}

// The journal must not know of what the disk does not.
void QuantizedOutput::flush() {
  for (const auto& shard : shards_) shard->sync();
  append_to_file(path() / kJournal, pending_);
  pending_.clear();
  flushed_ = std::chrono::steady_clock::now();
}

void QuantizedOutput::keep() {
  flush();
  folder_.keep();
}

void QuantizedOutput::finish() {
  for (const auto& shard : shards_) shard->finish();
  std::vector<std::filesystem::path> scratch;
  for (const auto& entry : std::filesystem::directory_iterator(path())) {
    const std::string name = entry.path().filename().string();
    if (name == kJournal || name == "expert-inputs" || name.starts_with("activations-"))
      scratch.push_back(entry.path());
  }
  for (const std::filesystem::path& file : scratch) std::filesystem::remove(file);
}

}  // namespace metal_marlin
