#include "metal_marlin/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "backends/registry.h"
#include "base/hash.h"
#include "base/named.h"
#include "base/regex.h"
#include "base/seconds_since.h"
#include "base/shared_pool.h"
#include "io/checkpoint.h"
#include "io/file_write.h"
#include "io/mapped_file.h"
#include "io/output_folder.h"
#include "io/peft_adapter.h"
#include "io/sources.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"
#include "models/adapters.h"
#include "models/architectures.h"
#include "models/consumed.h"
#include "models/merged_checkpoint.h"
#include "quantize/allocation.h"
#include "quantize/layers.h"
#include "quantize/output.h"
#include "quantize/recipe.h"
#include "quantize/report.h"
#include "quantize/sensitivity.h"
#include "quantize/weights.h"
#include "runtime/embedding_files.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kCalibrationContext = 2048;  // tokens

constexpr std::array<NamedValue<QuantizeMethod>, 4> kMethods{{{"rtn", QuantizeMethod::kRtn},
                                                              {"rtn-weighted", QuantizeMethod::kRtnWeighted},
                                                              {"gptq", QuantizeMethod::kGptq},
                                                              {"mr-gptq", QuantizeMethod::kMrGptq}}};

class Quantizer {
 public:
  Quantizer(const std::filesystem::path& source, const std::filesystem::path& destination,
            const QuantizeOptions& options)
      : options_(options),
        include_(compile_patterns(options.include, "include")),
        exclude_(compile_patterns(options.exclude, "exclude")),
        pool_(shared_pool(options.threads)),
        backend_(make_backend(options.backend, {pool_, ""})),
        source_(source),
        destination_(destination.filename().empty() ? destination.parent_path() : destination) {
    recipe_ = options.recipe.empty() ? recipe_of_options() : load_recipe(options.recipe);
    CheckpointOptions checkpoint_options;
    checkpoint_options.notice = options.notice;
    checkpoint_ = open_checkpoint(source, checkpoint_options);
    refuse_to_overwrite();
    config_ = read_model_config(*checkpoint_, options.notice);
    model_plan_ = build_plan(config_);
    require_consumed(*checkpoint_, model_plan_);
    for (std::int64_t i = 0; i < prediction_layers(config_, *checkpoint_); ++i)
      predictions_.push_back(build_prediction_plan(config_, i));
    if (!predictions_.empty()) require_same_copies(config_, *checkpoint_);
    refuse_rotated_source();
    if (options.merge) merge_adapter_first(*options.merge);
    if (!options.calibration.empty()) {
      ids_ = calibration_tokens();
      if (recipe_.has_cold_rule()) count_experts();
    }
    if (options.target_bpw > 0) allocate_formats();
    plan_ = plan_jobs(
        *checkpoint_, config_, model_plan_, predictions_,
        [this](const PlannedWeight& weight) { return choice_of(weight); }, options.shard_bytes, options.notice);
    check_calibration();
    check_memory();
  }

