// The pool that tests share.
#pragma once

#include "base/thread_pool.h"

namespace metal_marlin {

inline ThreadPool& test_pool() {
  static ThreadPool instance(2);
  return instance;
}

}  // namespace metal_marlin
