// What a backend is to the runtime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/cache_type.h"
#include "base/round_up.h"
#include "io/checkpoint.h"
#include "metal_marlin/sampler.h"
#include "ops/adapter.h"
#include "ops/fuse.h"
#include "ops/plan.h"

namespace metal_marlin {

class ThreadPool;

enum class Activations : std::uint8_t {
  kInt8,  // blocks of 32 in 8 bits where the weights are integers; bf16 where they
          // are bf16 and the processor multiplies it
  kF32,   // exact
};

// Called as weights are loaded, with bytes of the file; false: stop.
using LoadProgress = std::function<bool(std::size_t done, std::size_t total)>;

// The plan with the rotations that the checkpoint's weights want. \throws as with_rotations.
Plan with_rotations(const Plan& plan, const Checkpoint& checkpoint);
// Calls `load` for each of the plan's weights, whose shapes are right, and reports progress.
// \throws Error naming a weight that is missing or of another shape; (kCancelled).
void load_weights(const Plan& plan, const Checkpoint& checkpoint, const LoadProgress& progress,
                  const std::function<void(const PlannedWeight&)>& load);
// A norm's or a bias' elements, with what is added to them.
std::vector<float> load_vector(const Checkpoint& checkpoint, const PlannedWeight& planned, ThreadPool& pool);

// New tokens of one sequence in a batch.
struct SequenceSlice {
  int first = 0;  // index of its first token in the batch: after the slice before
  int count = 0;
  std::int64_t past = 0;                // positions already cached
  std::span<const std::int32_t> pages;  // cache pages, in order, enough for past + count
  std::int64_t length = 0;   // positions with all that is to come of this input; angles may depend on it (0: none)
  int adapter = kNoAdapter;  // one of those that the model was prepared with
};

// Rows that something is shown, `stride` elements apart.
struct ObservedRows {
  const float* x;
  std::int64_t rows;
  std::int64_t width;
  std::int64_t stride;
};
// Called for each ObserveOp, and for every expert that gets tokens, under the names of its gate and
// down weights, with what they are multiplied by.
using Observer = std::function<void(const std::string& name, const ObservedRows& rows)>;

struct Batch {
  std::span<const std::int32_t> tokens;
  std::span<const SequenceSlice> sequences;
  std::span<const int> selected;  // tokens whose logits are wanted, ascending
  const float* input = nullptr;   // a row a token, where the plan begins with an InputOp
  const Observer* observer = nullptr;
  // Of each selected token, for wait_tokens(); null: its logits are wanted instead, from logits_of().
  std::span<Sampler* const> samplers = {};
};

// What follows each row of logits, drawn and counted by its sampler; -1 where they are not finite or it has none.
void sample_rows(const float* logits, std::int64_t vocab, std::span<Sampler* const> samplers, std::span<TokenId> next);

struct RunnerLimits {
  int tokens = 512;            // per step
  int selected = 1;            // logits rows per step
  int sequences = 1;           // per step
  int pages = 0;               // of the cache, at first
  bool count_experts = false;  // where counting costs time
  bool hidden = false;         // rows are the plan's last hidden states in the place of its result: no head is computed
  bool one_order = false;      // a token's numbers do not depend on how steps are cut, where the backend can see to it
};

// The angles that a sequence's positions are multiplied by, where they depend on its length.
void sequence_frequencies(const RopeTable& rope, const SequenceSlice& sequence, std::span<float> out);

// Pages of the cache that hold so many positions.
constexpr std::int64_t pages_for(std::int64_t tokens) {
  return divide_up(tokens, kCachePageTokens);
}

// A prepared model's mutable part: workspace, cache and, on a device, the queue of its work. One thread at a
// time uses it; runners of one model work side by side.
class Runner {
 public:
  virtual ~Runner() = default;
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  // Starts a step of the plan; where the device is this processor, it is done when this returns. Allocates
  // nothing, but on a device for a shape that it has not kept. The batch must be within the limits, and stay as
  // it is until wait() returns.
  virtual void submit(const Batch& batch) = 0;
  // The end of the step: its logits, [selected, vocab], valid until the next submit().
  virtual const float* wait() = 0;
  // The end of a step whose batch has samplers, as sample_rows; where there is a device it draws, and the logits
  // stay there.
  virtual void wait_tokens(std::span<TokenId> next) = 0;
  // After wait_tokens(): the logits of a row without a sampler, valid until the next submit().
  virtual const float* logits_of(std::size_t row) = 0;
  // After the step: the rows of the plan's kHiddenOutput, valid until the next submit().
  virtual const float* hidden() = 0;
  const float* step(const Batch& batch) {
    submit(batch);
    return wait();
  }
  // Makes room for so many pages in all; what the cache holds stays. \throws Error (kOutOfMemory), and the cache
  // is as it was.
  virtual void grow_cache(int pages) = 0;
  virtual void copy_page(std::int32_t from, std::int32_t to) = 0;
  // What these pages hold in all layers, MemoryEstimate::cache_page bytes each, layer by layer in the backend's own
  // layout. No step runs meanwhile.
  virtual void read_pages(std::span<const std::int32_t> pages, std::span<std::byte> bytes) = 0;
  // What was read goes to other pages of this runner; the first `skip` of the pages that were read go nowhere.
  virtual void write_pages(std::span<const std::int32_t> pages, std::size_t skip, std::span<const std::byte> bytes) = 0;
  // Tokens that each expert got so far, [layer][expert]; empty for layers without experts, and where nobody counts.
  [[nodiscard]] virtual std::vector<std::vector<std::int64_t>> expert_counts() const { return {}; }
  // After a step whose logits are not finite: the op whose results are not finite first, found by running the batch
  // again; empty where the backend does not tell.
  [[nodiscard]] virtual std::string not_finite_at(const Batch& /*batch*/) { return {}; }
};

// A plan with its weights, ready to run; immutable, shared by threads.
class PreparedModel {
 public:
  virtual ~PreparedModel() = default;
  PreparedModel() = default;
  PreparedModel(const PreparedModel&) = delete;
  PreparedModel& operator=(const PreparedModel&) = delete;
  [[nodiscard]] virtual std::unique_ptr<Runner> make_runner(const RunnerLimits& limits, CacheType cache) const = 0;
  [[nodiscard]] virtual std::size_t weight_bytes() const = 0;
  // What make_runner() takes, but for the cache's pages.
  [[nodiscard]] virtual std::size_t workspace_bytes(const RunnerLimits& limits, CacheType cache) const = 0;
};

struct PrepareOptions {
  Activations activations = Activations::kInt8;
  LoadProgress progress;
  // Of the same backend and activations: what it has of matrices is not loaded again, but shared.
  std::shared_ptr<const PreparedModel> shared = nullptr;
  std::span<const Adapter> adapters = {};  // of the plan, that sequences may have
};

// What a backend can do, whatever it runs.
struct Capabilities {
  FuseCapabilities fusion;          // but for what depends on weights
  bool angles_by_sequence = false;  // sequences of one step may differ in sequence_frequencies()
  bool tunable = false;             // has kernels to choose among, for `metal-marlin tune`
  bool memory_apart = false;        // caches lie in memory that is not this processor's
};

// Bytes of the memory that a backend's weights and caches lie in.
struct MemoryEstimate {
  std::size_t weights = 0;
  std::size_t workspace = 0;                  // of one runner
  std::size_t cache_page = 0;                 // one page in all layers
  std::int64_t most_cache_pages = INT32_MAX;  // whatever memory there is: devices limit how large a buffer is
};

// Where plans run.
class Backend {
 public:
  virtual ~Backend() = default;
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  [[nodiscard]] virtual std::string name() const = 0;    // in the registry: "msl" is there what it stands for
  [[nodiscard]] virtual std::string device() const = 0;  // the instruction set, or the GPU
  [[nodiscard]] virtual Capabilities capabilities() const = 0;
  // Not below what prepare() and make_runner() will take. \throws as prepare() does of weights that are missing.
  [[nodiscard]] virtual MemoryEstimate estimate_memory(const Plan& plan, const Checkpoint& checkpoint,
                                                       Activations activations, const RunnerLimits& limits,
                                                       CacheType cache) const = 0;
  [[nodiscard]] virtual std::size_t available_memory() const = 0;
  // Loads the plan's weights. The backend must outlive the model. \throws Error naming weight or op.
  [[nodiscard]] virtual std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint,
                                                                     const PrepareOptions& options) const = 0;
  // \throws Error (kOutOfMemory) saying what needs how much of what.
  void require_memory(std::size_t needed, const std::string& what) const;
};

}  // namespace metal_marlin
