#include "io/onnx.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "base/parse_number.h"
#include "io/file_kind.h"
#include "io/model_folder.h"
#include "io/onnx.pb.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kExternal = 1;  // TensorProto.DataLocation

// TensorProto.DataType of floating-point numbers.
std::optional<DType> dtype_of(int type) {
  switch (type) {
    case 1: return DType::kF32;
    case 10: return DType::kF16;
    case 11: return DType::kF64;
    case 16: return DType::kBf16;
    case 17: return DType::kF8E4M3;
    case 19: return DType::kF8E5M2;
    default: return std::nullopt;
  }
}

// The module that a node belongs to: "model.layers.0.self_attn.q_proj"; empty where it does not tell.
std::string module_of(const onnx::Node& node) {
  // PyTorch's newer exporter: "['', 'model', ..., 'model.layers.0.self_attn.q_proj', 'linear']".
  for (const onnx::StringStringEntry& entry : node.metadata_props()) {
    if (entry.key() != "pkg.torch.onnx.name_scopes") continue;
    std::vector<std::string> scopes;
    for (std::size_t at = 0; (at = entry.value().find('\'', at)) != std::string::npos;) {
      const std::size_t end = entry.value().find('\'', at + 1);
      if (end == std::string::npos) break;
      scopes.push_back(entry.value().substr(at + 1, end - at - 1));
      at = end + 1;
    }
    return scopes.size() < 2 ? std::string{} : scopes[scopes.size() - 2];
  }
  // The older one: "/model/layers.0/self_attn/q_proj/MatMul".
  std::string name = node.name();
  if (!name.starts_with('/')) return {};
  name.resize(name.rfind('/'));
  if (!name.empty()) name.erase(0, 1);
  std::replace(name.begin(), name.end(), '/', '.');
  return name;
}

bool is_parameter(const std::string& name) {
  return name.ends_with(".weight") || name.ends_with(".bias");
}

// Nodes of weights that are packed in ways of their own.
bool is_quantized(const std::string& op) {
  constexpr std::array kOps{"MatMulNBits",          "MatMulBnb4",    "MatMulInteger",         "MatMulIntegerToFloat",
                            "DequantizeLinear",     "QLinearMatMul", "DynamicQuantizeMatMul", "QGemm",
                            "GatherBlockQuantized", "QMoE"};
  return std::find(kOps.begin(), kOps.end(), op) != kOps.end();
}

}  // namespace

class OnnxFile::Reader {
 public:
  Reader(OnnxFile& out, const std::filesystem::path& folder, const std::string& where)
      : out_(out), folder_(folder), where_(where) {}

