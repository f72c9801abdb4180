#include "io/tensor_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "io/model_bounds.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kModel = "model.";
constexpr std::array<std::string_view, 3> kInModel{"embed_tokens.", "layers.", "norm."};
constexpr std::string_view kExperts = ".experts.";

// Of a model that lies within another, of images, say: "model.language_model." stands for its "model.", as
// "language_model." does before its whole names.
std::string name_in_language_model(const std::string& name) {
  constexpr std::string_view kNew = "model.language_model.";
  constexpr std::string_view kOld = "language_model.";
  if (name.starts_with(kNew)) return std::string(kModel) + name.substr(kNew.size());
  return name.starts_with(kOld) ? name.substr(kOld.size()) : name;
}

bool begins_with_any(std::string_view name, std::span<const std::string_view> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(),
                     [&](std::string_view beginning) { return name.starts_with(beginning); });
}

// With the "model." of what is around it, once.
std::string name_in_model(const std::string& name) {
  if (begins_with_any(name, kInModel)) return std::string(kModel) + name;
  if (!name.starts_with(kModel)) return name;
  const std::string_view rest = std::string_view(name).substr(kModel.size());
  const bool doubled = rest.starts_with(kModel) && begins_with_any(rest.substr(kModel.size()), kInModel);
  return doubled || rest.starts_with("lm_head.") ? std::string(rest) : name;
}

// Of Mixtral and those after it, within a layer: what others call "mlp", the projections of its experts, and the bias
// of the router's choice, which others have with the router's weight.
std::string name_in_experts(const std::string& name) {
  constexpr std::string_view kBlock = "block_sparse_moe.";
  constexpr std::string_view kMlp = "mlp.";
  constexpr std::string_view kBias = "e_score_correction_bias";
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kProjections{
      {{".w1.", ".gate_proj."}, {".w2.", ".down_proj."}, {".w3.", ".up_proj."}}};
  const std::string layer(layer_of(name));
  std::string rest = name.substr(layer.size());
  if (layer.empty() || !(rest.starts_with(kBlock) || rest.starts_with(kMlp))) return name;
  const bool old = rest.starts_with(kBlock);
  rest = rest.substr((old ? kBlock : kMlp).size());
  if (rest == kBias) rest.insert(0, "gate.");
  for (const auto& [from, to] : kProjections) {
    const std::size_t at = old && rest.starts_with("experts.") ? rest.find(from) : std::string::npos;
    if (at != std::string::npos) rest.replace(at, from.size(), to);
  }
  return layer + std::string(kMlp) + rest;
}

}  // namespace

std::string_view layer_of(std::string_view name) {
  if (!name.starts_with(kLayers)) return {};
  return name.substr(0, name.find('.', kLayers.size()) + 1);
}

std::string full_name(const std::string& name) {
  return name_in_experts(name_in_model(name_in_language_model(name)));
}

std::vector<std::pair<std::string, DenseView>> expert_weights(const std::string& name, const DenseView& view,
                                                              const std::string& where) {
  const std::size_t at = name.find(kExperts);
  const std::string_view projection =
      at == std::string::npos ? std::string_view() : std::string_view(name).substr(at + kExperts.size());
  const bool gate_up = projection == "gate_up_proj";
  if (!gate_up && projection != "down_proj") return {{name, view}};
  const std::int64_t parts = gate_up ? 2 : 1;  // the rows of gate_proj come before those of up_proj
  if (!is_float(view.dtype) || view.shape.size() != 3 || view.bytes.empty() || view.shape[0] > kExpertBounds.high ||
      view.shape[1] % parts != 0) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: tensor {}: found {} {}, expected matrices of all experts in a floating-point type, or "
                            "a tensor for each expert",
                            where, name, dtype_name(view.dtype), shape_text(view.shape)));
  }
  const Shape shape{view.shape[1] / parts, view.shape[2]};
  const std::size_t bytes = view.bytes.size() / static_cast<std::size_t>(view.shape[0] * parts);
  std::vector<std::pair<std::string, DenseView>> out;
  for (std::int64_t i = 0; i < view.shape[0] * parts; ++i) {
    const std::string_view part = !gate_up ? "down_proj" : i % 2 == 0 ? "gate_proj" : "up_proj";
    out.emplace_back(fmt::format("{}{}{}.{}.weight", name.substr(0, at), kExperts, i / parts, part),
                     DenseView{view.dtype, shape, view.bytes.subspan(static_cast<std::size_t>(i) * bytes, bytes)});
  }
  return out;
}

}  // namespace metal_marlin
