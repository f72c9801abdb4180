#include "base/program_path.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

TEST(ProgramPath, IsThisProgramWhereverItIsCalledFrom) {
  const std::filesystem::path here = std::filesystem::current_path();
  const std::filesystem::path path = program_path();
  EXPECT_TRUE(path.is_absolute());
  EXPECT_TRUE(std::filesystem::is_regular_file(path));
  EXPECT_EQ(path.filename(), std::filesystem::path(testing::internal::GetArgvs().at(0)).filename());
  std::filesystem::current_path("/");
  EXPECT_EQ(program_path(), path);
  std::filesystem::current_path(here);
}

}  // namespace
}  // namespace metal_marlin
