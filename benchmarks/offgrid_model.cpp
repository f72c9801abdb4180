// Writes a Llama or Qwen3 model as the same function with its weights off any grid: the input channels of every
// linear layer are scaled by random factors of [0.7, 1.4], which the norm, v_proj or up_proj before it take back.
// What is quantized already lies on a grid, on which some formats would look better than they are. All in f32, the
// output head untied.
//   offgrid_model SOURCE DESTINATION [SEED]
#include <fmt/format.h>

#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/output_folder.h"
#include "io/safetensors.h"
#include "metal_marlin/error.h"
#include "models/architectures.h"

namespace metal_marlin {
namespace {

using Factors = std::vector<double>;

// A weight's values times factors on columns, over factors on rows; a vector is a row.
struct Scaling {
  const Factors* columns = nullptr;
  const Factors* over_rows = nullptr;
  const Factors* over_columns = nullptr;
};

class OffgridModel {
 public:
  OffgridModel(const std::filesystem::path& source, unsigned seed)
      : checkpoint_(open_checkpoint(source)), config_(read_model_config(*checkpoint_)), random_(seed) {
    if (config_.moe.experts != 0 || config_.latent.rank != 0)
      throw Error(ErrorCode::kUnsupported, "offgrid_model: a dense model without latent attention is expected");
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) scale_layer(fmt::format("model.layers.{}.", layer));
    const Factors& head = factors(config_.hidden);
    scalings_["lm_head.weight"].columns = &head;
    scalings_["model.norm.weight"].over_columns = &head;
  }

  void write(const std::filesystem::path& destination) {
    Json config = checkpoint_->config();
    config.erase("quantization_config");
    config["tie_word_embeddings"] = false;
    config["torch_dtype"] = "float32";
    std::map<std::string, std::string> sources;  // by the name that is written
    for (const PlannedWeight& planned : planned_weights(build_plan(config_))) sources[planned.name] = planned.name;
    sources.try_emplace("lm_head.weight", "model.embed_tokens.weight");
    std::vector<TensorPlan> plan;
    for (const auto& [name, source] : sources) plan.push_back({name, DType::kF32, checkpoint_->find(source)->shape});
    OutputFolder folder(destination, true);
    SafetensorsWriter writer(folder.path() / "model.safetensors", plan);
    for (const auto& [name, source] : sources) write_weight(name, source, writer);
    writer.finish();
    for (const auto& [name, text] : checkpoint_->tokenizer_files()) folder.write_file(name, text);
    if (!checkpoint_->generation_config().is_null())
      folder.write_file("generation_config.json", checkpoint_->generation_config().dump(2));
    folder.write_file("config.json", config.dump(2));
    folder.commit();
  }

 private:
  const Factors& factors(std::int64_t count) {
    std::uniform_real_distribution<double> uniform(0.7, 1.4);
    Factors out(static_cast<std::size_t>(count));
    for (double& f : out) f = uniform(random_);
    return kept_.emplace_back(std::move(out));
  }

  void scale_layer(const std::string& prefix) {
    const auto at = [&](const char* name) -> Scaling& { return scalings_[prefix + name + ".weight"]; };
    const Factors& attention = factors(config_.hidden);
    at("input_layernorm").over_columns = &attention;
    for (const char* name : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}) at(name).columns = &attention;
    // Heads that share values share the factors.
    const Factors& values = factors(config_.kv_heads * config_.head_dim);
    at("self_attn.v_proj").over_rows = &values;
    if (config_.qkv_bias) scalings_[prefix + "self_attn.v_proj.bias"].over_columns = &values;
    Factors of_heads;
    for (std::int64_t head = 0; head < config_.heads; ++head) {
      const auto begin = values.begin() + head / (config_.heads / config_.kv_heads) * config_.head_dim;
      of_heads.insert(of_heads.end(), begin, begin + config_.head_dim);
    }
    at("self_attn.o_proj").columns = &kept_.emplace_back(std::move(of_heads));
    const Factors& feed = factors(config_.hidden);
    at("post_attention_layernorm").over_columns = &feed;
    at("mlp.gate_proj").columns = at("mlp.up_proj").columns = &feed;
    const Factors& active = factors(config_.intermediate);
    at("mlp.up_proj").over_rows = &active;
    at("mlp.down_proj").columns = &active;
  }

  void write_weight(const std::string& name, const std::string& source, SafetensorsWriter& writer) {
    const Weight weight = checkpoint_->load(source, pool_);
    const Shape& shape = checkpoint_->find(source)->shape;
    const std::int64_t rows = shape.size() == 1 ? 1 : shape[0];
    const std::int64_t cols = shape.back();
    const Scaling scaling = scalings_[name];
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t r = 0; r < rows; ++r) {
      weight.decode_row(r, cols, row.data());
      for (std::size_t c = 0; c < row.size(); ++c) {
        double value = row[c];
        if (scaling.columns != nullptr) value *= (*scaling.columns)[c];
        if (scaling.over_columns != nullptr) value /= (*scaling.over_columns)[c];
        if (scaling.over_rows != nullptr) value /= (*scaling.over_rows)[static_cast<std::size_t>(r)];
        row[c] = static_cast<float>(value);
      }
      writer.write(std::as_bytes(std::span(row)));
    }
  }

  ThreadPool pool_{1};
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::mt19937 random_;
  std::list<Factors> kept_;
  std::map<std::string, Scaling> scalings_;
};

}  // namespace
}  // namespace metal_marlin

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: offgrid_model SOURCE DESTINATION [SEED]\n");
    return 2;
  }
  try {
    metal_marlin::OffgridModel(argv[1], argc > 3 ? static_cast<unsigned>(std::stoul(argv[3])) : 1).write(argv[2]);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
