// Arbitrary bytes as config.json, through the plan that it makes and the weights that the plan asks for, and as each
// kind of quantization_config over a file of parts of all kinds.
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "attempt.h"
#include "io/column_packed.h"
#include "io/compressed_tensors.h"
#include "io/packed_tensors.h"
#include "models/architectures.h"
#include "models/config.h"

namespace {

using namespace metal_marlin;

const SafetensorsFolder& parts() {
  static const SafetensorsFolder folder = [] {
    const auto path = std::filesystem::temp_directory_path() / ("fuzz_config_" + std::to_string(getpid()));
    std::filesystem::create_directories(path);
    const std::vector<TensorPlan> plan{
        {"a.qweight", DType::kI32, {16, 32}},     {"a.qzeros", DType::kI32, {4, 4}},
        {"a.scales", DType::kF16, {4, 32}},       {"b.scales", DType::kF16, {8, 4}},
        {"b.biases", DType::kF16, {8, 4}},        {"b.weight", DType::kU32, {8, 16}},
        {"c.weight", DType::kF8E4M3, {32, 64}},   {"c.weight_scale_inv", DType::kF32, {2, 2}},
        {"d.weight_packed", DType::kI32, {8, 8}}, {"d.weight_scale", DType::kF16, {8, 2}},
        {"d.weight_shape", DType::kI64, {2}},     {"d.weight_zero_point", DType::kI32, {1, 2}},
        {"e.weight", DType::kI8, {8, 16}},        {"e.weight_scale", DType::kF16, {8, 1}}};
    SafetensorsWriter writer(path / "model.safetensors", plan);
    for (const TensorPlan& tensor : plan) writer.write(std::vector<std::byte>(tensor.bytes(), std::byte{1}));
    writer.finish();
    SafetensorsFolder opened(path);
    std::filesystem::remove_all(path);  // it stays mapped
    return opened;
  }();
  return folder;
}

void plan_of(const Json& json) {
  const Plan plan = build_plan(parse_model_config(json, nullptr, "input"));
  static_cast<void>(planned_weights(plan));
  for (const RopeTable& rope : plan.ropes) {
    std::vector<float> frequencies(rope.frequencies.size());
    if (rope.frequencies_of) rope.frequencies_of(1 << 20, frequencies);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  attempt([&] {
    const Json json = parse_json({reinterpret_cast<const char*>(data), size}, "input");
    attempt([&] { plan_of(json); });
    std::vector<ModuleRule> rules;
    if (json.is_object() && json.contains("dynamic") && json.at("dynamic").is_object())
      for (const auto& [key, value] : json.at("dynamic").items()) rules.emplace_back(key, value);
    const auto each = [&](auto weights) { attempt([&] { static_cast<void>(weights(JsonObject(json, "input"))); }); };
    each([](const JsonObject& config) { return marlin_weights(parts(), config); });
    each([](const JsonObject& config) { return compressed_weights(parts(), config); });
    each([&](const JsonObject& config) { return gptq_weights(parts(), config, rules); });
    each([](const JsonObject& config) { return awq_weights(parts(), config); });
    each([](const JsonObject& config) { return fp8_weights(parts(), config); });
    each([](const JsonObject& config) { return bitsandbytes_weights(parts(), config); });
    each([](const JsonObject& config) { return mlx_weights(parts(), config); });
  });
  return 0;
}
