// Quantized 2:4 sparse matrices on a device (shaders/sparse_gemm.metal).
#pragma once

#include "backends/msl/linear.h"

namespace metal_marlin::msl {

class SparseLinear {
 public:
  // Weights of a 4-bit format without zero points (fp4, mxfp4, nvfp4, s4), of which at most two
  // of each four neighbours in a row are not zero. \throws Error (kUnsupported) naming another
  // format, (kInvalidArgument) the row and input of a group with more.
  SparseLinear(Device& device, const std::string& name, const PackedView& packed, ThreadPool& pool);

  struct Call {
    Buffer* x = nullptr;  // f32 [tokens][cols]
    Buffer* y = nullptr;  // f32 [tokens][rows]
    std::int64_t tokens = 0;
    Activations mode = Activations::kInt8;  // kF32: exact
  };
  void encode(Commands& commands, const Call& call, const LinearWorkspace& workspace) const;
  [[nodiscard]] std::size_t bytes() const { return codes_->size() + matrix_.scales->size(); }

 private:
  Device& device_;
  UnitMatrix matrix_;  // its scales and shape
  std::unique_ptr<Buffer> codes_;
};

}  // namespace metal_marlin::msl
