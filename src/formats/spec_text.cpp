#include "formats/spec_text.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin {

FormatSpec parse_spec(const SpecText& text) {
  FormatSpec spec = default_spec(parse_format(text.format));
  if (!text.group.empty()) spec.group = parse_group(text.group);
  if (!text.scale_type.empty()) spec.scale_type = parse_scale_type(text.scale_type);
  if (!text.zero.empty()) spec.zero = parse_zero_kind(text.zero);
  if (!text.sparsity.empty() && text.sparsity != "2:4")
    throw Error(ErrorCode::kInvalidArgument, fmt::format("sparsity is '{}', expected 2:4", text.sparsity));
  spec.sparse = !text.sparsity.empty();
  spec.rotation = text.rotation;
  validate(spec);
  return spec;
}

}  // namespace metal_marlin
