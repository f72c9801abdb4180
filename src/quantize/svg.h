// Plots as SVG, to stand in a page.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

// Text as HTML and SVG take it.
std::string escaped(const std::string& text);

// A plot as a file of its own.
std::string svg_file(const std::string& plot);

struct PlotPoint {
  std::string label;
  double x;
  double y;
};
// Points with their labels; y, which must be positive, on a logarithmic scale.
std::string scatter_plot(const std::vector<PlotPoint>& points, const std::string& x_name, const std::string& y_name);

struct PlotLine {
  std::string label;
  std::vector<double> values;  // at 0, 1, 2 ...; none where not positive
};
// On a logarithmic scale.
std::string line_plot(const std::vector<PlotLine>& lines, const std::string& x_name, const std::string& y_name);

// A row of cells for each row of counts, the darker the more of the row's sum.
std::string heat_map(const std::vector<std::vector<std::int64_t>>& rows, const std::string& row_name,
                     const std::string& column_name);

}  // namespace metal_marlin
