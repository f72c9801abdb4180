#include "quantize/allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/spec_json.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

using Point = AllocationUnit::Point;

// Points in order of bits, each with less loss than those before it, on the lower convex hull.
std::vector<Point> hull_of(std::vector<Point> points) {
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.bits != b.bits ? a.bits < b.bits : a.loss < b.loss; });
  std::vector<Point> hull;
  for (const Point& p : points) {
    if (!hull.empty() && p.loss >= hull.back().loss) continue;
    const auto above = [&] {  // the last one, the line from the one before it to p
      const Point& a = hull[hull.size() - 2];
      const Point& b = hull.back();
      return (b.loss - a.loss) * (p.bits - a.bits) >= (p.loss - a.loss) * (b.bits - a.bits);
    };
    while (hull.size() > 1 && above()) hull.pop_back();
    hull.push_back(p);
  }
  return hull;
}

// A step along a unit's hull.
struct Step {
  std::size_t unit;
  std::size_t to;
  double bits;
  double gain;  // of loss, a bit
};

}  // namespace

// On convex hulls the Lagrangian's solution for any factor is to take all steps whose gain a bit is above
// it: so steps are taken in that order, and after the first that does not fit those that do.
Allocation allocate(const std::vector<AllocationUnit>& units, double bits_per_weight) {
  std::vector<std::vector<Point>> hulls;
  std::vector<Step> steps;
  double elements = 0;
  double bits = 0;
  for (const AllocationUnit& unit : units) {
    hulls.push_back(hull_of(unit.points));
    const std::vector<Point>& hull = hulls.back();
    elements += static_cast<double>(unit.elements);
    bits += hull.front().bits;
    for (std::size_t i = 1; i < hull.size(); ++i) {
      const double more = hull[i].bits - hull[i - 1].bits;
      steps.push_back({hulls.size() - 1, i, more, (hull[i - 1].loss - hull[i].loss) / more});
    }
  }
  const double budget = bits_per_weight * elements;
  if (bits > budget) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("target of {:.3f} bits a weight: the smallest candidates take {:.3f}", bits_per_weight,
                            bits / elements));
  }
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.gain > b.gain; });
  std::vector<std::size_t> chosen(units.size());
  for (const Step& step : steps) {
    if (chosen[step.unit] + 1 != step.to || bits + step.bits > budget) continue;
    chosen[step.unit] = step.to;
    bits += step.bits;
  }
  Allocation out;
  for (std::size_t i = 0; i < units.size(); ++i) {
    const Point& point = hulls[i][chosen[i]];
    for (const std::string& weight : units[i].weights) out.formats[weight] = point.spec;
    out.loss += point.loss;
  }
  out.bits_per_weight = elements > 0 ? bits / elements : 0;
  return out;
}

std::vector<FormatSpec> default_candidates() {
  const auto with_group = [](Format format, int group) {
    FormatSpec spec = default_spec(format);
    spec.group = group;
    return spec;
  };
  return {with_group(Format::kInt2, 64), with_group(Format::kInt2, 32), with_group(Format::kInt3, 64),
          with_group(Format::kInt3, 32), with_group(Format::kS4, 128),  with_group(Format::kS4, 32),
          with_group(Format::kInt5, 64), with_group(Format::kInt6, 64), with_group(Format::kInt8, 128)};
}

Json curves_json(const std::vector<AllocationUnit>& units) {
  Json out = {{"version", 1}, {"units", Json::array()}};
  for (const AllocationUnit& unit : units) {
    Json points = Json::array();
    for (const Point& point : unit.points) {
      Json entry = spec_json(point.spec);
      entry["bits"] = point.bits;
      entry["loss"] = point.loss;
      points.push_back(std::move(entry));
    }
    out["units"].push_back({{"weights", unit.weights}, {"elements", unit.elements}, {"points", std::move(points)}});
  }
  return out;
}

std::vector<AllocationUnit> parse_curves(const Json& json, const std::string& where) {
  const JsonObject object(json, where);
  if (object.integer("version") != 1) object.wrong("version", "1");
  const Json& list = object.at("units");
  if (!list.is_array() || list.empty()) object.wrong("units", "a list of units");
  std::vector<AllocationUnit> units;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const JsonObject item(list[i], fmt::format("{}: unit {}", where, i + 1));
    AllocationUnit unit;
    unit.elements = item.bounded("elements", 1, std::int64_t{1} << 50);
    for (const Json& name : item.at("weights")) {
      if (!name.is_string()) item.wrong("weights", "a list of names");
      unit.weights.push_back(name.get<std::string>());
    }
    const Json& points = item.at("points");
    if (!points.is_array() || points.empty()) item.wrong("points", "a list of points");
    for (std::size_t p = 0; p < points.size(); ++p) {
      const JsonObject entry(points[p], fmt::format("{}: point {}", item.where(), p + 1));
      Point point;
      point.spec = parse_spec(entry, false);
      point.bits = entry.number("bits");
      point.loss = entry.number("loss");
      if (!(point.bits > 0)) entry.wrong("bits", "a positive number");
      if (!(point.loss >= 0)) entry.wrong("loss", "a number of at least 0");
      unit.points.push_back(point);
    }
    units.push_back(std::move(unit));
  }
  return units;
}

}  // namespace metal_marlin
