// The report as JSON and as a page.
#include "quantize/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quantize/svg.h"

namespace metal_marlin {
namespace {

QuantizeReport some_report() {
  QuantizeReport report;
  report.method = QuantizeMethod::kGptq;
  report.quant_method = "metal-marlin";
  report.seconds = 2;
  for (int layer = 0; layer < 3; ++layer) {
    QuantizedTensor tensor;
    tensor.name = "model.layers." + std::to_string(layer) + ".mlp.up_proj.weight";
    tensor.shape = {64, 32};
    tensor.source = "BF16";
    tensor.format = "s4";
    tensor.weights = 64 * 32;
    tensor.source_bytes = 64 * 32 * 2;
    tensor.bytes = 64 * 18;
    tensor.relative_error = 0.1 * (layer + 1);
    if (layer == 2) {
      tensor.fallback = "no token <reached> it";
    } else {
      tensor.method = QuantizeMethod::kGptq;
      tensor.output_error = 0.05;
      tensor.output_error_rtn = 0.125;
    }
    report.tensors.push_back(tensor);
  }
  report.expert_counts = {{}, {5, 0, 3}};
  return report;
}

TEST(Report, Lines) {
  const std::vector<ReportLine> lines = report_lines(some_report());
  ASSERT_EQ(lines.size(), 2U);  // by method
  EXPECT_EQ(lines[0].role, "model.layers.*.mlp.up_proj.weight");
  EXPECT_EQ(lines[0].count, 2);
  EXPECT_EQ(lines[0].bytes, 2U * 64 * 18);
  EXPECT_DOUBLE_EQ(lines[0].worst_error, 0.2);
  EXPECT_EQ(lines[1].method, QuantizeMethod::kRtn);
}

TEST(Report, Json) {
  const Json json = report_json(some_report());
  EXPECT_EQ(json["method"], "gptq");
  EXPECT_DOUBLE_EQ(json["bits_per_weight"].get<double>(), 4.5);
  EXPECT_EQ(json["tensors"].size(), 3U);
  EXPECT_DOUBLE_EQ(json["tensors"][0]["output_error_rtn"].get<double>(), 0.125);
  EXPECT_FALSE(json["tensors"][0].contains("fallback"));
  EXPECT_EQ(json["tensors"][2]["fallback"], "no token <reached> it");
  EXPECT_FALSE(json["tensors"][2].contains("output_error"));
  EXPECT_EQ(json["expert_counts"][1][2], 3);
}

std::size_t count_of(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(Report, Page) {
  const std::string page = report_html(some_report(), "a & b");
  EXPECT_NE(page.find("<title>a &amp; b</title>"), std::string::npos);
  EXPECT_NE(page.find("no token &lt;reached&gt; it"), std::string::npos);
  EXPECT_EQ(count_of(page, "<svg"), 2U);
  EXPECT_EQ(count_of(page, "</svg>"), 2U);
  EXPECT_EQ(count_of(page, "<circle"), 4U);  // two layers, before and after
  EXPECT_EQ(count_of(page, "<rect"), 3U);
  EXPECT_EQ(count_of(page, "src="), 0U);  // needs nothing else
  EXPECT_EQ(count_of(page, "href="), 0U);
  // Without a text there is nothing to plot.
  EXPECT_EQ(count_of(report_html({}, "x"), "<svg"), 0U);
}

TEST(Svg, PlotsAreWithinTheirFrames) {
  const std::string one = scatter_plot({{"only", 4, 0.5}}, "x", "y");
  EXPECT_EQ(count_of(one, "nan"), 0U);
  EXPECT_EQ(count_of(one, "inf"), 0U);
  const std::string two = scatter_plot({{"a", 4, 0.5}, {"b", 3, 0.01}}, "x", "y");
  EXPECT_EQ(count_of(two, "<circle"), 2U);
  const std::string gaps = line_plot({{"a", {0, 0.5, 0}}, {"b", {}}}, "x", "y");
  EXPECT_EQ(count_of(gaps, "<circle"), 1U);
  EXPECT_EQ(count_of(gaps, "nan"), 0U);
}

}  // namespace
}  // namespace metal_marlin
