// Numbers between bounds, digit by digit.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "grammar/json_rules.h"

namespace metal_marlin {
namespace {

// The digits of numbers from `least` to `most`, none of which may be there, that `multiple` divides; all three count
// units of 10^-places. Fractions may be shorter than that, and have zeros at their ends.
class Magnitudes {
 public:
  using Tails = std::map<std::int64_t, ExpressionId>;
  Magnitudes(Rules& rules, std::string least, std::string most, int places, std::int64_t multiple, Tails& tails)
      : rules_(rules),
        places_(static_cast<std::size_t>(places)),
        low_(padded(std::move(least))),
        high_(most.empty() ? most : padded(std::move(most))),
        multiple_(multiple),
        tails_(tails) {}

  ExpressionId make() {
    std::vector<ExpressionId> out;
    const std::size_t longest = high_.empty() ? low_.size() : high_.size();
    for (std::size_t size = low_.size(); size <= longest; ++size)
      out.push_back(digits({size, 0, size == low_.size(), size == high_.size(), false, 0}));
    if (high_.empty()) out.push_back(digits({low_.size() + 1, 0, false, false, true, 0}));
    return rules_.any_of(std::move(out));
  }

 private:
  struct Place {
    std::size_t size;  // of the number, in digits
    std::size_t at;
    bool at_low;  // all digits so far are those of the bound
    bool at_high;
    bool is_open;  // any number of digits may come before the point
    std::int64_t remainder;

    bool operator<(const Place& other) const {
      return std::tie(size, at, at_low, at_high, is_open, remainder) <
             std::tie(other.size, other.at, other.at_low, other.at_high, other.is_open, other.remainder);
    }
  };

  // With a digit before the point at least.
  [[nodiscard]] std::string padded(std::string digits) const {
    if (digits.size() <= places_) digits.insert(0, places_ + 1 - digits.size(), '0');
    return digits;
  }

  ExpressionId range(int low, int high) {
    const auto [found, is_new] = ranges_.try_emplace({low, high});
    if (is_new) found->second = make_range(low, high);
    return found->second;
  }
  ExpressionId make_range(int low, int high) {
    return rules_.characters({{static_cast<char32_t>('0' + low), static_cast<char32_t>('0' + high)}});
  }

  [[nodiscard]] bool is_divided(std::int64_t remainder, std::size_t zeros) const {
    for (; zeros > 0; --zeros) remainder = remainder * 10 % multiple_;
    return remainder == 0;
  }

  // Digits before the point that tell no more than their remainder, and what follows them.
  ExpressionId tail(std::int64_t remainder) {
    const Place end{places_, 0, false, false, false, remainder};
    if (multiple_ == 1) return rules_.sequence({rules_.repeat(range(0, 9), 0, std::nullopt), fraction(end)});
    const auto known = tails_.find(remainder);
    if (known != tails_.end()) return known->second;
    const RuleId rule = rules_.declare("digits");
    const ExpressionId call = tails_.emplace(remainder, rules_.call(rule)).first->second;
    std::vector<ExpressionId> out{fraction(end)};
    for (int digit = 0; digit < 10; ++digit)
      out.push_back(rules_.sequence({range(digit, digit), tail((remainder * 10 + digit) % multiple_)}));
    rules_.define(rule, rules_.any_of(std::move(out)));
    return call;
  }

  // What may come where the point may be.
  ExpressionId fraction(const Place& place) {
    const ExpressionId end = may_end(place) ? rules_.empty() : rules_.nothing();
    if (places_ == 0) return end;
    return rules_.any_of({end, rules_.sequence({rules_.text("."), make_digits(place)})});
  }

  // Whether digits that are left out may all be zeros.
  [[nodiscard]] bool may_end(const Place& place) const {
    if (place.at_low && low_.find_first_not_of('0', place.at) != std::string::npos) return false;
    return is_divided(place.remainder, place.size - place.at);
  }