  QuantizeReport run() {
    const auto start = std::chrono::steady_clock::now();
    QuantizedOutput output(destination_, options_.overwrite, plan_, key());
    try {
      quantize_all(output);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kCancelled) output.keep();
      throw;
    }
    for (const auto& [name, text] : checkpoint_->tokenizer_files()) output.write_file(name, text);
    for (const std::string& name : embedding_files(source_)) output.write_file(name, read_text_file(source_ / name));
    if (!checkpoint_->generation_config().is_null()) {
      output.write_file("generation_config.json", checkpoint_->generation_config().dump(2));
    }
    for (const Job& job : plan_.jobs) report_.tensors.push_back(output.done().at(job.info->name));
    report_.quant_method = plan_.scheme == PackScheme::kMetalMarlin ? "metal-marlin" : "compressed-tensors";
    report_.method = options_.method;
    report_.seconds = seconds_since(start);
    output.finish();
    if (!curves_.empty()) output.write_file("allocation_curves.json", curves_json(curves_).dump());
    output.write_file("quantization_report.json", report_json(report_).dump(2));
    output.write_file("quantization_report.html", report_html(report_, destination_.filename().string()));
    // Last: without it nobody takes the folder for a model.
    output.write_file("config.json", output_config().dump(2));
    output.commit();
    std::error_code ignored;
    std::filesystem::remove(counts_file(), ignored);
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
    recipe.rules.push_back({ModelPart::kEmbedding, false, false, std::nullopt, options_.embedding, std::nullopt});
    recipe.rules.push_back({ModelPart::kHead, false, false, std::nullopt, options_.embedding, std::nullopt});
    recipe.rules.push_back({std::nullopt, false, false, std::nullopt, options_.spec, std::nullopt});
    return recipe;
  }

  // What is read must stay: the folder to write takes the place of what has its name.
  void refuse_to_overwrite() const {
    Sources sources;
    sources.add(source_);
    sources.add_weights(*checkpoint_);
    sources.add(options_.calibration);
    if (options_.merge) sources.add(options_.merge->path);
    if (std::filesystem::exists(options_.recipe)) sources.add(options_.recipe);
    if (!options_.curves.empty()) sources.refuse(options_.curves);
    sources.add(options_.curves);
    sources.refuse(destination_);
    sources.refuse(counts_file());
  }

  void refuse_rotated_source() const {
    for (const WeightInfo& info : checkpoint_->weights()) {
      if (!info.packed || info.packed->rotation == 0) continue;
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor {} is stored rotated; quantize the model that it was made of",
                              checkpoint_->where(info.name), info.name));
    }
  }

  void merge_adapter_first(const AdapterOptions& options) {
    const PeftAdapter adapter(options.path);
    Adapter bound = bind_adapter(adapter, options.path.string(), options.scale, model_plan_, *checkpoint_, *pool_);
    checkpoint_ = merge_adapter(std::move(checkpoint_), std::move(bound), model_plan_);
    adapter_key_ = {options.scale};
    for (const auto& file : {adapter.config(), adapter.file()})
      adapter_key_.push_back(hash_of(MappedFile(file).bytes()));
  }

  [[nodiscard]] static bool needs_text(const Job& job) { return job.spec && job.method != QuantizeMethod::kRtn; }
  void check_calibration() const {
    const auto found = std::find_if(plan_.jobs.begin(), plan_.jobs.end(), needs_text);
    if (options_.calibration.empty() && found != plan_.jobs.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("method {} needs a calibration text", method_name(found->method)));
    }
    if (!options_.calibration.empty() && found == plan_.jobs.end() && !recipe_.has_cold_rule() &&
        options_.target_bpw == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "calibration: neither the method rtn nor the recipe, which has no rule for cold experts, needs it");
    }
  }

  // What is held at most, about: the embedding or a layer as it runs, or what GPTQ makes of the widest
  // inputs. Rows between layers lie in files, and pages of files are given back.
  void check_memory() const {
    if (options_.memory == 0) return;
    constexpr std::size_t kRest = std::size_t{256} << 20;
    std::size_t largest = 0;
    std::map<int, std::size_t> layers;
    for (const Job& job : plan_.jobs) {
      const auto cols = static_cast<std::size_t>(job.info->shape.size() > 1 ? job.info->shape[1] : 0);
      const std::size_t inverse =
          needs_text(job) ? (job.input_rotation() != 0 ? 4 : 3) * cols * cols * sizeof(float) : 0;
      largest = std::max(largest, 2 * job.bytes + inverse);
      if (job.planned.embedding_or_head()) largest = std::max(largest, 2 * job.info->bytes);
      // As it was read and as it is multiplied.
      if (!ids_.empty() && job.planned.layer >= 0) layers[job.planned.layer] += 2 * job.bytes;
    }
    for (const auto& [layer, bytes] : layers) largest = std::max(largest, bytes);
    if (largest + kRest <= options_.memory) return;
    throw Error(ErrorCode::kInvalidArgument, fmt::format("memory: {} MiB are allowed, about {} MiB are needed",
                                                         options_.memory >> 20, (largest + kRest) >> 20));
  }

  std::vector<TokenId> calibration_tokens() {
    const auto tokenizer = tokenizer_of(*checkpoint_, options_.notice);
    if (!tokenizer) throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", source_.string()));
    std::vector<TokenId> ids = tokenizer->encode(read_text_file(options_.calibration));
    if (ids.empty())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: the text is empty", options_.calibration.string()));
    ids.resize(std::min(ids.size(), static_cast<std::size_t>(options_.calibration_tokens)));
    return ids;
  }
  [[nodiscard]] std::int64_t calibration_context() const {
    return std::min(kCalibrationContext, config_.max_positions);
  }
  void announce(const QuantizeProgress& progress) const {
    if (options_.progress && !options_.progress(progress))
      throw Error(ErrorCode::kCancelled, "quantization was cancelled");
  }
  void announce_layer(const std::string& what, int layer) const {
    announce({what, layer, model_plan_.layers, 0, true});
  }
  void announce_tensor(const std::string& tensor) const {
    announce({tensor, done_weights_, plan_.weights, last_error_, false});
  }

  // Tokens that each expert of the model as it is gets.
  void count_experts() {
    if (config_.moe.experts == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: the model has no experts whose use a text could tell", source_.string()));
    }
    // A run that was cut off has counted already.
    const std::string key =
        Json{source_key(), ids_.size(), hash_of(std::as_bytes(std::span(ids_))), backend_->name()}.dump();
    if (std::filesystem::exists(counts_file())) {
      const Json before = read_json_file(counts_file());
      if (before.value("key", "") == key) {
        report_.expert_counts = before.at("counts").get<std::vector<std::vector<std::int64_t>>>();
        return;
      }
    }
    const OutputFolder scratch(destination_.string() + ".counts", true);
    LayerCalibration calibration(*checkpoint_, model_plan_, ids_, calibration_context(), scratch.path(), *backend_,
                                 *pool_);
    while (calibration.layer() < calibration.layers()) {
      announce_layer(options_.calibration.string(), calibration.layer());
      calibration.advance({});
      report_.expert_counts.push_back(calibration.expert_counts());
    }
    write_file_atomically(counts_file(), Json{{"key", key}, {"counts", report_.expert_counts}}.dump());
  }
  [[nodiscard]] std::filesystem::path counts_file() const { return destination_.string() + ".counts.json"; }
  [[nodiscard]] Json source_key() const {
    const auto written = std::filesystem::last_write_time(checkpoint_->where(checkpoint_->weights().front().name));
    Json key = {std::filesystem::absolute(source_).string(), written.time_since_epoch().count()};
    if (!adapter_key_.is_null()) key.push_back(adapter_key_);
    return key;
  }

  [[nodiscard]] bool is_linear(const PlannedWeight& weight) const {
    if (any_match(exclude_, weight.name) || weight.embedding_or_head()) return false;
    return include_.empty() || any_match(include_, weight.name);
  }

  // The format of each linear layer by what it costs.
  void allocate_formats() {
    if (options_.calibration.empty())
      throw Error(ErrorCode::kInvalidArgument, "a target of bits needs a calibration text");
    if (!options_.recipe.empty())
      throw Error(ErrorCode::kInvalidArgument, "a target of bits leaves a recipe nothing to say");
    std::set<std::string> linears;
    for (const PlannedWeight& planned : planned_weights(model_plan_)) {
      if (planned.quantizable && is_linear(planned)) linears.insert(planned.name);
    }
    if (!options_.curves.empty() && std::filesystem::exists(options_.curves)) {
      curves_ = parse_curves(read_json_file(options_.curves), options_.curves.string());
      std::set<std::string> known;
      for (const AllocationUnit& unit : curves_) known.insert(unit.weights.begin(), unit.weights.end());
      if (known != linears) {
        throw Error(
            ErrorCode::kInvalidArgument,
            fmt::format("{}: tells of {} weights, the model has {} linear layers to quantize, and not the same ones",
                        options_.curves.string(), known.size(), linears.size()));
      }
    } else {
      curves_ = measure_curves(linears);
      if (!options_.curves.empty()) write_file_atomically(options_.curves, curves_json(curves_).dump());
    }
    const Allocation chosen = allocate(curves_, options_.target_bpw);
    allocated_ = chosen.formats;
    report_.allocation = {chosen.bits_per_weight, chosen.loss};
    for (double bits = 2; bits <= 8.5; bits += 0.125) {
      try {
        const Allocation other = allocate(curves_, bits);
        report_.allocation_curve.push_back({other.bits_per_weight, other.loss});
      } catch (const Error&) {  // fewer than the candidates have
      }
    }
  }

  std::vector<AllocationUnit> measure_curves(const std::set<std::string>& linears) {
    constexpr std::size_t kTokens = 2048;
    const OutputFolder scratch(destination_.string() + ".curves", true);
    SensitivityCall call{*checkpoint_,
                         *backend_,
                         model_plan_,
                         {ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(std::min(ids_.size(), kTokens))},
                         calibration_context(),
                         scratch.path(),
                         options_.candidates.empty() ? default_candidates() : options_.candidates,
                         [&](const std::string& name) { return linears.contains(name); },
                         [&](int layer) { announce_layer("costs of formats", layer); }};
    return measure_sensitivity(call, *pool_);
  }

  // Whether a routed expert is little used; unknown use counts as little.
  [[nodiscard]] bool is_cold(const PlannedWeight& weight) const {
    if (weight.expert < 0 || weight.prediction) return false;
    if (report_.expert_counts.empty()) return true;
    const auto& counts = report_.expert_counts.at(static_cast<std::size_t>(weight.layer));
    const auto total = std::accumulate(counts.begin(), counts.end(), 0.0);
    return static_cast<double>(counts.at(static_cast<std::size_t>(weight.expert))) <
           recipe_.cold_share * total / static_cast<double>(counts.size());
  }

  [[nodiscard]] std::optional<WeightChoice> choice_of(const PlannedWeight& weight) const {
    if (weight.embedding_or_head() ? any_match(exclude_, weight.name) : !is_linear(weight)) return std::nullopt;
    const RecipeRule* const rule = recipe_.rule(weight, is_cold(weight));
    if (rule == nullptr || !rule->spec) return std::nullopt;
    WeightChoice choice{*rule->spec, rule->method.value_or(options_.method)};
    if (const auto found = allocated_.find(weight.name); found != allocated_.end()) choice.spec = found->second;
    if (weight.embedding_or_head() || weight.prediction) choice.method = QuantizeMethod::kRtn;
    if (choice.method == QuantizeMethod::kMrGptq && choice.spec.rotation == 0) choice.spec.rotation = options_.rotation;
    validate(choice.spec);
    return choice;
  }

  // Whatever the bytes of the result depend on.
  [[nodiscard]] std::string key() const {
    Json jobs = Json::array();
    for (const Job& job : plan_.jobs) {
      Json entry = {job.info->name, job.info->bytes, job.shard, job.input_rotation(), job.output_rotation};
      if (job.spec) {
        entry.push_back(fmt::format("{} {} {} {} {}", format_label(*job.spec), group_name(job.spec->group),
                                    scale_type_name(job.spec->scale_type), zero_kind_name(job.spec->zero),
                                    method_name(job.method)));
      }
      jobs.push_back(std::move(entry));
    }
    return Json{{"source", source_key()},
                {"text", {ids_.size(), hash_of(std::as_bytes(std::span(ids_)))}},
                {"backend", backend_->name()},
                {"jobs", std::move(jobs)}}
        .dump();
  }

  void quantize_all(QuantizedOutput& output) {
    for (const auto& [name, report] : output.done()) done_weights_ += report.weights;
    if (!output.done().empty() && options_.notice)
      options_.notice(fmt::format("goes on in {}, with {} of {} tensors done", output.path().string(),
                                  output.done().size(), plan_.jobs.size()));
    WeightQuantizer quantizer(*checkpoint_, plan_, *pool_);
    if (std::any_of(plan_.jobs.begin(), plan_.jobs.end(), needs_text)) quantize_layers(quantizer, output);
    for (const Job& job : plan_.jobs) {
      if (!output.done().contains(job.info->name)) write(job, nullptr, quantizer, output);
    }
  }

  // The weights of the layers, by what they read of the text.
  void quantize_layers(WeightQuantizer& quantizer, QuantizedOutput& output) {
    LayerCalibration calibration(*checkpoint_, model_plan_, ids_, calibration_context(), output.path(), *backend_,
                                 *pool_, output.layer());
    const auto wanted = [&](const std::string& name) {
      return needs_text(plan_.find(name)) && !output.done().contains(name);
    };
    while (calibration.layer() < calibration.layers()) {
      announce_layer(options_.calibration.string(), calibration.layer());
      calibration.observe(wanted, [&](const std::vector<std::string>& names, const HessianSum* inputs) {
        for (const std::string& name : names) {
          if (wanted(name)) write(plan_.find(name), inputs, quantizer, output);
        }
        quantizer.forget_inputs();
      });
      ReplacedWeights replaced;
      replaced.load = [&](const std::string& name) { return output.load(name); };
      for (const Job& job : plan_.jobs) {
        const std::string& name = job.info->name;
        if (job.planned.layer != calibration.layer() || (!job.spec && job.output_rotation == 0)) continue;
        if (!output.done().contains(name)) write(job, nullptr, quantizer, output);
        replaced.specs[name] = job.spec;
      }
      calibration.advance(replaced);
      output.reach_layer(calibration.layer());
    }
  }

  void write(const Job& job, const HessianSum* inputs, WeightQuantizer& quantizer, QuantizedOutput& output) {
    announce_tensor(job.info->name);
    QuantizedTensor tensor;
    std::optional<WeightQuantizer::Result> result;
    if (job.spec) {
      result = quantizer.quantize(job, inputs);
      tensor = result->report;
      tensor.format = format_label(*job.spec);
      last_error_ = tensor.output_error;
    } else {
      tensor.format = dtype_name(job.entries.front().dtype);
    }
    tensor.name = job.info->name;
    tensor.shape = job.info->shape;
    tensor.source = job.info->stored_as;
    tensor.weights = element_count(job.info->shape).value_or(0);
    tensor.source_bytes = job.info->bytes;
    tensor.bytes = job.bytes;
    if (result) {
      output.store(job, result->matrix, tensor);
    } else {
      output.store(job, quantizer.keep(job).bytes, tensor);
    }
    checkpoint_->release();
    done_weights_ += tensor.weights;
    announce_tensor(job.info->name);
  }

  [[nodiscard]] Json output_config() const {
    Json config = checkpoint_->config();
    config.erase("quantization_config");
    config.erase("quantization");
    if (config.contains("tie_word_embeddings")) config["tie_word_embeddings"] = config_.tied;  // as the weights are
    if (!plan_.modules.empty())
      config["quantization_config"] = quantization_config(plan_.scheme, plan_.modules, plan_.ignored);
    return config;
  }

  const QuantizeOptions& options_;
  Recipe recipe_;
  std::vector<Regex> include_;
  std::vector<Regex> exclude_;
  std::shared_ptr<ThreadPool> pool_;
  std::unique_ptr<Backend> backend_;  // of the forward passes
  std::filesystem::path source_;
  std::filesystem::path destination_;
  std::unique_ptr<Checkpoint> checkpoint_;
  Json adapter_key_;  // of what is merged; null: nothing
  ModelConfig config_;
  Plan model_plan_;
  std::vector<Plan> predictions_;
  std::vector<TokenId> ids_;  // of the text
  std::vector<AllocationUnit> curves_;
  std::map<std::string, FormatSpec> allocated_;
  JobPlan plan_;
  std::int64_t done_weights_ = 0;
  double last_error_ = 0;
  QuantizeReport report_;
};

}  // namespace

QuantizeMethod parse_method(std::string_view name) {
  return value_of<QuantizeMethod>(kMethods, name, "method");
}

std::string_view method_name(QuantizeMethod method) {
  return name_of<QuantizeMethod>(kMethods, method);
}

QuantizeReport quantize(const std::filesystem::path& source, const std::filesystem::path& destination,
                        const QuantizeOptions& options) {
  return Quantizer(source, destination, options).run();
}

}  // namespace metal_marlin
