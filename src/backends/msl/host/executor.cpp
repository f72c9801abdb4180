#include "backends/msl/host/executor.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <utility>

#include "backends/msl/host/fiber.h"
#include "backends/msl/host/poison.h"
#include "backends/msl/host/segments.h"
#include "backends/msl/host/shadow.h"
#include "base/shared_pool.h"
#include "metal_marlin/error.h"

// Code that runs on a fiber's stack, which sanitizers do not know.
#define MM_UNSANITIZED no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")
#define MM_ON_FIBER __attribute__((noinline, MM_UNSANITIZED))
// Between a kernel and the switch: each return to a caller is one that the processor foresees wrongly.
#define MM_INTO_SWITCH __attribute__((always_inline, MM_UNSANITIZED)) inline

namespace metal_marlin::msl {
namespace {

constexpr std::size_t kStack = 128 << 10;
constexpr std::size_t kSlot = 64;  // bytes that a lane may exchange
// Space between threadgroup variables, so that an access past one hits none.
constexpr std::size_t kGap = 256;
constexpr std::size_t kArena = 256 << 10;

// Of what a lane waits for: an exchange, beside the flags of a barrier.
constexpr std::uint32_t kExchange = 1U << 31;

// Lanes by bits, so that what they wait for lies together.
struct Simdgroup {
  using Slots = std::array<unsigned char, kSlot * kSimdWidth>;
  alignas(64) std::array<Slots, 3> slots;
  // Of `slots`: what lanes offer into, what the last exchange gave, and the one before, which lanes may still read.
  std::size_t offered = 0, given = 1, before = 2;
  std::uint32_t ready = 0, at_simd = 0, at_barrier = 0;
  std::array<void*, kSimdWidth> contexts{};
  std::array<const void*, kSimdWidth> sites{};    // where a lane waits
  std::array<std::uint32_t, kSimdWidth> flags{};  // of the barrier it waits at
  std::uint32_t active = 0;
  std::uint32_t threadgroup_epoch = 0;
  std::uint32_t device_epoch = 0;

  // Gives the lanes that wait what they offered. Where others wait elsewhere, their offers stay.
  void exchange(bool others) {
    if (others) {
      slots[before] = slots[offered];
      std::swap(before, given);
    } else {
      const std::size_t next = before;
      before = given;
      given = offered;
      offered = next;
    }
  }
};

// What a thread runs threadgroups in, kept from one dispatch to the next: new stacks cost more than most kernels.
struct Memory {
  std::byte* stacks;
  std::vector<std::byte> arena;  // of threadgroup memory
  std::size_t used = 0;          // of it
  std::vector<MslThread> threads;
  std::vector<Simdgroup> simdgroups;

