// A visitor of variants made of lambdas, one for each alternative.
#pragma once

namespace metal_marlin {

template <typename... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <typename... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

}  // namespace metal_marlin