  void read(const onnx::Graph& graph) {
    for (const onnx::Node& node : graph.node()) {
      for (int i = 0; i < node.input_size(); ++i) uses_.try_emplace(node.input(i), Use{&node, i});
      if (is_quantized(node.op_type())) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: node {} is {}: quantized ONNX weights are not read; export the model in floating "
                                "point",
                                where_, node.name(), node.op_type()));
      }
    }
    for (const onnx::Tensor& tensor : graph.initializer()) {
      if (is_parameter(tensor.name())) add(tensor, tensor.name());
    }
    for (const onnx::Tensor& tensor : graph.initializer()) {
      const std::string name = name_by_use(tensor);
      if (!name.empty() && !is_parameter(tensor.name())) add(tensor, name);
      // A tied embedding may bear its head's name.
      const auto named = out_.weights_.find(tensor.name());
      if (!name.empty() && named != out_.weights_.end()) out_.weights_.try_emplace(name, named->second);
    }
  }

 private:
  struct Use {
    const onnx::Node* node;
    int input;
  };

  [[nodiscard]] const Use* use_of(const onnx::Tensor& tensor) const {
    const auto found = uses_.find(tensor.name());
    return found == uses_.end() ? nullptr : &found->second;
  }

  void add(const onnx::Tensor& tensor, const std::string& name) {
    const auto type = dtype_of(tensor.data_type());
    if (!type) return;  // shapes, indices and the like
    OnnxWeight weight;
    weight.initializer = tensor.name();
    weight.where = where_;
    weight.view.dtype = *type;
    weight.view.shape.assign(tensor.dims().begin(), tensor.dims().end());
    weight.transposed = weight.view.shape.size() == 2 && is_turned(use_of(tensor));
    load(tensor, weight);
    if (!out_.weights_.emplace(name, std::move(weight)).second)
      fail(tensor, fmt::format("a second one of the weight {}", name));
  }

  // Where a matrix or a vector lost its name; also the name of an embedding.
  [[nodiscard]] std::string name_by_use(const onnx::Tensor& tensor) const {
    const Use* const use = use_of(tensor);
    if (use == nullptr) return {};
    const std::string& op = use->node->op_type();
    const std::string module = module_of(*use->node);
    if (module.empty()) return {};
    const bool embedding = tensor.dims_size() == 2 && use->input == 0 && op == "Gather";
    if (embedding) return module + ".weight";
    if (is_parameter(tensor.name())) return {};
    const bool matrix = tensor.dims_size() == 2 && use->input == 1 && (op == "MatMul" || op == "Gemm");
    const bool norm = tensor.dims_size() == 1 && op == "Mul" && module.ends_with("norm");
    if (matrix || norm) return module + ".weight";
    const bool bias = tensor.dims_size() == 1 && (op == "Add" || (op == "Gemm" && use->input == 2));
    return bias && module.ends_with("_proj") ? module + ".bias" : std::string{};
  }

  // Whether a matrix lies as [in, out], as products take it from the right.
  static bool is_turned(const Use* use) {
    if (use == nullptr || use->input != 1) return false;
    if (use->node->op_type() == "MatMul") return true;
    if (use->node->op_type() != "Gemm") return false;
    const auto& attributes = use->node->attribute();
    return std::none_of(attributes.begin(), attributes.end(),
                        [](const onnx::Attribute& a) { return a.name() == "transB" && a.i() != 0; });
  }

  void load(const onnx::Tensor& tensor, OnnxWeight& weight) {
    const auto count = element_count(weight.view.shape);
    if (!count) fail(tensor, fmt::format("shape {}", shape_text(weight.view.shape)));
    const std::size_t bytes = static_cast<std::size_t>(*count) * dtype_bytes(weight.view.dtype);
    if (tensor.data_location() == kExternal) {
      load_external(tensor, weight, bytes);
    } else {
      weight.view.bytes = out_.owned_.emplace_back(inline_bytes(tensor, weight.view.dtype));
    }
    if (weight.view.bytes.size() != bytes) {
      fail(tensor, fmt::format("{} bytes of {} {}, expected {}", weight.view.bytes.size(),
                               dtype_name(weight.view.dtype), shape_text(weight.view.shape), bytes));
    }
  }

  template <typename T, typename Values>
  static std::vector<std::byte> bytes_of(const Values& values) {
    std::vector<std::byte> out(static_cast<std::size_t>(values.size()) * sizeof(T));
    std::size_t at = 0;
    for (const auto value : values) {
      const auto element = static_cast<T>(value);
      std::memcpy(out.data() + at, &element, sizeof(T));
      at += sizeof(T);
    }
    return out;
  }

  // As raw bytes, or as numbers in fields of their kind; small types one a number.
  static std::vector<std::byte> inline_bytes(const onnx::Tensor& tensor, DType type) {
    if (tensor.has_raw_data()) {
      const auto raw = std::as_bytes(std::span(tensor.raw_data()));
      return {raw.begin(), raw.end()};
    }
    if (type == DType::kF32) return bytes_of<float>(tensor.float_data());
    if (type == DType::kF64) return bytes_of<double>(tensor.double_data());
    if (dtype_bytes(type) == 2) return bytes_of<std::uint16_t>(tensor.int32_data());
    return bytes_of<std::uint8_t>(tensor.int32_data());
  }

  void load_external(const onnx::Tensor& tensor, OnnxWeight& weight, std::size_t bytes) {
    std::string location;
    std::uint64_t offset = 0;
    std::uint64_t length = bytes;
    for (const onnx::StringStringEntry& entry : tensor.external_data()) {
      if (entry.key() == "location") location = entry.value();
      if (entry.key() == "offset") offset = number(tensor, entry);
      if (entry.key() == "length") length = number(tensor, entry);
    }
    const std::filesystem::path relative(location);
    if (location.empty() || relative.is_absolute() ||
        std::any_of(relative.begin(), relative.end(), [](const auto& part) { return part == ".."; })) {
      fail(tensor, fmt::format("external data in '{}', expected a file beside the model", location));
    }
    const std::filesystem::path path = folder_ / relative;
    check_lies_in(folder_, path);
    std::unique_ptr<MappedFile>& file = out_.files_[path];
    if (!file) file = std::make_unique<MappedFile>(path);
    weight.where = path.string();
    const std::size_t size = file->bytes().size();
    if (offset > size || length > size - offset) {
      fail(tensor, fmt::format("external data at {} to {} of {}, which has {} bytes", offset, offset + length,
                               path.string(), size));
    }
    weight.view.bytes = file->bytes().subspan(offset, length);
  }

  std::uint64_t number(const onnx::Tensor& tensor, const onnx::StringStringEntry& entry) const {
    const auto out = parse_number<std::uint64_t>(entry.value());
    if (!out) fail(tensor, fmt::format("external data's {} is '{}', expected a number", entry.key(), entry.value()));
    return *out;
  }

  [[noreturn]] void fail(const onnx::Tensor& tensor, const std::string& what) const {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: {}", where_, tensor.name(), what));
  }

  OnnxFile& out_;
  const std::filesystem::path& folder_;
  const std::string& where_;
  std::map<std::string, Use> uses_;  // the first of each
};

OnnxFile::OnnxFile(const std::filesystem::path& path) {
  const MappedFile file(path);
  read(file.bytes(), path.parent_path(), path.string());
}

OnnxFile::OnnxFile(std::span<const std::byte> bytes, const std::filesystem::path& folder, const std::string& where) {
  read(bytes, folder, where);
}

OnnxFile::~OnnxFile() = default;

void OnnxFile::read(std::span<const std::byte> bytes, const std::filesystem::path& folder, const std::string& where) {
  onnx::Model model;
  if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max()) ||
      !model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !model.has_graph()) {
    refuse_foreign(bytes, where);
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: no ONNX model", where));
  }
  Reader(*this, folder, where).read(model.graph());
}

void OnnxFile::release() const {
  for (const auto& [path, file] : files_) file->release();
}

}  // namespace metal_marlin
