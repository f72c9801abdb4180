#include "io/group_order.h"

#include <fmt/format.h>

#include <cstring>
#include <memory>

#include "formats/codec.h"
#include "formats/group_scale.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// The group of each input; empty: they are neighbours.
std::vector<std::int32_t> group_order(const SafetensorsFolder& folder, const std::string& name, const FormatSpec& spec,
                                      std::int64_t cols) {
  if (folder.find(name) == nullptr) return {};
  const DenseView& view = typed_part(folder, name, DType::kI32, {cols});
  std::vector<std::int32_t> groups(static_cast<std::size_t>(cols));
  std::memcpy(groups.data(), view.bytes.data(), view.bytes.size());
  bool neighbours = true;
  for (std::int64_t col = 0; col < cols; ++col) {
    const std::int32_t group = groups[static_cast<std::size_t>(col)];
    if (group == -1 && name.ends_with(".weight_g_idx")) return {};  // compressed-tensors' way to say that there is none
    if (group < 0 || group >= spec.groups(cols)) {
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: input {} is in group {}, expected one of {}",
                                                       folder.where(name), name, col, group, spec.groups(cols)));
    }
    neighbours = neighbours && group == col / spec.group_size(cols);
  }
  return neighbours ? std::vector<std::int32_t>{} : groups;
}

// A row whose input k is in group groups[k].
void decode_ordered(const PackedView& packed, std::span<const std::int32_t> groups, std::int64_t row, float* out) {
  const std::span<const float> table = decode_table(packed.spec.format);
  std::vector<std::uint8_t> codes(groups.size());
  packed.unpack_row(row, codes.data());
  for (std::size_t k = 0; k < groups.size(); ++k) {
    const float scale = effective_scale(packed.spec, packed.scale(row, groups[k]), packed.global_scale);
    out[k] = scale * (table[codes[k]] - static_cast<float>(packed.zero(row, groups[k])));
  }
}

}  // namespace

StoredWeight grouped_weight(const SafetensorsFolder& folder, const std::string& order, const std::string& module,
                            const FormatSpec& spec, std::int64_t rows, std::int64_t cols,
                            std::vector<std::string> parts, std::function<LoadedPack()> load) {
  parts.push_back(order);
  std::vector<std::int32_t> groups = group_order(folder, order, spec, cols);
  if (groups.empty()) return packed_weight(module, spec, rows, cols, std::move(parts), std::move(load));
  if (spec.rotation != 0)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: tensor {}: an order of groups of a rotated weight", folder.where(order), order));
  return decoded_weight(module, rows, cols, format_label(spec) + " by activation order", std::move(parts),
                        [groups = std::move(groups), load = std::move(load)]() -> RowReader {
                          const auto pack = std::make_shared<LoadedPack>(load());
                          return [groups, pack](std::int64_t row, float* out) {
                            decode_ordered(pack->view, groups, row, out);
                          };
                        });
}

}  // namespace metal_marlin
