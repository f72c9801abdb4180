// The folder that quantization writes, weight by weight and in any order. A journal in it tells what is
// done, so that a run that was cut off goes on where it stopped.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/packed_matrix.h"
#include "io/output_folder.h"
#include "quantize/jobs.h"

namespace metal_marlin {

class QuantizedOutput {
 public:
  // key: what all bytes of the result depend on, on one line. An unfinished folder of the same key
  // is gone on with. The plan must outlive this.
  QuantizedOutput(const std::filesystem::path& destination, bool overwrite, const JobPlan& plan,
                  const std::string& key);

  [[nodiscard]] const std::filesystem::path& path() const { return folder_.path(); }
  // Of weights that are done, the report of each.
  [[nodiscard]] const std::map<std::string, QuantizedTensor>& done() const { return done_; }
  // The layer that the calibration's rows in the folder lead to.
  [[nodiscard]] int layer() const { return layer_; }
  void reach_layer(int layer);

  void store(const Job& job, const PackedMatrix& matrix, const QuantizedTensor& report);
  // Of a kept tensor, in the type that the plan says.
  void store(const Job& job, std::span<const std::byte> bytes, const QuantizedTensor& report);
  // A weight that is done, as it was written; its bytes are this folder's.
  [[nodiscard]] Weight load(const std::string& name);

  void write_file(const std::string& name, const std::string& text) { folder_.write_file(name, text); }
  // Leaves the folder for a later run.
  void keep();
  // All is done: closes the shards and takes the journal and the rows away.
  void finish();
  void commit() { folder_.commit(); }

 private:
  bool read_journal(const std::filesystem::path& folder);
  SafetensorsWriter& writer(const Job& job);
  void record(const std::string& line);
  void flush();

  const JobPlan& plan_;
  std::string key_;
  std::map<std::string, QuantizedTensor> done_;
  int layer_ = 0;
  OutputFolder folder_;  // its journal may fill the two above
  std::vector<std::unique_ptr<SafetensorsWriter>> shards_;
  std::unique_ptr<SafetensorsFolder> reader_;  // of the same files, once somebody loads
  std::string pending_;                        // of the journal, until the shards are on the disk
  std::chrono::steady_clock::time_point flushed_;
};

}  // namespace metal_marlin
