// How gpt-oss' folders hold its experts: a projection of all of them in one tensor, rows of gates and of what they open
// in turns; matrices as inputs by outputs, or, in MXFP4, as outputs by blocks of 32 inputs, codes and scales apart,
// which are ours as they are.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "io/model_bounds.h"
#include "io/stored_weights.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kGateUpOfAll = ".experts.gate_up_proj";
constexpr std::string_view kDown = ".experts.down_proj";
constexpr std::string_view kBlocks = "_blocks";
constexpr std::string_view kScales = "_scales";
constexpr std::string_view kBias = "_bias";
constexpr std::array<std::string_view, 3> kMxfp4Keys{"quant_method", "modules_to_not_convert",
                                                     "dequantize"};  // whether to make bf16 of it when it is loaded
constexpr std::int64_t kBlockBytes = 16;
constexpr int kBlockInputs = 32;

// A projection of the experts: every `step`th of the rows that are stored together, from the one numbered `first` on.
struct ExpertRows {
  const char* name;
  std::int64_t first;
  std::int64_t step;
};
std::vector<ExpertRows> projections_in(std::string_view tensor) {
  if (tensor.find(kGateUpOfAll) != std::string_view::npos) return {{"gate_proj", 0, 2}, {"up_proj", 1, 2}};
  return {{"down_proj", 0, 1}};
}

bool is_of_experts(std::string_view tensor, std::string_view ending) {
  return tensor.ends_with(std::string(kGateUpOfAll) + std::string(ending)) ||
         tensor.ends_with(std::string(kDown) + std::string(ending));
}

// "model.layers.0.mlp.experts.7.up_proj" of what is in "model.layers.0.mlp.experts.gate_up_proj_blocks".
std::string expert_module(const std::string& tensor, std::int64_t expert, const ExpertRows& rows) {
  constexpr std::string_view kExperts = ".experts.";
  return fmt::format("{}{}.{}", tensor.substr(0, tensor.find(kExperts) + kExperts.size()), expert, rows.name);
}

// Of tensors of all experts. \throws Error naming the tensor; expected: its type and sizes.
void check_experts(const SafetensorsFolder& folder, const std::string& name, const DenseView& view, std::size_t rank,
                   bool good_type, std::size_t outputs, const char* expected) {
  const bool good = good_type && view.shape.size() == rank && element_count(view.shape).value_or(0) > 0 &&
                    view.shape[0] <= kExpertBounds.high && view.shape[outputs] % projections_in(name).back().step == 0;
  if (!good) bad_part(folder, name, view, expected);
}

std::span<const std::byte> expert_bytes(const DenseView& view, std::int64_t expert) {
  const std::size_t size = view.bytes.size() / static_cast<std::size_t>(view.shape[0]);
  return view.bytes.subspan(static_cast<std::size_t>(expert) * size, size);
}

// Rows of so many bytes.
std::vector<std::byte> gathered(std::span<const std::byte> all, std::size_t row_bytes, const ExpertRows& rows) {
  std::vector<std::byte> out;
  const std::size_t count = all.size() / row_bytes;
  out.reserve(count / static_cast<std::size_t>(rows.step) * row_bytes);
  for (auto row = static_cast<std::size_t>(rows.first); row < count; row += static_cast<std::size_t>(rows.step)) {
    const auto from = all.subspan(row * row_bytes, row_bytes);
    out.insert(out.end(), from.begin(), from.end());
  }
  return out;
}

LoadedPack load_blocks(const DenseView& blocks, const DenseView& scales, std::int64_t expert, const ExpertRows& rows) {
  const std::int64_t groups = blocks.shape[2];
  LoadedPack out;
  out.view = {default_spec(Format::kMxfp4),
              blocks.shape[1] / rows.step,
              groups * kBlockInputs,
              1,
              expert_bytes(blocks, expert),
              expert_bytes(scales, expert),
              {}};
  if (rows.step == 1) return out;
  const auto owner = std::make_shared<std::array<std::vector<std::byte>, 2>>();
  (*owner)[0] = gathered(out.view.codes, static_cast<std::size_t>(groups * kBlockBytes), rows);
  (*owner)[1] = gathered(out.view.scales, static_cast<std::size_t>(groups), rows);
  out.view.codes = (*owner)[0];
  out.view.scales = (*owner)[1];
  out.owner = owner;
  return out;
}

// A weight that lies in the files as it is, or in another order.
StoredWeight dense_weight(std::string name, const std::string& tensor, Shape shape, DType dtype,
                          std::function<Weight(ThreadPool&)> load) {
  const std::size_t bytes = static_cast<std::size_t>(element_count(shape).value()) * dtype_bytes(dtype);
  return {{std::move(name), std::move(shape), dtype, std::nullopt, bytes, std::string(dtype_name(dtype))},
          {tensor},
          std::move(load)};
}