  ExpressionId digits(Place place) {
    // What is free of bounds is told by what is left alone.
    if (place.at > 0 && !place.at_low && !place.at_high && !place.is_open) {
      place.size -= place.at - 1;
      place.at = 1;
    }
    if (place.at + places_ == place.size && place.at > 0)
      return place.is_open ? tail(place.remainder) : fraction(place);
    if (multiple_ == 1) return behind_digit(place);
    const auto known = made_.find(place);
    if (known != made_.end()) return known->second;
    return made_.emplace(place, rules_.rule("digits", behind_digit(place))).first->second;
  }

  // In a fraction the number may end behind each digit.
  ExpressionId behind_digit(const Place& place) {
    const bool in_fraction = place.at + places_ > place.size;
    if (!in_fraction) return make_digits(place);
    const ExpressionId end = may_end(place) ? rules_.empty() : rules_.nothing();
    return place.at == place.size ? end : rules_.any_of({end, make_digits(place)});
  }

  ExpressionId make_digits(const Place& place) {
    const bool is_free = !place.at_low && !place.at_high && multiple_ == 1;
    if (is_free && place.at + places_ >= place.size)
      return rules_.repeat(range(0, 9), 1, static_cast<int>(place.size - place.at));
    if (is_free && place.at > 0) {
      const auto left = static_cast<int>(place.size - places_ - place.at);
      const Place point{place.size, place.size - places_, false, false, place.is_open, 0};
      return rules_.sequence({rules_.repeat(range(0, 9), left, left), digits(point)});
    }
    const int first = place.at == 0 && place.size > places_ + 1 ? 1 : 0;
    const int low = place.at_low ? low_[place.at] - '0' : first;
    const int high = place.at_high ? high_[place.at] - '0' : 9;
    std::vector<ExpressionId> out;
    for (int digit = std::max(low, first); digit <= high;) {
      const bool at_low = place.at_low && digit == low;
      const bool at_high = place.at_high && digit == high;
      int last = digit;
      if (multiple_ == 1 && !at_low && !at_high) last = place.at_high ? high - 1 : high;
      const Place next{place.size, place.at + 1,  at_low,
                       at_high,    place.is_open, (place.remainder * 10 + digit) % multiple_};
      out.push_back(rules_.sequence({range(digit, last), digits(next)}));
      digit = last + 1;
    }
    return rules_.any_of(std::move(out));
  }

  Rules& rules_;
  std::size_t places_;
  std::string low_;
  std::string high_;  // empty: there is none
  std::int64_t multiple_;
  std::map<Place, ExpressionId> made_;
  std::map<std::pair<int, int>, ExpressionId> ranges_;
  Tails& tails_;  // by remainder, of all numbers of these places and multiple
};

std::string digits_of(WideInteger value) {
  return fmt::format("{}", value < 0 ? -value : value);
}

}  // namespace

ExpressionId JsonRules::bounded_number(const NumberBounds& bounds) {
  if (bounds.least && bounds.most && *bounds.least > *bounds.most) return rules_.nothing();
  Magnitudes::Tails tails;
  std::vector<ExpressionId> out;
  const auto add = [&](const char* sign, WideInteger least, std::optional<WideInteger> most) {
    const std::string high = most ? digits_of(*most) : std::string();
    Magnitudes magnitudes(rules_, digits_of(least), high, bounds.places, bounds.multiple, tails);
    out.push_back(rules_.sequence({rules_.text(sign), magnitudes.make()}));
  };
  if (!bounds.most || *bounds.most >= 0) add("", std::max<WideInteger>(bounds.least.value_or(0), 0), bounds.most);
  if (!bounds.least || *bounds.least < 0)
    add("-", -std::min<WideInteger>(bounds.most.value_or(-1), -1),
        bounds.least ? std::optional<WideInteger>(-*bounds.least) : std::nullopt);
  return rules_.any_of(std::move(out));
}

}  // namespace metal_marlin
