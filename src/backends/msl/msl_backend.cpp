#include "backends/msl/msl_backend.h"

#include <algorithm>

#include "backends/msl/msl_model.h"
#include "backends/msl/msl_runner.h"
#include "backends/msl/step_encoder.h"
#include "backends/msl/step_shapes.h"

namespace metal_marlin::msl {
namespace {

class MslBackend final : public Backend {
 public:
  MslBackend(std::string name, std::shared_ptr<Device> device, std::shared_ptr<ThreadPool> pool)
      : name_(std::move(name)), device_(std::move(device)), pool_(std::move(pool)) {}

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::string device() const override { return device_->name(); }
  [[nodiscard]] std::size_t available_memory() const override { return device_->available_memory(); }
  [[nodiscard]] Capabilities capabilities() const override {
    return {.fusion = kFusion, .tunable = true, .memory_apart = device_->traits().memory_apart};
  }
  [[nodiscard]] MemoryEstimate estimate_memory(const Plan& plan, const Checkpoint& checkpoint, Activations activations,
                                               const RunnerLimits& limits, CacheType cache) const override {
    const MslModel model(with_rotations(plan, checkpoint), device_, activations);
    return {model.estimate_weights(checkpoint), model.workspace_bytes(limits, cache),
            cache_page_bytes(plan.caches, cache), most_pages(plan.caches, cache)};
  }
  [[nodiscard]] std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint,
                                                             const PrepareOptions& options) const override {
    auto model = std::make_shared<MslModel>(with_rotations(plan, checkpoint), device_, options.activations);
    model->load(checkpoint, *pool_, options.progress, dynamic_cast<const MslModel*>(options.shared.get()));
    model->load_adapters(options.adapters);
    return model;
  }

 private:
  static constexpr std::int64_t kUsualTokens = 4096;  // of a step, at most

  // Keys of a layer lie in one buffer, and values.
  [[nodiscard]] std::int64_t most_pages(const std::vector<CacheShape>& caches, CacheType cache) const {
    std::size_t page = 1;
    for (const CacheShape& shape : caches) {
      const std::int64_t widest = shape.latent ? shape.key_dim : std::max(shape.key_dim, shape.value_dim);
      page = std::max(page, page_bytes(shape, cache, widest));
    }
    const std::size_t pages = device_->traits().largest_buffer / page;
    // A runner has some beside those of its sequences.
    const std::int64_t spare = pages_for(most_padding(kUsualTokens));
    return std::max<std::int64_t>(static_cast<std::int64_t>(std::min<std::size_t>(pages, INT32_MAX)) - spare, 1);
  }

  std::string name_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<ThreadPool> pool_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(std::string name, std::shared_ptr<Device> device,
                                      std::shared_ptr<ThreadPool> pool) {
  return std::make_unique<MslBackend>(std::move(name), std::move(device), std::move(pool));
}

}  // namespace metal_marlin::msl
