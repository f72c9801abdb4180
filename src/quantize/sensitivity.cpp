#include "quantize/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "base/thread_pool.h"
#include "formats/group_scale.h"
#include "metal_marlin/error.h"
#include "quantize/gptq.h"
#include "quantize/layers.h"

namespace metal_marlin {
namespace {

// What layers are probed with.
FormatSpec probe_spec() {
  FormatSpec spec = default_spec(Format::kInt3);
  spec.group = 64;
  return spec;
}

class Measurement {
 public:
  Measurement(const SensitivityCall& call, ThreadPool& pool)
      : call_(call),
        pool_(pool),
        experts_(experts_of(call.plan)),
        calibration_(call.checkpoint, call.plan, call.ids, call.context, call.scratch, call.backend, pool) {}

  std::vector<AllocationUnit> run() {
    std::vector<std::unique_ptr<RowFile>> probes;  // rows after a layer that was probed
    while (calibration_.layer() < calibration_.layers()) {
      const int layer = calibration_.layer();
      call_.progress(layer);
      measure_errors();
      calibration_.advance({});
      const RowFile before(calibration_.path_of(layer), rows(), calibration_.width_before(layer),
                           RowFile::Open::kExisting);
      measure_shares(layer, before);
      probes.push_back(new_file(fmt::format("probe-{}", layer), layer));
      pass(layer, names_of(layer), before, *probes.back());
      packed_.clear();
    }
    finish(probes);
    fill_unseen();
    std::vector<AllocationUnit> out;
    for (Unit& unit : units_) out.push_back(std::move(unit.unit));
    return out;
  }

 private:
  struct Unit {
    AllocationUnit unit;
    int layer = 0;
    std::string probe;       // units that are probed together
    double probe_error = 0;  // of its outputs in the probe's format, squared
    bool seen = true;        // by a token
  };

  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(call_.ids.size()); }
  [[nodiscard]] std::int64_t width() const { return calibration_.rows().width(); }
  [[nodiscard]] std::filesystem::path path(const std::string& name) const { return call_.scratch / name; }
  // Of rows after a layer.
  [[nodiscard]] std::unique_ptr<RowFile> new_file(const std::string& name, int layer) const {
    return std::make_unique<RowFile>(path(name), rows(), calibration_.width_before(layer + 1), RowFile::Open::kNew);
  }

  // A gate and its up projection share a format, for they are multiplied together.
  static std::string unit_name(const std::string& weight) {
    const std::size_t at = weight.find("gate_proj.weight");
    return at == std::string::npos ? weight : weight.substr(0, at) + "up_proj.weight";
  }
  // The experts of a layer are probed together.
  [[nodiscard]] std::string probe_name(const std::string& unit) const {
    return experts_.contains(unit) ? fmt::format("experts{}", unit.substr(unit.rfind('.', unit.size() - 8))) : unit;
  }
  static std::set<std::string> experts_of(const Plan& plan) {
    std::set<std::string> out;
    for (const PlannedWeight& weight : planned_weights(plan)) {
      if (weight.expert >= 0) out.insert(weight.name);
    }
    return out;
  }

  Unit& unit_of(const std::string& weight) {
    const std::string name = unit_name(weight);
    const auto [found, added] = by_name_.try_emplace(name, units_.size());
    if (added) {
      Unit unit;
      unit.layer = calibration_.layer();
      unit.probe = probe_name(name);
      for (const FormatSpec& spec : call_.candidates) unit.unit.points.push_back({spec, 0, 0});
      units_.push_back(std::move(unit));
    }
    return units_[found->second];
  }

  // The squared errors of each unit's outputs in every format.
  void measure_errors() {
    calibration_.observe(call_.wanted, [&](const std::vector<std::string>& names, const HessianSum* inputs) {
      const double mean = inputs != nullptr ? inputs->mean_of_diagonal() : 0;
      const auto importance = mean > 0 ? inputs->importance(GptqOptions{}.damping * mean) : std::vector<float>{};
      for (const std::string& name : names) {
        if (call_.wanted(name)) measure_weight(name, inputs, importance);
      }
    });
  }

  void measure_weight(const std::string& name, const HessianSum* inputs, const std::vector<float>& importance) {
    const WeightInfo& info = *call_.checkpoint.find(name);
    const std::int64_t rows_of_weight = info.shape[0];
    const std::int64_t cols = info.shape[1];
    const Weight weight = call_.checkpoint.load(name, pool_);
    const RowReader read = [&](std::int64_t row, float* out) { weight.decode_row(row, cols, out); };
    Unit& unit = unit_of(name);
    unit.unit.weights.push_back(name);
    unit.unit.elements += rows_of_weight * cols;
    unit.seen = unit.seen && inputs != nullptr;
    const auto matrix_of = [&](const FormatSpec& spec) {
      return quantize_matrix(spec, rows_of_weight, cols, read,
                             spec.format == Format::kNvfp4
                                 ? nvfp4_global_scale(largest_magnitude(rows_of_weight, cols, read, pool_))
                                 : 1.0F,
                             pool_, nullptr, importance);
    };
    for (AllocationUnit::Point& point : unit.unit.points) {
      point.bits += bits_per_weight(point.spec, rows_of_weight, cols) * static_cast<double>(rows_of_weight * cols);
      if (inputs != nullptr) point.loss += output_error(matrix_of(point.spec), read, *inputs, pool_);
    }
    PackedMatrix& probe = packed_[name] = matrix_of(probe_spec());
    if (inputs != nullptr) unit.probe_error += output_error(probe, read, *inputs, pool_);
    call_.checkpoint.release();
  }

