#include "quantize/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "io/file_write.h"
#include "quantize/svg.h"

namespace metal_marlin {
namespace {

std::string role_of(const std::string& name) {
  static const std::regex number("\\.(layers|experts)\\.[0-9]+\\.");
  return std::regex_replace(name, number, ".$1.*.");
}

double bits(std::size_t bytes, std::int64_t weights) {
  return weights == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(weights);
}

// Of each role, layer by layer: the error of its outputs, the mean over experts.
std::string error_plot(const QuantizeReport& report) {
  struct Sum {
    double after = 0;
    double before = 0;
    int count = 0;
  };
  static const std::regex layer(R"(^model\.layers\.([0-9]+)\.)");
  std::map<std::string, std::map<std::size_t, Sum>> roles;
  std::size_t layers = 0;
  for (const QuantizedTensor& tensor : report.tensors) {
    std::smatch match;
    if (tensor.output_error <= 0 || !std::regex_search(tensor.name, match, layer)) continue;
    const std::size_t at = std::stoul(match[1]);
    layers = std::max(layers, at + 1);
    Sum& sum = roles[role_of(tensor.name)][at];
    sum.after += tensor.output_error;
    sum.before += tensor.output_error_rtn;
    ++sum.count;
  }
  if (roles.empty()) return {};
  std::string out = "<h2>Error of the layers' outputs on the calibration text</h2>\n";
  for (const auto& [role, sums] : roles) {
    PlotLine before{"rtn", std::vector<double>(layers)};
    PlotLine after{std::string(method_name(report.method)), std::vector<double>(layers)};
    for (const auto& [at, sum] : sums) {
      before.values[at] = sum.before / sum.count;
      after.values[at] = sum.after / sum.count;
    }
    out += fmt::format("<h3>{}</h3>\n{}", escaped(role), line_plot({before, after}, "layer", "relative error"));
  }
  return out;
}

std::string fallback_list(const QuantizeReport& report) {
  std::string rows;
  for (const QuantizedTensor& tensor : report.tensors) {
    if (!tensor.fallback.empty())
      rows += fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escaped(tensor.name), escaped(tensor.fallback));
  }
  if (rows.empty()) return {};
  return "<h2>Rounded to the nearest instead</h2>\n<table><tr><th>tensor</th><th>why</th></tr>\n" + rows + "</table>\n";
}

}  // namespace

std::vector<ReportLine> report_lines(const QuantizeReport& report) {
  std::vector<ReportLine> lines;
  for (const QuantizedTensor& tensor : report.tensors) {
    const std::string role = role_of(tensor.name);
    const auto same = [&](const ReportLine& line) {
      return line.role == role && line.source == tensor.source && line.format == tensor.format &&
             line.method == tensor.method;
    };
    auto found = std::find_if(lines.begin(), lines.end(), same);
    if (found == lines.end()) {
      ReportLine line;
      line.role = role;
      line.source = tensor.source;
      line.format = tensor.format;
      line.method = tensor.method;
      found = lines.insert(lines.end(), line);
    }
    ++found->count;
    found->weights += tensor.weights;
    found->source_bytes += tensor.source_bytes;
    found->bytes += tensor.bytes;
    found->worst_error = std::max(found->worst_error, tensor.relative_error);
  }
  return lines;
}

Json tensor_report_json(const QuantizedTensor& tensor) {
  Json out = {{"name", tensor.name},
              {"shape", tensor.shape},
              {"source", tensor.source},
              {"format", tensor.format},
              {"method", method_name(tensor.method)},
              {"bits_per_weight", bits(tensor.bytes, tensor.weights)},
              {"weights", tensor.weights},
              {"source_bytes", tensor.source_bytes},
              {"bytes", tensor.bytes},
              {"relative_error", tensor.relative_error},
              {"seconds", tensor.seconds}};
  if (!tensor.fallback.empty()) out["fallback"] = tensor.fallback;
  if (tensor.rotation != 0) {
    out["rotation"] = tensor.rotation;
    out["rotation_folded"] = tensor.rotation_folded;
  }
  if (tensor.output_error > 0) {
    out["output_error"] = tensor.output_error;
    out["output_error_rtn"] = tensor.output_error_rtn;
  }
  return out;
}

QuantizedTensor parse_tensor_report(const Json& json) {
  const JsonObject object(json, "report of a tensor");
  QuantizedTensor out;
  out.name = object.string("name");
  out.shape = object.at("shape").get<std::vector<std::int64_t>>();
  out.source = object.string("source");
  out.format = object.string("format");
  out.method = parse_method(object.string("method"));
  out.weights = object.integer("weights");
  out.source_bytes = static_cast<std::size_t>(object.integer("source_bytes"));
  out.bytes = static_cast<std::size_t>(object.integer("bytes"));
  out.relative_error = object.number("relative_error");
  out.seconds = object.number("seconds");
  out.fallback = object.string_or("fallback", "");
  out.rotation = static_cast<int>(object.integer_or("rotation", 0));
  out.rotation_folded = object.boolean_or("rotation_folded", false);
  out.output_error = object.number_or("output_error", 0);
  out.output_error_rtn = object.number_or("output_error_rtn", 0);
  return out;
}