// Of [experts, inputs, outputs].
Weight transposed(const DenseView& all, std::int64_t expert, const ExpertRows& rows, ThreadPool& pool) {
  const std::int64_t inputs = all.shape[1];
  const std::int64_t outputs = all.shape[2] / rows.step;
  const auto width = static_cast<std::size_t>(inputs);
  const std::size_t size = dtype_bytes(all.dtype);
  const std::size_t input_bytes = static_cast<std::size_t>(all.shape[2]) * size;
  const std::span<const std::byte> from = expert_bytes(all, expert);
  const auto owner = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(outputs) * width * size);
  pool.parallel_for(outputs, 32, [&](std::int64_t begin, std::int64_t end) {
    for (std::size_t input = 0; input < width; ++input) {
      for (std::int64_t output = begin; output < end; ++output) {
        const auto at = static_cast<std::size_t>(rows.first + output * rows.step);
        std::memcpy(owner->data() + (static_cast<std::size_t>(output) * width + input) * size,
                    from.data() + input * input_bytes + at * size, size);
      }
    }
  });
  return {DenseView{all.dtype, {outputs, inputs}, *owner}, owner};
}

Weight bias_of(const DenseView& all, std::int64_t expert, const ExpertRows& rows) {
  const Shape shape{all.shape[1] / rows.step};
  const std::span<const std::byte> from = expert_bytes(all, expert);
  if (rows.step == 1) return {DenseView{all.dtype, shape, from}, nullptr};
  const auto owner = std::make_shared<std::vector<std::byte>>(gathered(from, dtype_bytes(all.dtype), rows));
  return {DenseView{all.dtype, shape, *owner}, owner};
}

}  // namespace

std::vector<StoredWeight> gpt_oss_experts(const SafetensorsFolder& folder) {
  std::vector<StoredWeight> out;
  for (const auto& [tensor, view] : folder.tensors()) {
    const bool bias = is_of_experts(tensor, kBias);
    if (!bias && !is_of_experts(tensor, "")) continue;
    check_experts(folder, tensor, view, bias ? 2 : 3, is_float(view.dtype), bias ? 1 : 2,
                  bias ? "numbers [experts, outputs]" : "numbers [experts, inputs, outputs]");
    for (const ExpertRows& rows : projections_in(tensor)) {
      for (std::int64_t expert = 0; expert < view.shape[0]; ++expert) {
        const std::string module = expert_module(tensor, expert, rows);
        if (bias) {
          out.push_back(dense_weight(module + ".bias", tensor, {view.shape[1] / rows.step}, view.dtype,
                                     [&all = view, expert, rows](ThreadPool&) { return bias_of(all, expert, rows); }));
        } else {
          out.push_back(dense_weight(
              module + ".weight", tensor, {view.shape[2] / rows.step, view.shape[1]}, view.dtype,
              [&all = view, expert, rows](ThreadPool& pool) { return transposed(all, expert, rows, pool); }));
        }
      }
    }
  }
  return out;
}

std::vector<StoredWeight> mxfp4_weights(const SafetensorsFolder& folder, const JsonObject& quantization) {
  quantization.only(kMxfp4Keys);
  std::vector<StoredWeight> out;
  for (const auto& [tensor, blocks] : folder.tensors()) {
    if (!is_of_experts(tensor, kBlocks)) continue;
    const std::string other = tensor.substr(0, tensor.size() - kBlocks.size()) + std::string(kScales);
    constexpr const char* kExpected = "U8 [experts, outputs, blocks of 32 inputs, 16]";
    check_experts(folder, tensor, blocks, 4, blocks.dtype == DType::kU8, 1, kExpected);
    if (blocks.shape[3] != kBlockBytes) bad_part(folder, tensor, blocks, kExpected);
    const Shape& shape = blocks.shape;
    const DenseView& scales = typed_part(folder, other, DType::kU8, {shape[0], shape[1], shape[2]});
    for (const ExpertRows& rows : projections_in(tensor)) {
      for (std::int64_t expert = 0; expert < shape[0]; ++expert) {
        out.push_back(
            packed_weight(expert_module(tensor, expert, rows), default_spec(Format::kMxfp4), shape[1] / rows.step,
                          shape[2] * kBlockInputs, {tensor, other},
                          [&all = blocks, &scales, expert, rows] { return load_blocks(all, scales, expert, rows); }));
      }
    }
  }
  refuse_left_out(quantization, "modules_to_not_convert", out);
  return out;
}

}  // namespace metal_marlin
