// What tests of grammars have in common.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "metal_marlin/error.h"
#include "metal_marlin/grammar.h"

namespace metal_marlin {

inline void expect_texts(const Grammar& grammar, const std::vector<std::string>& of,
                         const std::vector<std::string>& not_of) {
  for (const std::string& text : of) EXPECT_TRUE(grammar.matches(text)) << text;
  for (const std::string& text : not_of) EXPECT_FALSE(grammar.matches(text)) << text;
}

// Whether `make` throws an Error of a wrong argument that says `what`.
template <typename Make>
void expect_refused(const Make& make, const std::string& what) {
  try {
    make();
    ADD_FAILURE() << "not refused, expected: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what() << "\nexpected: " << what;
  }
}

}  // namespace metal_marlin
