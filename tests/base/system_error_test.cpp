#include "base/system_error.h"

#include <gtest/gtest.h>

#include <cerrno>

namespace metal_marlin {
namespace {

TEST(SystemError, HasACodeOfOurs) {
  for (const int missing : {ENOENT, ENOTDIR}) EXPECT_EQ(code_of_errno(missing), ErrorCode::kNotFound);
  for (const int memory : {ENOMEM, EAGAIN}) EXPECT_EQ(code_of_errno(memory), ErrorCode::kOutOfMemory);
  for (const int other : {EIO, ENOSPC, EACCES}) EXPECT_EQ(code_of_errno(other), ErrorCode::kIo);
}

}  // namespace
}  // namespace metal_marlin
