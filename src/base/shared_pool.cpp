#include "base/shared_pool.h"

#include <map>
#include <mutex>

namespace metal_marlin {

std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<ThreadPool>> pools;  // by their threads
  const int count = threads > 0 ? threads : usable_cores();
  const std::lock_guard lock(mutex);
  std::weak_ptr<ThreadPool>& known = pools[count];
  std::shared_ptr<ThreadPool> pool = known.lock();
  if (!pool) known = pool = std::make_shared<ThreadPool>(count);
  return pool;
}

}  // namespace metal_marlin