  Memory() : arena(kArena, std::byte{0xFF}), threads(kMaxThreads), simdgroups(kMaxThreads / kSimdWidth) {
    stacks = static_cast<std::byte*>(mmap(nullptr, kStack * kMaxThreads, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) throw Error(ErrorCode::kOutOfMemory, "no memory for the stacks of a threadgroup");
  }
  ~Memory() {
    MM_UNPOISON(arena.data(), kArena);
    munmap(stacks, kStack * kMaxThreads);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  static Memory& of_this_thread() {
    thread_local Memory memory;
    return memory;
  }
};

struct Variable {
  const MslThreadgroupVariable* key;
  std::size_t at;
  std::size_t size;
  std::string name;
};

struct Region {
  std::uintptr_t begin;
  std::size_t size;
  const HostMemory* memory;
  std::unique_ptr<Shadow> shadow;
};

class Worker;
thread_local Worker* t_worker = nullptr;  // fibers stay on their thread

class Worker {
 public:
  Worker(const HostDispatch& dispatch, std::size_t index) : d_(dispatch), random_(dispatch.seed * 977 + index) {
    for (const HostMemory& memory : d_.buffers) buffer_addresses_.push_back(memory.data);
    if (d_.instrumented) {
      for (const HostMemory& memory : d_.buffers) {
        if (memory.data == nullptr) continue;
        regions_.push_back({reinterpret_cast<std::uintptr_t>(memory.data), memory.size, &memory,
                            std::make_unique<Shadow>(memory.size, false)});
      }
      segments_ = loaded_segments();
    }
  }
  ~Worker() { t_worker = nullptr; }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Runs one threadgroup to its end, or to a fault.
  void run(const Size3& position, std::uint32_t group) {
    t_worker = this;
    begin(position, group);
    while (!fault_) {
      for (std::uint32_t i = 0; i < simd_count() && !fault_; ++i) run_simdgroup(turn(i, simd_count()));
      if (fault_ || !pass_barrier()) break;
    }
    t_worker = nullptr;
  }
  [[nodiscard]] const std::optional<Fault>& fault() const { return fault_; }

  // ---- called on fibers
  MM_ON_FIBER void* variable(const MslThreadgroupVariable* key) {
    for (const Variable& v : variables_) {
      if (v.key == key) return m_.arena.data() + v.at;
    }
    return allocate(key, key->size, key->alignment, key->name);
  }
  MM_INTO_SWITCH void barrier(std::uint32_t flags, const void* site) {
    Simdgroup& simd = simdgroup();
    simd.at_barrier |= 1U << lane();
    wait(simd, flags, site);
  }
  MM_INTO_SWITCH void simd_barrier(std::uint32_t flags, const void* site) {
    Simdgroup& simd = simdgroup();
    simd.at_simd |= 1U << lane();
    wait(simd, flags, site);
  }
  MM_INTO_SWITCH const unsigned char* exchange(const void* mine, std::uint32_t size, std::uint32_t* active,
                                               const void* site) {
    Simdgroup& simd = simdgroup();
    std::memcpy(simd.slots[simd.offered].data() + kSlot * lane(), mine, size);
    simd_barrier(kExchange, site);
    *active = simd.active;
    return simd.slots[simd.given].data();
  }
  [[nodiscard]] std::uint32_t lane() const { return current_ % kSimdWidth; }
  [[nodiscard]] std::uint32_t matrix_lane_mask() const { return d_.matrix_lane_mask; }
  [[nodiscard]] bool flush_subnormals() const { return d_.flush_subnormals; }

  MM_ON_FIBER void access(const void* pointer, std::size_t bytes, bool write, bool atomic, const void* code) {
    const auto address = reinterpret_cast<std::uintptr_t>(pointer);
    // Smaller accesses may be merged copies of packed types; the compiler's own
    // check (__ubsan_handle_type_mismatch_v1) sees the others by type.
    if (bytes == 16 && address % 16 != 0) {
      return fail(FaultKind::kMisaligned,
                  fmt::format("{}: thread {} uses address {} where an alignment of 16 is needed", code_place(code),
                              current_, pointer));
    }
    const auto stack = reinterpret_cast<std::uintptr_t>(m_.stacks);
    if (address - stack < kStack * kMaxThreads) return;
    if (address - reinterpret_cast<std::uintptr_t>(m_.arena.data()) < kArena) {
      return arena_access(address - reinterpret_cast<std::uintptr_t>(m_.arena.data()), bytes, write, atomic, code);
    }
    shared_access(address, bytes, write, atomic, code);
  }
  MM_ON_FIBER void misaligned(const void* pointer, std::uint32_t alignment, const char* file, std::uint32_t line) {
    fail(FaultKind::kMisaligned, fmt::format("{}:{}: thread {} uses address {} where an alignment of {} is needed",
                                             file, line, current_, pointer, alignment));
  }
  // Of a thread's own array or a vector, which bounds() of memory do not see.
  MM_ON_FIBER void beyond_array(std::uint64_t index, const char* type, const char* file, std::uint32_t line) {
    fail(FaultKind::kOutOfBounds,
         fmt::format("{}:{}: thread {} uses element {} of {}", file, line, current_, index, type));
  }

 private:
  [[nodiscard]] Simdgroup& simdgroup() { return m_.simdgroups[current_ / kSimdWidth]; }
  [[nodiscard]] std::uint32_t simd_count() const { return (count_ + kSimdWidth - 1) / kSimdWidth; }

  // The i-th of n in this dispatch's order.
  std::uint32_t turn(std::uint32_t i, std::uint32_t n) {
    switch (d_.order) {
      case LaneOrder::kForward: return i;
      case LaneOrder::kReverse: return n - 1 - i;
      case LaneOrder::kRandom: break;
    }
    if (i == 0 || permutation_.size() != n) {
      permutation_.resize(n);
      for (std::uint32_t k = 0; k < n; ++k) permutation_[k] = k;
      std::shuffle(permutation_.begin(), permutation_.end(), random_);
    }
    return permutation_[i];
  }

  void begin(const Size3& position, std::uint32_t group) {
    group_ = group;
    Size3 size{};
    for (std::size_t i = 0; i < 3; ++i)
      size[i] = std::min(d_.threadgroup[i], d_.threads[i] - position[i] * d_.threadgroup[i]);
    count_ = size[0] * size[1] * size[2];
    variables_.clear();
    MM_UNPOISON(m_.arena.data(), kArena);
    std::memset(m_.arena.data(), 0xFF, m_.used + kGap);  // what the last threadgroup left
    m_.used = bytes_ = 0;
    MM_POISON(m_.arena.data(), kArena);
    dynamic_addresses_.clear();
    for (const std::uint32_t bytes : d_.threadgroups) {
      dynamic_addresses_.push_back(
          allocate(nullptr, bytes, 16, fmt::format("threadgroup({})", dynamic_addresses_.size())));
    }
    threadgroup_epoch_ = device_epoch_ = 0;
    fill(position, size);
    for (std::uint32_t i = 0; i < count_; ++i) {
      Simdgroup& simd = m_.simdgroups[i / kSimdWidth];
      if (i % kSimdWidth == 0) {
        simd.ready = simd.at_simd = simd.at_barrier = 0;
        simd.threadgroup_epoch = simd.device_epoch = 0;
      }
      simd.ready |= 1U << (i % kSimdWidth);
      std::byte* const top = m_.stacks + kStack * (i + 1) - (i % 16) * 192;  // not all on one set of the cache
      MM_UNPOISON(m_.stacks + kStack * i, kStack);
      simd.contexts[i % kSimdWidth] = prepare_fiber(top, &Worker::enter, this);
    }
  }

  void fill(const Size3& position, const Size3& size) {
    MslThread thread{};
    thread.buffers = buffer_addresses_.data();
    thread.threadgroups = dynamic_addresses_.data();
    auto& all = thread.builtins;
    for (std::size_t i = 0; i < 3; ++i) {
      all[kMslThreadgroupPositionInGrid][i] = position[i];
      all[kMslThreadsPerThreadgroup][i] = size[i];
      all[kMslThreadsPerGrid][i] = d_.threads[i];
      all[kMslThreadgroupsPerGrid][i] = (d_.threads[i] + d_.threadgroup[i] - 1) / d_.threadgroup[i];
      all[kMslDispatchThreadsPerThreadgroup][i] = d_.threadgroup[i];
    }
    all[kMslThreadsPerSimdgroup][0] = all[kMslThreadExecutionWidth][0] = kSimdWidth;
    all[kMslSimdgroupsPerThreadgroup][0] = simd_count();
    all[kMslQuadgroupsPerThreadgroup][0] = (count_ + 3) / 4;
    Size3 local{};
    for (std::uint32_t index = 0; index < count_; ++index) {
      auto& b = (m_.threads[index] = thread).builtins;
      for (std::size_t i = 0; i < 3; ++i) {
        b[kMslThreadPositionInGrid][i] = position[i] * d_.threadgroup[i] + local[i];
        b[kMslThreadPositionInThreadgroup][i] = local[i];
      }
      b[kMslThreadIndexInThreadgroup][0] = index;
      b[kMslThreadIndexInSimdgroup][0] = index % kSimdWidth;
      b[kMslSimdgroupIndexInThreadgroup][0] = index / kSimdWidth;
      b[kMslThreadIndexInQuadgroup][0] = index % 4;
      b[kMslQuadgroupIndexInThreadgroup][0] = index / 4;
      for (std::size_t i = 0; i < 3 && ++local[i] == size[i]; ++i) local[i] = 0;
    }
  }

  MM_ON_FIBER static void enter(void* self) {
    auto* const w = static_cast<Worker*>(self);
    w->d_.kernel->entry(&w->m_.threads[w->current_]);
    w->yield();
    __builtin_trap();
  }
  MM_INTO_SWITCH void wait(Simdgroup& simd, std::uint32_t flags, const void* site) {
    simd.sites[lane()] = site;
    simd.flags[lane()] = flags;
    metal_marlin_switch_fiber(&simd.contexts[lane()], scheduler_);
  }
  MM_ON_FIBER void yield() { metal_marlin_switch_fiber(&simdgroup().contexts[lane()], scheduler_); }

  // Until every lane has ended or waits at a barrier of the threadgroup.
  void run_simdgroup(std::uint32_t index) {
    Simdgroup& simd = m_.simdgroups[index];
    for (;;) {
      for (std::uint32_t left = simd.ready; left != 0;) {
        const int next = d_.order == LaneOrder::kReverse ? 31 - std::countl_zero(left) : std::countr_zero(left);
        left &= ~(1U << next);
        current_ = index * kSimdWidth + static_cast<std::uint32_t>(next);
        metal_marlin_switch_fiber(&scheduler_, simd.contexts[static_cast<std::size_t>(next)]);
        if (fault_) return;
      }
      simd.ready = 0;
      if (simd.at_simd == 0) return;
      pass_simd(simd);
    }
  }

  // Lanes that wait at one place are the active ones; the earliest place goes first.
  static void pass_simd(Simdgroup& simd) {
    const void* site = simd.sites[static_cast<std::size_t>(std::countr_zero(simd.at_simd))];
    for (std::uint32_t left = simd.at_simd; left != 0; left &= left - 1)
      site = std::min(site, simd.sites[static_cast<std::size_t>(std::countr_zero(left))], std::less<>());
    simd.active = 0;
    for (std::uint32_t left = simd.at_simd; left != 0; left &= left - 1) {
      if (simd.sites[static_cast<std::size_t>(std::countr_zero(left))] == site) simd.active |= left & -left;
    }
    const std::uint32_t flags = simd.flags[static_cast<std::size_t>(std::bit_width(simd.active) - 1)];
    simd.ready = simd.active;
    simd.at_simd &= ~simd.active;
    if ((flags & 2) != 0) ++simd.threadgroup_epoch;
    if ((flags & 1) != 0) ++simd.device_epoch;
    if ((flags & kExchange) != 0) simd.exchange(simd.at_simd != 0);
  }

  // Lets the lanes past a barrier that all have reached; false when all have ended.
  bool pass_barrier() {
    const std::span simdgroups(m_.simdgroups.data(), simd_count());
    std::uint32_t waiting = 0, flags = 0;
    const void* first = nullptr;
    const void* other = nullptr;
    for (const Simdgroup& simd : simdgroups) {
      for (std::uint32_t left = simd.at_barrier; left != 0; left &= left - 1) {
        const auto lane = static_cast<std::size_t>(std::countr_zero(left));
        if (waiting++ == 0) {
          first = simd.sites[lane];
          flags = simd.flags[lane];
        }
        if (simd.sites[lane] != first) other = simd.sites[lane];
      }
    }
    if (waiting == 0) return false;
    if (d_.instrumented && waiting != count_) {
      fail_here(FaultKind::kBarrierDivergence,
                fmt::format("{}: {} of {} threads wait at this barrier, the others have ended", code_place(first),
                            waiting, count_));
      return false;
    }
    if (d_.instrumented && other != nullptr) {
      fail_here(FaultKind::kBarrierDivergence,
                fmt::format("{}: some threads wait at this barrier, others at the one at {}", code_place(first),
                            code_place(other)));
      return false;
    }
    if ((flags & 2) != 0) ++threadgroup_epoch_;
    if ((flags & 1) != 0) ++device_epoch_;
    for (Simdgroup& simd : simdgroups) {
      simd.ready = simd.at_barrier;
      simd.at_barrier = 0;
    }
    return true;
  }

  std::byte* allocate(const MslThreadgroupVariable* key, std::size_t size, std::size_t alignment, std::string name) {
    const std::size_t at = (m_.used + kGap + alignment - 1) / alignment * alignment;
    bytes_ += (size + 15) / 16 * 16;
    if (bytes_ > kMaxThreadgroupMemory || at + size + kGap > kArena) {
      const std::string place = key == nullptr ? "" : fmt::format("{}:{}: ", key->file, key->line);
      if (t_worker != nullptr && key != nullptr) {
        fail(FaultKind::kThreadgroupMemory,
             fmt::format("{}with {} the threadgroup has {} bytes of memory, the limit is {}", place, name, bytes_,
                         kMaxThreadgroupMemory));
      }
      fail_here(FaultKind::kThreadgroupMemory, fmt::format("{} makes {} bytes of threadgroup memory, the limit is {}",
                                                           name, bytes_, kMaxThreadgroupMemory));
      return m_.arena.data() + kGap;
    }
    m_.used = at + size;
    MM_UNPOISON(m_.arena.data() + at, size);
    variables_.push_back({key, at, size, std::move(name)});
    if (d_.instrumented && !arena_shadow_) arena_shadow_ = std::make_unique<Shadow>(kArena, true);
    return m_.arena.data() + at;
  }

  [[nodiscard]] AccessPoint here(bool threadgroup_memory, bool atomic, const void* code) const {
    const Simdgroup& simd = m_.simdgroups[current_ / kSimdWidth];
    return {code,
            group_,
            threadgroup_memory ? threadgroup_epoch_ : device_epoch_,
            threadgroup_memory ? simd.threadgroup_epoch : simd.device_epoch,
            static_cast<std::uint16_t>(current_),
            atomic};
  }

  void arena_access(std::size_t at, std::size_t bytes, bool write, bool atomic, const void* code) {
    const Variable* found = nullptr;
    for (const Variable& v : variables_) {
      if (at >= v.at && at < v.at + v.size + kGap) found = &v;
    }
    if (found == nullptr || at < found->at || at + bytes > found->at + found->size) {
      return out_of_bounds(found == nullptr ? "threadgroup memory" : found->name, found == nullptr ? 0 : found->size,
                           found == nullptr ? 0 : static_cast<std::int64_t>(at - found->at), bytes, write, code);
    }
    const AccessPoint point = here(true, atomic, code);
    if ((!write || atomic) && !arena_shadow_->written(at, bytes, group_)) {
      return fail(FaultKind::kUninitialised,
                  fmt::format("{}: thread {} of threadgroup {} reads byte {} of {}, which nobody wrote",
                              code_place(code), current_, group_ - 1, at - found->at, found->name));
    }
    check(*arena_shadow_, at, at - found->at, bytes, write, point, found->name);
  }

  void shared_access(std::uintptr_t address, std::size_t bytes, bool write, bool atomic, const void* code) {
    if (!write && handed(address)) return;
    for (const Region& region : regions_) {
      const std::size_t at = address - region.begin;
      if (at >= region.size || bytes > region.size - at) continue;
      check(*region.shadow, at, at, bytes, write, here(false, atomic, code), region.memory->name);
      return;
    }
    if (!write && constant(address)) return;
    const Region* nearest = nullptr;
    std::int64_t nearest_distance = 0;
    for (const Region& region : regions_) {
      const auto offset = static_cast<std::int64_t>(address - region.begin);
      const std::int64_t distance = offset < 0 ? -offset : offset - static_cast<std::int64_t>(region.size);
      if (nearest == nullptr || distance < nearest_distance) {
        nearest = &region;
        nearest_distance = distance;
      }
    }
    if (nearest == nullptr) return out_of_bounds("any buffer", 0, 0, bytes, write, code);
    out_of_bounds(nearest->memory->name, nearest->size, static_cast<std::int64_t>(address - nearest->begin), bytes,
                  write, code);
  }

  static bool inside(std::uintptr_t address, const void* begin, std::size_t bytes) {
    return address - reinterpret_cast<std::uintptr_t>(begin) < bytes;
  }

  // What the executor hands to kernels, which read little else as often.
  [[nodiscard]] bool handed(std::uintptr_t address) const {
    return inside(address, m_.threads.data(), m_.threads.size() * sizeof(MslThread)) ||
           inside(address, m_.simdgroups.data(), m_.simdgroups.size() * sizeof(Simdgroup)) ||
           inside(address, buffer_addresses_.data(), buffer_addresses_.size() * sizeof(void*)) ||
           inside(address, dynamic_addresses_.data(), dynamic_addresses_.size() * sizeof(void*));
  }

  // The program's own constants, most of them in one segment.
  [[nodiscard]] bool constant(std::uintptr_t address) {
    const auto within = [address](const AddressRange& s) { return address >= s.begin && address < s.end; };
    if (within(last_segment_)) return true;
    const auto segment = std::ranges::find_if(segments_, within);
    if (segment == segments_.end()) return false;
    last_segment_ = *segment;
    return true;
  }

  void check(Shadow& shadow, std::size_t at, std::size_t offset, std::size_t bytes, bool write,
             const AccessPoint& point, const std::string& name) {
    const std::optional<Conflict> conflict = write ? shadow.write(at, bytes, point) : shadow.read(at, bytes, point);
    if (!conflict) return;
    fail(FaultKind::kRace,
         fmt::format("{}: thread {} of threadgroup {} {} byte {} of {}, which thread {} of threadgroup {} {} at {} "
                     "with no barrier or atomic between",
                     code_place(point.code), point.thread, point.group - 1, write ? "writes" : "reads", offset, name,
                     conflict->earlier.thread, conflict->earlier.group - 1, conflict->earlier_wrote ? "wrote" : "read",
                     code_place(conflict->earlier.code)));
  }

  void out_of_bounds(const std::string& name, std::size_t size, std::int64_t offset, std::size_t bytes, bool write,
                     const void* code) {
    fail(FaultKind::kOutOfBounds,
         fmt::format("{}: thread {} of threadgroup {} {} {} bytes at offset {} of {}, which has {} bytes",
                     code_place(code), current_, group_ - 1, write ? "writes" : "reads", bytes, offset, name, size));
  }

  void fail_here(FaultKind kind, std::string message) {
    if (!fault_) fault_ = Fault{kind, fmt::format("kernel {}: {}: {}", d_.kernel->name, fault_name(kind), message)};
  }
  // On a fiber: it never goes on.
  MM_ON_FIBER void fail(FaultKind kind, std::string message) {
    fail_here(kind, std::move(message));
    yield();
    __builtin_trap();
  }

  const HostDispatch& d_;
  Memory& m_ = Memory::of_this_thread();
  std::unique_ptr<Shadow> arena_shadow_;
  std::vector<Variable> variables_;
  std::size_t bytes_ = 0;
  std::vector<void*> buffer_addresses_;
  std::vector<void*> dynamic_addresses_;
  std::vector<Region> regions_;
  std::vector<AddressRange> segments_;
  AddressRange last_segment_{};
  void* scheduler_ = nullptr;
  std::uint32_t current_ = 0;
  std::uint32_t count_ = 0;
  std::uint32_t group_ = 0;
  std::uint32_t threadgroup_epoch_ = 0;
  std::uint32_t device_epoch_ = 0;
  std::optional<Fault> fault_;
  std::mt19937_64 random_;
  std::vector<std::uint32_t> permutation_;
};

}  // namespace

const char* fault_name(FaultKind kind) {
  switch (kind) {
    case FaultKind::kRace: return "data race";
    case FaultKind::kOutOfBounds: return "access out of bounds";
    case FaultKind::kUninitialised: return "uninitialised threadgroup memory";
    case FaultKind::kBarrierDivergence: return "divergent barrier";
    case FaultKind::kThreadgroupMemory: return "too much threadgroup memory";
    case FaultKind::kMisaligned: return "misaligned access";
  }
  return "?";
}

std::optional<Fault> run_on_host(const HostDispatch& dispatch) {
  Size3 groups{};
  for (std::size_t i = 0; i < 3; ++i)
    groups[i] = (dispatch.threads[i] + dispatch.threadgroup[i] - 1) / dispatch.threadgroup[i];
  const std::uint64_t total = std::uint64_t{groups[0]} * groups[1] * groups[2];
  std::atomic<std::uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::optional<Fault> fault;
  const auto work = [&](std::size_t index) {
    Worker worker(dispatch, index);
    for (std::uint64_t i = next++; i < total && !stop; i = next++) {
      const std::uint64_t at = dispatch.order == LaneOrder::kReverse ? total - 1 - i : i;
      const Size3 position = {static_cast<std::uint32_t>(at % groups[0]),
                              static_cast<std::uint32_t>(at / groups[0] % groups[1]),
                              static_cast<std::uint32_t>(at / groups[0] / groups[1])};
      worker.run(position, static_cast<std::uint32_t>(at) + 1);
      if (worker.fault()) {
        const std::lock_guard lock(mutex);
        if (!fault) fault = worker.fault();
        stop = true;
      }
    }
  };
  // The shadow of a buffer belongs to one worker, and one threadgroup needs no other thread.
  if (dispatch.instrumented || dispatch.workers <= 1 || total <= 1) {
    work(0);
    return fault;
  }
  thread_local std::shared_ptr<ThreadPool> pool;  // kept from one dispatch to the next
  if (pool == nullptr || pool->size() != dispatch.workers) pool = shared_pool(dispatch.workers);
  pool->run([&](int index) { work(static_cast<std::size_t>(index)); });
  return fault;
}

}  // namespace metal_marlin::msl

// ---- what compiled shaders call
using metal_marlin::msl::t_worker;
using metal_marlin::msl::Worker;

extern "C" {

void* msl_threadgroup_variable(const MslThreadgroupVariable* key) {
  return t_worker->variable(key);
}
MM_ON_FIBER void msl_threadgroup_barrier(std::uint32_t flags) {
  t_worker->barrier(flags, __builtin_return_address(0));
}
MM_ON_FIBER void msl_simdgroup_barrier(std::uint32_t flags) {
  t_worker->simd_barrier(flags, __builtin_return_address(0));
}
MM_ON_FIBER const unsigned char* msl_exchange(const void* mine, std::uint32_t size, std::uint32_t* active) {
  return t_worker->exchange(mine, size, active, __builtin_return_address(0));
}
std::uint32_t msl_current_lane() {
  return t_worker->lane();
}
std::uint32_t msl_matrix_lane_mask() {
  return t_worker->matrix_lane_mask();
}
std::uint32_t msl_flush_subnormals() {
  return t_worker->flush_subnormals() ? 1 : 0;
}
MM_ON_FIBER void msl_atomic_access(const volatile void* p, std::uint32_t size) {
  t_worker->access(const_cast<const void*>(p), size, true, true, __builtin_return_address(0));
}

#define MM_COVERAGE(size)                                                                      \
  MM_ON_FIBER void __sanitizer_cov_load##size(const void* p) {                                 \
    Worker* const worker = t_worker;                                                           \
    if (worker != nullptr) worker->access(p, size, false, false, __builtin_return_address(0)); \
  }                                                                                            \
  MM_ON_FIBER void __sanitizer_cov_store##size(void* p) {                                      \
    Worker* const worker = t_worker;                                                           \
    if (worker != nullptr) worker->access(p, size, true, false, __builtin_return_address(0));  \
  }
MM_COVERAGE(1)
MM_COVERAGE(2)
MM_COVERAGE(4)
MM_COVERAGE(8)
MM_COVERAGE(16)
#undef MM_COVERAGE

// -fsanitize=alignment and array-bounds of the instrumented shaders. The layouts are compiler-rt's.
struct SourceLocation {
  const char* file;
  std::uint32_t line;
  std::uint32_t column;
};
struct TypeDescriptor {
  std::uint16_t kind;
  std::uint16_t info;
  char name[1];  // to its zero
};
struct MisalignedAt {
  SourceLocation at;
  const TypeDescriptor* type;
  unsigned char log_alignment;
  unsigned char kind;
};
struct OutOfBoundsAt {
  SourceLocation at;
  const TypeDescriptor* array;
  const TypeDescriptor* index;
};
// Outside of a shader it is the program's own, under its sanitizer.
// NOLINTBEGIN(bugprone-reserved-identifier): the sanitizer's own names
MM_ON_FIBER void __ubsan_handle_type_mismatch_v1(MisalignedAt* what, std::uintptr_t pointer) {
  const std::uint32_t alignment = 1U << what->log_alignment;
  if (t_worker != nullptr) {
    t_worker->misaligned(reinterpret_cast<const void*>(pointer), alignment, what->at.file, what->at.line);
  } else if (alignment > 1 && pointer % alignment != 0) {
    fmt::print(stderr, "{}:{}: misaligned address {:#x}\n", what->at.file, what->at.line, pointer);
    std::abort();
  }
}
MM_ON_FIBER void __ubsan_handle_out_of_bounds(OutOfBoundsAt* what, std::uintptr_t index) {
  if (t_worker != nullptr) return t_worker->beyond_array(index, what->array->name, what->at.file, what->at.line);
  fmt::print(stderr, "{}:{}: element {} of {}\n", what->at.file, what->at.line, index, &what->array->name[0]);
  std::abort();
}
// NOLINTEND(bugprone-reserved-identifier)

}  // extern "C"