  [[nodiscard]] std::vector<std::string> names_of(int layer, const std::string& probe = "") const {
    std::vector<std::string> names;
    for (const Unit& unit : units_) {
      if (unit.layer == layer && (probe.empty() || unit.probe == probe))
        names.insert(names.end(), unit.unit.weights.begin(), unit.unit.weights.end());
    }
    return names;
  }

  // Rows through a layer some of whose weights are in the probe's format.
  void pass(int layer, const std::vector<std::string>& names, const RowFile& in, RowFile& out) {
    ReplacedWeights replaced;
    for (const std::string& name : names) replaced.specs[name] = probe_spec();
    replaced.load = [&](const std::string& name) { return Weight{packed_.at(name).view(), nullptr}; };
    calibration_.pass(layer, replaced, std::array{LayerCalibration::Passage{&in, &out}});
  }

  // How far each probe alone moves the layer's output.
  void measure_shares(int layer, const RowFile& before) {
    std::map<std::string, double> moved;
    for (const Unit& unit : units_) {
      if (unit.layer == layer) moved[unit.probe] = 0;
    }
    const std::unique_ptr<RowFile> probed = new_file("probed", layer);
    double total = 0;
    for (auto& [probe, distance] : moved) {
      pass(layer, names_of(layer, probe), before, *probed);
      distance = squared_distance(*probed, calibration_.rows());
      total += distance;
    }
    for (auto& [probe, distance] : moved) shares_[{layer, probe}] = total > 0 ? distance / total : 0;
  }

  double squared_distance(const RowFile& a, const RowFile& b) const {
    std::vector<float> x(static_cast<std::size_t>(width()));
    std::vector<float> y(x.size());
    double sum = 0;
    for (std::int64_t r = 0; r < rows(); ++r) {
      a.read(r, 1, x.data());
      b.read(r, 1, y.data());
      for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(static_cast<double>(x[i]) - y[i], 2);
    }
    return sum;
  }

  // Takes all probes to the end, and makes losses of errors.
  void finish(std::vector<std::unique_ptr<RowFile>>& probes) {
    for (int layer = 1; layer < calibration_.layers(); ++layer) {
      std::vector<std::unique_ptr<RowFile>> next;
      std::vector<LayerCalibration::Passage> passages;
      for (int i = 0; i < layer; ++i) {
        next.push_back(new_file(fmt::format("probe-{}-{}", i, layer), layer));
        passages.push_back({probes[static_cast<std::size_t>(i)].get(), next.back().get()});
      }
      calibration_.pass(layer, {}, passages);
      for (int i = 0; i < layer; ++i) {
        std::filesystem::remove(
            path(layer == i + 1 ? fmt::format("probe-{}", i) : fmt::format("probe-{}-{}", i, layer - 1)));
        probes[static_cast<std::size_t>(i)] = std::move(next[static_cast<std::size_t>(i)]);
      }
    }
    std::vector<const RowFile*> others;
    for (const auto& probe : probes) others.push_back(probe.get());
    const std::vector<double> divergences = calibration_.divergences(calibration_.rows(), others);
    std::map<std::pair<int, std::string>, double> errors;  // of units that are probed together
    for (const Unit& unit : units_) errors[{unit.layer, unit.probe}] += unit.probe_error;
    for (Unit& unit : units_) {
      const double error = errors[{unit.layer, unit.probe}];
      const double factor =
          error > 0 ? divergences[static_cast<std::size_t>(unit.layer)] * shares_.at({unit.layer, unit.probe}) / error
                    : 0;
      for (AllocationUnit::Point& point : unit.unit.points) point.loss *= factor;
    }
  }

  void fill_unseen() {
    for (Unit& unit : units_) {
      if (unit.seen) continue;
      int like = 0;
      std::vector<double> sums(unit.unit.points.size());
      for (const Unit& other : units_) {
        if (other.layer != unit.layer || other.probe != unit.probe || !other.seen) continue;
        ++like;
        for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += other.unit.points[i].loss;
      }
      for (std::size_t i = 0; i < sums.size(); ++i) unit.unit.points[i].loss = like > 0 ? sums[i] / like : 0;
    }
  }

  const SensitivityCall& call_;
  ThreadPool& pool_;
  std::set<std::string> experts_;  // weights of routed ones
  LayerCalibration calibration_;
  std::vector<Unit> units_;
  std::map<std::string, std::size_t> by_name_;
  std::map<std::string, PackedMatrix> packed_;            // a layer's weights in the probe's format
  std::map<std::pair<int, std::string>, double> shares_;  // by layer and probe
};

}  // namespace

std::vector<AllocationUnit> measure_sensitivity(const SensitivityCall& call, ThreadPool& pool) {
  return Measurement(call, pool).run();
}

}  // namespace metal_marlin
