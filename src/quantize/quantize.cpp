#include "metal_marlin/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "formats/group_scale.h"
#include "formats/packed_matrix.h"
#include "formats/small_floats.h"
#include "io/checkpoint.h"
#include "io/mapped_file.h"
#include "io/output_folder.h"
#include "io/packed_tensors.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"
#include "models/architectures.h"
#include "quantize/calibration.h"
#include "quantize/gptq.h"
#include "quantize/layers.h"
#include "quantize/recipe.h"
#include "quantize/report.h"
#include "runtime/thread_pool.h"
#include "tokenizer/regex.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";
constexpr std::int64_t kCalibrationContext = 2048;  // tokens
constexpr std::int64_t kFewestRows = 4;             // inputs a row

constexpr std::array<std::pair<std::string_view, QuantizeMethod>, 3> kMethods{
    {{"rtn", QuantizeMethod::kRtn}, {"rtn-weighted", QuantizeMethod::kRtnWeighted}, {"gptq", QuantizeMethod::kGptq}}};

std::string module_name(const std::string& weight) {
  return weight.substr(0, weight.size() - kWeightSuffix.size());
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<Regex> compile_patterns(const std::vector<std::string>& patterns, const char* flag) {
  std::vector<Regex> out;
  for (const std::string& pattern : patterns) out.emplace_back(pattern, flag);
  return out;
}

bool any_match(const std::vector<Regex>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const Regex& pattern) { return pattern.search(name); });
}

// Linears whose inputs are the same are run as one by others, who want one
// NVFP4 global scale for all of them: "….qkv", "….gate_up", or the name itself.
std::string fused_name(const std::string& module) {
  const std::size_t dot = module.rfind('.');
  const std::string last = module.substr(dot + 1);
  if (last == "q_proj" || last == "k_proj" || last == "v_proj") return module.substr(0, dot) + ".qkv";
  if (last == "gate_proj" || last == "up_proj") return module.substr(0, dot) + ".gate_up";
  if (last == "q_a_proj" || last == "kv_a_proj_with_mqa") return module.substr(0, dot) + ".qkv_a";
  return module;
}

// What becomes of one weight.
struct Job {
  const WeightInfo* info;
  std::optional<FormatSpec> spec;  // nothing: kept
  std::vector<TensorPlan> entries;
  std::size_t bytes = 0;
  std::size_t shard = 0;
};

