// Numbers of a schema, exactly as they are written.
#pragma once

#include <optional>

#include "grammar/json_rules.h"
#include "io/json.h"

namespace metal_marlin {

// digits * 10^exponent; the digits end with no zero, but where it is 0.
struct Decimal {
  WideInteger digits = 0;
  int exponent = 0;

  // In units of 10^-places, where that loses nothing.
  [[nodiscard]] std::optional<WideInteger> exactly(int places) const;
  // The nearest one that is not above or, where `up`, not below.
  [[nodiscard]] WideInteger rounded(int places, bool up) const;
  [[nodiscard]] int places() const { return exponent < 0 ? -exponent : 0; }
  // Before the point.
  [[nodiscard]] int whole_digits() const;
};

// Of a JSON number, a floating one as the shortest text that is read as it. None: more than 19
// digits before the point or 18 behind it.
std::optional<Decimal> decimal_of(const OrderedJson& number);

}  // namespace metal_marlin
