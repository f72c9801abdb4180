#include "quantize/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace metal_marlin {
namespace {

constexpr double kWidth = 720;
constexpr double kHeight = 360;
constexpr double kLeft = 70;
constexpr double kRight = 150;  // for names
constexpr double kTop = 15;
constexpr double kBottom = 45;
// Told apart by colour-blind readers too (Okabe and Ito).
constexpr std::array<const char*, 8> kColors{"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                             "#E69F00", "#56B4E9", "#000000", "#F0E442"};

struct Range {
  double low;
  double high;
  [[nodiscard]] double share(double v) const { return high > low ? (v - low) / (high - low) : 0.5; }
};

class Axes {
 public:
  // y: logarithms to base 10.
  Axes(Range x_range, Range y_range, const std::string& x_name, const std::string& y_name) : x_(x_range), y_(y_range) {
    y_.low -= 0.05;
    y_.high += 0.05;
    out_ = fmt::format(R"(<svg viewBox="0 0 {} {}" role="img" aria-label="{} by {}">)", kWidth, kHeight,
                       escaped(y_name), escaped(x_name));
    line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "#888");
    line(kLeft, kTop, kLeft, kHeight - kBottom, "#888");
    text((kLeft + kWidth - kRight) / 2, kHeight - 8, x_name, "middle");
    out_ += fmt::format(R"svg(<text transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>)svg",
                        (kTop + kHeight - kBottom) / 2, escaped(y_name));
    for (int i = 0; i <= 4; ++i) {
      const double at_x = x_.low + (x_.high - x_.low) * i / 4;
      text(x(at_x), kHeight - kBottom + 16, fmt::format("{:.3g}", at_x), "middle");
      const double at_y = y_.low + (y_.high - y_.low) * i / 4;
      text(kLeft - 6, y(at_y) + 4, fmt::format("{:.2g}", std::pow(10, at_y)), "end");
      line(kLeft, y(at_y), kWidth - kRight, y(at_y), "#eee");
    }
  }
  [[nodiscard]] double x(double v) const { return kLeft + x_.share(v) * (kWidth - kLeft - kRight); }
  [[nodiscard]] double y(double v) const { return kHeight - kBottom - y_.share(v) * (kHeight - kTop - kBottom); }
  void line(double x1, double y1, double x2, double y2, const char* color) {
    out_ +=
        fmt::format(R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}"/>)", x1, y1, x2, y2, color);
  }
  void text(double at_x, double at_y, const std::string& what, const char* anchor, const char* color = "#333") {
    out_ += fmt::format(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}" fill="{}">{}</text>)", at_x, at_y, anchor,
                        color, escaped(what));
  }
  void add(const std::string& svg) { out_ += svg; }
  std::string finish() { return std::move(out_) + "</svg>\n"; }

 private:
  Range x_;
  Range y_;
  std::string out_;
};

Range range_of(const std::vector<double>& values) {
  if (values.empty()) return {0, 1};
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {*low, *high};
}

}  // namespace

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string svg_file(const std::string& plot) {
  constexpr std::string_view kBegin = "<svg ";
  return fmt::format(R"(<svg xmlns="http://www.w3.org/2000/svg" style="background:white;font:11px sans-serif" {})",
                     plot.substr(kBegin.size()));
}

std::string scatter_plot(const std::vector<PlotPoint>& points, const std::string& x_name, const std::string& y_name) {
  std::vector<double> xs;
  std::vector<double> ys;
  for (const PlotPoint& point : points) {
    xs.push_back(point.x);
    ys.push_back(std::log10(point.y));
  }
  Axes axes(range_of(xs), range_of(ys), x_name, y_name);
  for (std::size_t i = 0; i < points.size(); ++i) {
    const char* const color = kColors[i % kColors.size()];
    axes.add(fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="4" fill="{}"/>)", axes.x(xs[i]), axes.y(ys[i]), color));
    axes.text(axes.x(xs[i]) + 7, axes.y(ys[i]) + 4, points[i].label, "start", color);
  }
  return axes.finish();
}

std::string line_plot(const std::vector<PlotLine>& lines, const std::string& x_name, const std::string& y_name) {
  std::vector<double> ys;
  std::size_t longest = 1;
  for (const PlotLine& line : lines) {
    longest = std::max(longest, line.values.size());
    for (const double v : line.values)
      if (v > 0) ys.push_back(std::log10(v));
  }
  Axes axes({0, static_cast<double>(longest - 1)}, range_of(ys), x_name, y_name);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const char* const color = kColors[i % kColors.size()];
    std::string path;
    for (std::size_t at = 0; at < lines[i].values.size(); ++at) {
      if (lines[i].values[at] <= 0) continue;
      const double x = axes.x(static_cast<double>(at));
      const double y = axes.y(std::log10(lines[i].values[at]));
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x, y);
      axes.add(fmt::format(R"(<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="{}"/>)", x, y, color));
    }
    axes.add(fmt::format(R"(<path d="{}" fill="none" stroke="{}" stroke-width="2"/>)", path, color));
    axes.text(kWidth - kRight + 8, kTop + 14 * static_cast<double>(i + 1), lines[i].label, "start", color);
  }
  return axes.finish();
}

std::string heat_map(const std::vector<std::vector<std::int64_t>>& rows, const std::string& row_name,
                     const std::string& column_name) {
  constexpr double kCell = 9;
  std::size_t columns = 0;
  std::size_t filled = 0;
  for (const auto& row : rows) {
    columns = std::max(columns, row.size());
    filled += row.empty() ? 0 : 1;
  }
  std::string out =
      fmt::format(R"(<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2} by {3}">)",
                  60 + kCell * static_cast<double>(columns), kCell * static_cast<double>(filled), escaped(row_name),
                  escaped(column_name));
  double y = 0;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].empty()) continue;
    const auto sum = static_cast<double>(std::accumulate(rows[r].begin(), rows[r].end(), std::int64_t{0}));
    out += fmt::format(R"(<text x="50" y="{:.0f}" text-anchor="end" font-size="8">{} {}</text>)", y + kCell - 1,
                       escaped(row_name), r);
    for (std::size_t c = 0; c < rows[r].size(); ++c) {
      // An even share is a third of the way to black.
      const double share = sum == 0 ? 0 : static_cast<double>(rows[r][c]) * static_cast<double>(rows[r].size()) / sum;
      out += fmt::format(
          R"(<rect x="{:.0f}" y="{:.0f}" width="{}" height="{}" fill="#0072B2" fill-opacity="{:.2f}"><title>{} {}, {} {}: {}</title></rect>)",
          55 + kCell * static_cast<double>(c), y, kCell - 1, kCell - 1, std::min(1.0, share / 3), escaped(row_name), r,
          escaped(column_name), c, rows[r][c]);
    }
    y += kCell;
  }
  return out + "</svg>\n";
}

}  // namespace metal_marlin
