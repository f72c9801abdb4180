#include "quantize/svg.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

bool holds(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Svg, TextsAreEscaped) {
  EXPECT_EQ(escaped("a<b & \"c\">"), "a&lt;b &amp; &quot;c&quot;&gt;");
  const std::string plot = scatter_plot({{"<script>", 4, 0.1}, {"b", 5, 0.01}}, "bits & more", "loss");
  EXPECT_FALSE(holds(plot, "<script>"));
  EXPECT_TRUE(holds(plot, "&lt;script&gt;"));
  EXPECT_TRUE(holds(plot, "bits &amp; more"));
}

TEST(Svg, SinglePointsAndGapsAreDrawn) {
  for (const std::string& plot :
       {scatter_plot({{"only", 4, 0.1}}, "x", "y"), line_plot({{"gap", {1, 0, 10}}}, "x", "y")}) {
    EXPECT_TRUE(holds(plot, "<svg")) << plot;
    EXPECT_FALSE(holds(plot, "nan")) << plot;
    EXPECT_FALSE(holds(plot, "inf")) << plot;
  }
}

TEST(Svg, FilesStandByThemselves) {
  const std::string file = svg_file(heat_map({{1, 3}, {0, 0}}, "layer", "expert"));
  EXPECT_TRUE(holds(file, "xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_FALSE(holds(file, "nan"));  // of the row that nothing was counted in
}

}  // namespace
}  // namespace metal_marlin