Json evaluation_json(const Evaluation& evaluation) {
  Json out = {{"perplexity", evaluation.perplexity},
              {"perplexity_error", evaluation.perplexity_error},
              {"nll", evaluation.nll},
              {"windows", evaluation.windows},
              {"scored_tokens", evaluation.scored_tokens},
              {"tokens_per_second", evaluation.tokens_per_second}};
  if (evaluation.divergence) {
    const Divergence& divergence = *evaluation.divergence;
    out["reference"] = {{"mean_kl", divergence.mean_kl},
                        {"mean_kl_error", divergence.mean_kl_error},
                        {"top1_agreement", divergence.top1_agreement},
                        {"perplexity", divergence.reference_perplexity}};
  }
  return out;
}

void write_report(const std::filesystem::path& folder, const QuantizeReport& report) {
  write_file_atomically(folder / "quantization_report.json", report_json(report).dump(2));
  write_file_atomically(folder / "quantization_report.html", report_html(report, folder.filename().string()));
}

Json report_json(const QuantizeReport& report) {
  Json out;
  out["quant_method"] = report.quant_method;
  out["method"] = method_name(report.method);
  out["seconds"] = report.seconds;
  std::int64_t weights = 0;
  std::size_t before = 0;
  std::size_t after = 0;
  out["tensors"] = Json::array();
  for (const QuantizedTensor& tensor : report.tensors) {
    weights += tensor.weights;
    before += tensor.source_bytes;
    after += tensor.bytes;
    out["tensors"].push_back(tensor_report_json(tensor));
  }
  if (!report.expert_counts.empty()) out["expert_counts"] = report.expert_counts;
  if (!report.allocation_curve.empty()) {
    const auto point_json = [](const AllocationPoint& point) {
      return Json{{"bits_per_weight", point.bits_per_weight}, {"loss", point.loss}};
    };
    out["allocation"] = point_json(report.allocation);
    out["allocation_curve"] = Json::array();
    for (const AllocationPoint& point : report.allocation_curve) out["allocation_curve"].push_back(point_json(point));
  }
  if (report.evaluation) out["evaluation"] = evaluation_json(*report.evaluation);
  out["weights"] = weights;
  out["source_bytes"] = before;
  out["bytes"] = after;
  out["bits_per_weight"] = bits(after, weights);
  return out;
}

std::string report_html(const QuantizeReport& report, const std::string& title) {
  std::string rows;
  std::int64_t weights = 0;
  std::size_t bytes = 0;
  for (const ReportLine& line : report_lines(report)) {
    rows += fmt::format(
        "<tr><td>{}</td><td class=n>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=n>{:.3f}</td><td class=n>{}</td>"
        "<td class=n>{:.4f}</td></tr>\n",
        escaped(line.role), line.count, escaped(line.source), escaped(line.format), method_name(line.method),
        bits(line.bytes, line.weights), line.bytes, line.worst_error);
    weights += line.weights;
    bytes += line.bytes;
  }
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n<style>\n"
      "body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 "
      "}}\n"
      "table {{ border-collapse: collapse }} td, th {{ padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: "
      "left }}\n"
      ".n {{ text-align: right; font-variant-numeric: tabular-nums }} svg {{ max-width: 100%; font: 11px system-ui, "
      "sans-serif }}\n"
      "</style></head><body>\n<h1>{0}</h1>\n"
      "<p>Method {1}, written as {2} in {3:.1f} s; {4} weights in {5} bytes, {6:.3f} bits a weight.</p>\n"
      "<table><tr><th>tensors</th><th>count</th><th>from</th><th>to</th><th>method</th><th>bits/weight</th><th>bytes</"
      "th>"
      "<th>worst error</th></tr>\n{7}</table>\n",
      escaped(title), method_name(report.method), escaped(report.quant_method), report.seconds, weights, bytes,
      bits(bytes, weights), rows);
  if (report.evaluation) {
    out += fmt::format("<p>Perplexity {:.4f} ± {:.4f} over {} tokens", report.evaluation->perplexity,
                       report.evaluation->perplexity_error, report.evaluation->scored_tokens);
    if (const auto& divergence = report.evaluation->divergence) {
      out += fmt::format(" (the source {:.4f}), mean KL divergence {:.5f} ± {:.5f}, top-1 agreement {:.2f}%",
                         divergence->reference_perplexity, divergence->mean_kl, divergence->mean_kl_error,
                         100 * divergence->top1_agreement);
    }
    out += ".</p>\n";
  }
  if (!report.allocation_curve.empty()) {
    out +=
        "<h2>What other targets would cost</h2>\n<p>Expected divergence, in nats, by bits a weight of the linear "
        "layers.</p>\n";
    std::vector<PlotPoint> points{{"this one", report.allocation.bits_per_weight, report.allocation.loss}};
    for (const AllocationPoint& point : report.allocation_curve) {
      if (point.loss > 0) points.push_back({"", point.bits_per_weight, point.loss});
    }
    out += scatter_plot(points, "bits per weight", "divergence");
  }
  out += error_plot(report);
  if (!report.expert_counts.empty()) {
    out += "<h2>Tokens that experts got</h2>\n";
    out += heat_map(report.expert_counts, "layer", "expert");
  }
  out += fallback_list(report);
  return out + "</body></html>\n";
}

}  // namespace metal_marlin
