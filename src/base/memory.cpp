#include "base/memory.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>

#include "metal_marlin/error.h"

#if defined(__APPLE__)
#include <mach/mach.h>
#endif

namespace metal_marlin {
#if defined(__APPLE__)

std::size_t available_memory() {
  vm_statistics64_data_t pages{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count) !=
      KERN_SUCCESS) {
    return SIZE_MAX;
  }
  const std::size_t available = std::size_t{pages.free_count} + pages.inactive_count + pages.purgeable_count;
  return available * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

#else

namespace {

std::size_t read_number(const char* path, std::size_t fallback) {
  std::ifstream file(path);
  std::size_t value = 0;
  return file >> value ? value : fallback;
}

std::size_t left_of(std::size_t limit, std::size_t used) {
  return limit == SIZE_MAX ? SIZE_MAX : limit - std::min(limit, used);
}

// RLIMIT_AS, `ulimit -v`.
std::size_t left_of_address_space() {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
  const std::size_t pages = read_number("/proc/self/statm", 0);  // the first number: of virtual memory
  return left_of(limit.rlim_cur, pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
}

}  // namespace

std::size_t available_memory() {
  std::size_t available = SIZE_MAX;
  std::ifstream info("/proc/meminfo");
  std::string key;
  std::size_t kilobytes = 0;
  std::string unit;
  while (info >> key >> kilobytes) {
    std::getline(info, unit);
    if (key == "MemAvailable:") available = kilobytes * 1024;
  }
  available = std::min(available, left_of(read_number("/sys/fs/cgroup/memory.max", SIZE_MAX),
                                          read_number("/sys/fs/cgroup/memory.current", 0)));
  return std::min(available, left_of_address_space());
}

#endif

void require_memory(std::size_t needed, std::size_t available, const std::string& what) {
  if (needed <= available) return;
  throw Error(ErrorCode::kOutOfMemory,
              fmt::format("{} needs {}, {} is available", what, byte_text(needed), byte_text(available)));
}

std::string byte_text(std::size_t bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, kUnits[unit]);
}

}  // namespace metal_marlin
