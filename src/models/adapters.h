// An adapter's modules as a plan's products.
#pragma once

#include <string>

#include "io/checkpoint.h"
#include "io/peft_adapter.h"
#include "ops/adapter.h"
#include "ops/plan.h"

namespace metal_marlin {

// scale: on that which the adapter has. Weights that are stored rotated have their adapters rotated alike.
// \throws Error naming file and module: (kNotFound) one that the model does not have; (kUnsupported) one that is not a
// linear layer or an embedding; (kCorruptFile) one of another shape, or with what is not a finite number.
Adapter bind_adapter(const PeftAdapter& from, const std::string& name, double scale, const Plan& plan,
                     const Checkpoint& checkpoint, ThreadPool& pool);

}  // namespace metal_marlin