class Quantizer {
 public:
  Quantizer(const std::filesystem::path& source, const std::filesystem::path& destination,
            const QuantizeOptions& options)
      : options_(options),
        include_(compile_patterns(options.include, "include")),
        exclude_(compile_patterns(options.exclude, "exclude")),
        pool_(options.threads),
        source_(source),
        destination_(destination) {
    recipe_ = options.recipe.empty() ? recipe_of_options() : load_recipe(options.recipe);
    const bool needs_text = options.method != QuantizeMethod::kRtn;
    if (!options.calibration.empty() && !needs_text && !recipe_.has_cold_rule()) {
      throw Error(ErrorCode::kInvalidArgument,
                  "calibration: neither the method rtn nor the recipe, which has no rule for cold experts, needs it");
    }
    if (options.calibration.empty() && needs_text) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("method {} needs a calibration text", method_name(options.method)));
    }
    CheckpointOptions checkpoint_options;
    checkpoint_options.notice = options.notice;
    checkpoint_ = open_checkpoint(source, checkpoint_options);
    config_ = parse_model_config(checkpoint_->config(), checkpoint_->generation_config(), checkpoint_->where());
    if (!options.calibration.empty() && recipe_.has_cold_rule()) calibrate(source);
    plan_jobs();
  }

  QuantizeReport run() {
    const auto start = std::chrono::steady_clock::now();
    if (options_.method != QuantizeMethod::kRtn) quantize_layers();
    OutputFolder folder(destination_, options_.overwrite);
    const std::size_t shards = jobs_.empty() ? 0 : jobs_.back().shard + 1;
    Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
    std::size_t total = 0;
    for (std::size_t shard = 0; shard < shards; ++shard) {
      const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
      total += write_shard(folder.path() / name, shard, name, index);
    }
    index["metadata"]["total_size"] = total;
    folder.write_file("model.safetensors.index.json", index.dump(2));
    for (const auto& [name, text] : checkpoint_->tokenizer_files()) folder.write_file(name, text);
    if (!checkpoint_->generation_config().is_null()) {
      folder.write_file("generation_config.json", checkpoint_->generation_config().dump(2));
    }
    report_.quant_method = scheme_ == PackScheme::kMetalMarlin ? "metal-marlin" : "compressed-tensors";
    report_.method = options_.method;
    report_.seconds = seconds_since(start);
    folder.write_file("quantization_report.json", report_json(report_).dump(2));
    folder.write_file("quantization_report.html", report_html(report_, destination_.filename().string()));
    // Last: without it nobody takes the folder for a model.
    folder.write_file("config.json", output_config().dump(2));
    folder.commit();
    return std::move(report_);
  }

 private:
  // The rules that the options without a recipe amount to.
  [[nodiscard]] Recipe recipe_of_options() const {
    validate(options_.spec);
    if (options_.embedding) validate(*options_.embedding);
    if (!format_info(options_.spec.format).selectable) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("format {} can be read but not written", format_info(options_.spec.format).name));
    }
    Recipe recipe;
    recipe.rules.push_back({WeightClass::kEmbedding, false, std::nullopt, options_.embedding});
    recipe.rules.push_back({WeightClass::kHead, false, std::nullopt, options_.embedding});
    recipe.rules.push_back({std::nullopt, false, std::nullopt, options_.spec});
    return recipe;
  }

  void calibrate(const std::filesystem::path& source) {
    CalibrationOptions calibration;
    calibration.tokens = options_.calibration_tokens;
    calibration.threads = options_.threads;
    calibration.progress = [&](std::int64_t done, std::int64_t total) {
      return !options_.progress || options_.progress({options_.calibration.string(), done, total, true});
    };
    report_.expert_counts = count_experts(source, options_.calibration, calibration);
  }

  // The weights of the layers by a method that needs a text.
  void quantize_layers() {
    LayerCalibration calibration(*checkpoint_, build_plan(config_), calibration_tokens(), calibration_context(), pool_);
    for (int layer = 0; layer < calibration.layers(); ++layer) {
      if (options_.progress && !options_.progress({options_.calibration.string(), layer, calibration.layers(), true}))
        throw Error(ErrorCode::kCancelled, "quantization was cancelled");
      const LayerInputs inputs = calibration.observe();
      factors_.clear();
      PackedWeights weights;
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      for (const Job& job : jobs_) {
        if (!job.spec || !job.info->name.starts_with(prefix)) continue;
        const auto found = inputs.find(job.info->name);
        ready_[job.info->name] = quantize_weight(job, found == inputs.end() ? nullptr : found->second.get());
        weights[job.info->name] = ready_[job.info->name].matrix.view();
      }
      calibration.advance(weights);
    }
    factors_.clear();
  }

  [[nodiscard]] std::int64_t calibration_context() const {
    return std::min(kCalibrationContext, config_.max_positions);
  }
  std::vector<TokenId> calibration_tokens() {
    const MappedFile text(options_.calibration);
    const auto tokenizer = Tokenizer::load(source_);
    std::vector<TokenId> ids =
        tokenizer->encode({reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size()});
    if (ids.empty())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: the text is empty", options_.calibration.string()));
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(options_.calibration_tokens)));
    return ids;
  }

  // A weight that was quantized, and how well.
  struct Ready {
    PackedMatrix matrix;
    QuantizedTensor report;
  };
  // inputs: what the linear layer read, or null where that is not known.
  Ready quantize_weight(const Job& job, const HessianSum* inputs) {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t rows = job.info->shape[0];
    const std::int64_t cols = job.info->shape[1];
    const Weight weight = checkpoint_->load(job.info->name, pool_);
    const float global = job.spec->format == Format::kNvfp4 ? global_scale(module_name(job.info->name)) : 1.0F;
    const RowReader read = [&](std::int64_t row, float* out) { weight.decode_row(row, cols, out); };
    Ready out;
    QuantizeStats stats;
    try {
      const GptqFactor<float>* const factor = says_enough(inputs) ? factor_of(*inputs) : nullptr;
      if (factor == nullptr) {
        if (options_.method != QuantizeMethod::kRtn) out.report.fallback = fallback_reason(job, inputs);
        out.matrix = quantize_matrix(*job.spec, rows, cols, read, global, pool_, &stats);
      } else if (options_.method == QuantizeMethod::kGptq) {
        out.matrix = gptq_matrix(*job.spec, rows, cols, read, global, *factor, pool_, &stats);
      } else {
        out.matrix = quantize_matrix(*job.spec, rows, cols, read, global, pool_, &stats, factor->importance);
      }
      if (factor != nullptr) {
        out.report.method = options_.method;
        const PackedMatrix plain = quantize_matrix(*job.spec, rows, cols, read, global, pool_);
        out.report.output_error = relative(output_error(out.matrix, read, *inputs, pool_));
        out.report.output_error_rtn = relative(output_error(plain, read, *inputs, pool_));
      }
    } catch (const Error& error) {
      throw Error(error.code(),
                  fmt::format("{}: tensor {}: {}", checkpoint_->where(job.info->name), job.info->name, error.what()));
    }
    if (stats.squared_weight > 0) out.report.relative_error = std::sqrt(stats.squared_error / stats.squared_weight);
    out.report.seconds = seconds_since(start);
    return out;
  }
  // Inputs of fewer rows than this share of their columns are no guide.
  static bool says_enough(const HessianSum* inputs) {
    return inputs != nullptr && inputs->rows() * kFewestRows >= inputs->cols();
  }
  static std::string fallback_reason(const Job& job, const HessianSum* inputs) {
    if (is_embedding_or_head(job.info->name)) return "embeddings and head have no method but rtn";
    if (inputs == nullptr) return "no token of the text reached it";
    if (!says_enough(inputs))
      return fmt::format("{} tokens of the text reached its {} inputs, too few", inputs->rows(), inputs->cols());
    return "its inputs on the text are degenerate";
  }
  static double relative(const OutputError& e) {
    return e.output > 0 ? std::sqrt(std::max(e.error, 0.0) / e.output) : 0;
  }

  // Of the layer being worked on. Null: its inputs are degenerate.
  const GptqFactor<float>* factor_of(const HessianSum& inputs) {
    const auto [place, added] = factors_.try_emplace(&inputs);
    if (added) place->second = gptq_factor<float>(inputs, {});
    return place->second ? &*place->second : nullptr;
  }

  // Whether a routed expert is little used; unknown use counts as little.
  [[nodiscard]] bool is_cold(const std::string& name) const {
    const std::optional<ExpertPlace> place = expert_place(name);
    if (!place) return false;
    if (report_.expert_counts.empty()) return true;
    const auto& counts = report_.expert_counts.at(static_cast<std::size_t>(place->layer));
    const auto total = std::accumulate(counts.begin(), counts.end(), 0.0);
    return static_cast<double>(counts.at(static_cast<std::size_t>(place->expert))) <
           recipe_.cold_share * total / static_cast<double>(counts.size());
  }

  [[nodiscard]] std::optional<FormatSpec> spec_of(const std::string& name) const {
    if (any_match(exclude_, name)) return std::nullopt;
    if (!is_embedding_or_head(name) && !include_.empty() && !any_match(include_, name)) return std::nullopt;
    return recipe_.find(name, is_cold(name));
  }

  void plan_jobs() {
    std::map<std::string, PlannedWeight> plan;
    for (const PlannedWeight& planned : planned_weights(build_plan(config_))) {
      checkpoint_->require(planned.name, planned.shape);
      plan[planned.name] = planned;
    }
    for (const WeightInfo& info : checkpoint_->weights()) {
      const auto planned = plan.find(info.name);
      if (planned == plan.end()) {  // such as a tied head or inv_freq
        notice_unused(info.name);
        continue;
      }
      Job job{&info, planned->second.quantizable ? spec_of(info.name) : std::nullopt, {}, 0, 0};
      if (job.spec) modules_[module_name(info.name)] = {*job.spec, info.shape[0], info.shape[1]};
      if (!job.spec && planned->second.matrix && !is_embedding_or_head(info.name))
        ignored_.push_back(module_name(info.name));
      total_weights_ += element_count(info.shape).value_or(0);
      jobs_.push_back(job);
    }
    scheme_ = fits_compressed_tensors(modules_) ? PackScheme::kCompressedTensors : PackScheme::kMetalMarlin;
    std::size_t shard = 0;
    std::size_t filled = 0;
    for (Job& job : jobs_) {
      job.entries = entries_of(job);
      for (const TensorPlan& entry : job.entries) job.bytes += entry.bytes();
      if (filled > 0 && filled + job.bytes > options_.shard_bytes) {
        ++shard;
        filled = 0;
      }
      job.shard = shard;
      filled += job.bytes;
    }
  }

  void notice_unused(const std::string& name) {
    if (!options_.notice) return;
    if (!is_prediction_weight(config_, name)) {
      options_.notice(
          fmt::format("{}: tensor {} is not used by the model and is left out", checkpoint_->where(name), name));
    } else if (!std::exchange(prediction_noticed_, true)) {
      options_.notice(fmt::format("{}: {}", checkpoint_->where(), kPredictionNotice));
    }
  }

  [[nodiscard]] std::vector<TensorPlan> entries_of(const Job& job) const {
    if (job.spec) {
      const std::string module = module_name(job.info->name);
      return packed_tensor_plans(scheme_, module, modules_.at(module));
    }
    // A kept tensor that the source holds packed is written in f16.
    return {{job.info->name, job.info->packed ? DType::kF16 : job.info->dtype, job.info->shape}};
  }

  std::size_t write_shard(const std::filesystem::path& path, std::size_t shard, const std::string& file, Json& index) {
    std::vector<TensorPlan> entries;
    std::size_t bytes = 0;
    for (const Job& job : jobs_) {
      if (job.shard != shard) continue;
      entries.insert(entries.end(), job.entries.begin(), job.entries.end());
      bytes += job.bytes;
    }
    for (const TensorPlan& entry : entries) index["weight_map"][entry.name] = file;
    SafetensorsWriter writer(path, entries);
    for (const Job& job : jobs_) {
      if (job.shard == shard) write_job(job, writer);
    }
    writer.finish();
    return bytes;
  }

  void announce(const std::string& tensor) {
    if (options_.progress && !options_.progress({tensor, done_weights_, total_weights_, false})) {
      throw Error(ErrorCode::kCancelled, "quantization was cancelled");
    }
  }

  void write_job(const Job& job, SafetensorsWriter& writer) {
    announce(job.info->name);
    QuantizedTensor tensor;
    tensor.name = job.info->name;
    tensor.shape = job.info->shape;
    tensor.source = job.info->stored_as;
    tensor.weights = element_count(job.info->shape).value_or(0);
    tensor.source_bytes = job.info->bytes;
    tensor.bytes = job.bytes;
    if (job.spec) {
      tensor.format = format_info(job.spec->format).name;
      write_packed(job, writer, tensor);
    } else {
      tensor.format = dtype_name(job.entries.front().dtype);
      write_dense(job, checkpoint_->load(job.info->name, pool_), writer);
    }
    done_weights_ += tensor.weights;
    report_.tensors.push_back(std::move(tensor));
    announce(job.info->name);
  }

  void write_packed(const Job& job, SafetensorsWriter& writer, QuantizedTensor& tensor) {
    const auto kept = ready_.extract(job.info->name);
    const Ready ready = kept.empty() ? quantize_weight(job, nullptr) : std::move(kept.mapped());
    write_packed_tensors(scheme_, ready.matrix, writer);
    const QuantizedTensor& report = ready.report;
    tensor.relative_error = report.relative_error;
    tensor.method = report.method;
    tensor.fallback = report.fallback;
    tensor.output_error = report.output_error;
    tensor.output_error_rtn = report.output_error_rtn;
    tensor.seconds = report.seconds;
  }

  static void write_dense(const Job& job, const Weight& weight, SafetensorsWriter& writer) {
    if (!weight.packed()) return writer.write(std::get<DenseView>(weight.view).bytes);
    const auto cols = static_cast<std::size_t>(job.info->shape[1]);
    std::vector<float> row(cols);
    std::vector<std::uint16_t> halves(cols);
    for (std::int64_t r = 0; r < job.info->shape[0]; ++r) {
      weight.decode_row(r, job.info->shape[1], row.data());
      std::transform(row.begin(), row.end(), halves.begin(), f32_to_f16);
      writer.write(std::as_bytes(std::span(halves)));
    }
  }

  // One for all modules that are fused with this one.
  float global_scale(const std::string& module) {
    const std::string fused = fused_name(module);
    const auto known = global_scales_.find(fused);
    if (known != global_scales_.end()) return known->second;
    float largest = 0;
    for (const auto& [name, packed] : modules_) {
      if (fused_name(name) == fused)
        largest = std::max(largest, largest_weight(name + std::string(kWeightSuffix), packed));
    }
    return global_scales_[fused] = nvfp4_global_scale(largest);
  }

  float largest_weight(const std::string& name, const PackedModule& packed) {
    const Weight weight = checkpoint_->load(name, pool_);
    std::vector<float> tops(static_cast<std::size_t>(packed.rows));
    pool_.parallel_for(packed.rows, 16, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> row(static_cast<std::size_t>(packed.cols));
      for (std::int64_t r = begin; r < end; ++r) {
        weight.decode_row(r, packed.cols, row.data());
        for (const float x : row)
          tops[static_cast<std::size_t>(r)] = std::max(tops[static_cast<std::size_t>(r)], std::fabs(x));
      }
    });
    const float top = tops.empty() ? 0.0F : *std::max_element(tops.begin(), tops.end());
    return std::isfinite(top) ? top : 0.0F;  // the quantizer will name the place
  }

  [[nodiscard]] Json output_config() const {
    Json config = checkpoint_->config();
    config.erase("quantization_config");
    if (!modules_.empty()) config["quantization_config"] = quantization_config(scheme_, modules_, ignored_);
    return config;
  }

  const QuantizeOptions& options_;
  Recipe recipe_;
  std::vector<Regex> include_;
  std::vector<Regex> exclude_;
  ThreadPool pool_;
  std::filesystem::path source_;
  std::filesystem::path destination_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::vector<Job> jobs_;
  std::map<std::string, PackedModule> modules_;
  std::vector<std::string> ignored_;
  bool prediction_noticed_ = false;
  std::map<std::string, float> global_scales_;
  std::map<const HessianSum*, std::optional<GptqFactor<float>>> factors_;
  std::map<std::string, Ready> ready_;
  PackScheme scheme_ = PackScheme::kMetalMarlin;
  std::int64_t total_weights_ = 0;
  std::int64_t done_weights_ = 0;
  QuantizeReport report_;
};

}  // namespace

QuantizeMethod parse_method(std::string_view name) {
  std::string known;
  for (const auto& [method, value] : kMethods) {
    if (method == name) return value;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", method);
  }
  throw Error(ErrorCode::kInvalidArgument, fmt::format("method {}: expected one of {}", name, known));
}

std::string_view method_name(QuantizeMethod method) {
  for (const auto& [name, value] : kMethods) {
    if (value == method) return name;
  }
  return "";
}

QuantizeReport quantize(const std::filesystem::path& source, const std::filesystem::path& destination,
                        const QuantizeOptions& options) {
  return Quantizer(source, destination, options).run();
}

}  // namespace metal_marlin
