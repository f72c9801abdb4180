// What `quantize` says of its work: as JSON, and as a page that needs nothing else.
#pragma once

#include <string>

#include "io/json.h"
#include "metal_marlin/quantize.h"

namespace metal_marlin {

// One line for all layers' tensors of the same role, source, format and method.
struct ReportLine {
  std::string role;  // the name with the numbers of layer and expert replaced by stars
  std::string source;
  std::string format;
  QuantizeMethod method = QuantizeMethod::kRtn;
  int count = 0;
  std::int64_t weights = 0;
  std::size_t source_bytes = 0;
  std::size_t bytes = 0;
  double worst_error = 0;
};
std::vector<ReportLine> report_lines(const QuantizeReport& report);

// One tensor's part, and back.
Json tensor_report_json(const QuantizedTensor& tensor);
QuantizedTensor parse_tensor_report(const Json& json);
// What an evaluation found, as `eval --json` has it too.
Json evaluation_json(const Evaluation& evaluation);
Json report_json(const QuantizeReport& report);
std::string report_html(const QuantizeReport& report, const std::string& title);

}  // namespace metal_marlin
