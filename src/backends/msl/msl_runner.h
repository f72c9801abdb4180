// Runs a prepared model's steps: a batch's data into buffers, commands by its shape, results out of them.
#pragma once

#include "backends/msl/msl_model.h"

namespace metal_marlin::msl {

// Bytes of one page's keys, or values, in one layer.
std::size_t page_bytes(const CacheShape& shape, CacheType type, std::int64_t dim);
// Of one page in all layers.
std::size_t cache_page_bytes(const std::vector<CacheShape>& caches, CacheType type);

// \param model must outlive the runner, and so must \p device, the model's or one that measures it
std::unique_ptr<Runner> make_runner(const MslModel& model, Device& device, const RunnerLimits& limits, CacheType cache);

}  // namespace metal_marlin::msl
