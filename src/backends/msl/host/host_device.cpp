#include "backends/msl/host/host_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#include "backends/msl/host/metallib_kernels.h"
#include "backends/msl/host/poison.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Nothing lies within kGuard bytes after a buffer, so that a kernel's access past its end is
// not taken for one of another buffer.
class HostBuffer final : public Buffer {
 public:
  explicit HostBuffer(std::size_t bytes) : Buffer(bytes), data_(static_cast<std::byte*>(std::malloc(bytes + kGuard))) {
    if (!data_) throw Error(ErrorCode::kOutOfMemory, fmt::format("cannot allocate {} bytes", bytes));
    std::memset(data_.get() + bytes, kGuardByte, kGuard);
    MM_POISON(data_.get() + bytes, kGuard);
  }
  ~HostBuffer() override { MM_UNPOISON(data_.get() + size(), kGuard); }
  [[nodiscard]] std::byte* data() const { return data_.get(); }
  [[nodiscard]] bool written_behind() const {
    MM_UNPOISON(data_.get() + size(), kGuard);
    const std::span guard(data_.get() + size(), kGuard);
    const bool written = !std::ranges::all_of(guard, [](std::byte b) { return b == std::byte{kGuardByte}; });
    MM_POISON(data_.get() + size(), kGuard);
    return written;
  }

 protected:
  void write(std::span<const std::byte> bytes, std::size_t offset) override {
    std::memcpy(data_.get() + offset, bytes.data(), bytes.size());
  }
  void read(std::span<std::byte> bytes, std::size_t offset) const override {
    std::memcpy(bytes.data(), data_.get() + offset, bytes.size());
  }

 private:
  static constexpr std::size_t kGuard = 4096;
  static constexpr unsigned char kGuardByte = 0xA5;
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

class HostPipeline final : public Pipeline {
 public:
  HostPipeline(const MslLibrary& library, const MslKernel& kernel, const FunctionConstants& constants)
      : Pipeline(kernel), library_(library), values_(constant_values(library, constants)) {}
  [[nodiscard]] bool instrumented() const { return library_.instrumented != 0; }
  // One set of values a library at a time.
  void set_constants() const { *library_.values = values_; }
  [[nodiscard]] bool has_constants() const { return library_.constant_count > 0; }

 private:
  const MslLibrary& library_;
  MslConstantValues values_;
};

struct Encoded {
  const HostPipeline* pipeline;
  HostDispatch dispatch;
  std::vector<BytesArgument> bytes;
};

class HostCommands final : public Commands {
 public:
  explicit HostCommands(const HostDeviceOptions& options) : options_(options) {}

  void commit() override {}
  void wait() override {
    static std::mutex constants_mutex;
    const auto start = std::chrono::steady_clock::now();
    for (Encoded& work : encoded_) {
      std::unique_lock<std::mutex> lock(constants_mutex, std::defer_lock);
      if (work.pipeline->has_constants()) {
        lock.lock();
        work.pipeline->set_constants();
      }
      const std::optional<Fault> fault = run_on_host(work.dispatch);
      if (fault) throw Error(ErrorCode::kInternal, fault->message);
    }
    seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  [[nodiscard]] double seconds() const override { return seconds_; }

 protected:
  void encode(const Pipeline& pipeline, const Size3& threads, const Size3& threads_per_threadgroup,
              const Arguments& arguments) override {
    const auto& host = static_cast<const HostPipeline&>(pipeline);
    Encoded& work = encoded_.emplace_back();
    work.pipeline = &host;
    HostDispatch& d = work.dispatch;
    d.kernel = &pipeline.kernel();
    d.threads = threads;
    d.threadgroup = threads_per_threadgroup;
    d.instrumented = host.instrumented();
    d.order = options_.order;
    d.seed = options_.seed;
    d.matrix_lane_mask = options_.matrix_lane_mask;
    d.flush_subnormals = options_.flush_subnormals;
    d.workers = options_.workers;
    work.bytes.reserve(arguments.buffers().size());
    for (std::uint32_t i = 0; i < d.kernel->argument_count; ++i) {
      const MslArgument& argument = d.kernel->arguments[i];
      if (argument.kind == kMslThreadgroup) {
        if (d.threadgroups.size() <= argument.index) d.threadgroups.resize(argument.index + 1);
        d.threadgroups[argument.index] = arguments.threadgroups().at(argument.index).bytes;
      }
      if (argument.kind != kMslBuffer) continue;
      if (d.buffers.size() <= argument.index) d.buffers.resize(argument.index + 1);
      const auto found = arguments.buffers().find(argument.index);
      if (found != arguments.buffers().end()) d.buffers[argument.index] = memory_of(work, argument, found->second);
    }
  }

 private:
  static HostMemory memory_of(Encoded& work, const MslArgument& argument,
                              const std::variant<BufferArgument, BytesArgument>& value) {
    std::string name = fmt::format("{} (buffer {})", argument.name, argument.index);
    if (const auto* const bytes = std::get_if<BytesArgument>(&value)) {
      BytesArgument& kept = work.bytes.emplace_back(*bytes);
      return {kept.data(), kept.size(), std::move(name)};
    }
    const auto& buffer = std::get<BufferArgument>(value);
    return {static_cast<HostBuffer&>(*buffer.buffer).data() + buffer.offset, buffer.buffer->size() - buffer.offset,
            std::move(name)};
  }

  const HostDeviceOptions& options_;
  std::vector<Encoded> encoded_;
  double seconds_ = 0;
};

class HostDevice final : public Device {
 public:
  explicit HostDevice(const HostDeviceOptions& options) : options_(options) {
    metallib_ = MetallibKernels::chosen(options_.debug);
    if (options_.workers <= 0) options_.workers = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  [[nodiscard]] std::string name() const override {
    return fmt::format("host executor, {} worker{}{}{}", options_.workers, options_.workers == 1 ? "" : "s",
                       options_.debug ? ", all detectors" : "",
                       metallib_ != nullptr ? ", kernels of " + metallib_->path().string() : "");
  }
  std::unique_ptr<Buffer> allocate(std::size_t bytes) override { return std::make_unique<HostBuffer>(bytes); }
  std::unique_ptr<Commands> commands() override { return std::make_unique<HostCommands>(options_); }

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                          const FunctionConstants& constants) override {
    if (metallib_ != nullptr) return metallib_->pipeline(*shader.library, shader.library->kernels[kernel], constants);
    if (options_.debug && shader.instrumented == nullptr)
      throw Error(ErrorCode::kUnsupported, "this build has no detectors (METAL_MARLIN_DETECTORS was off)");
    return make_host_pipeline(options_.debug ? *shader.instrumented : *shader.library, kernel, constants);
  }

 private:
  HostDeviceOptions options_;
  const MetallibKernels* metallib_ = nullptr;  // whose kernels take the place of this build's
};

void check_processor() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2"))
    throw Error(ErrorCode::kUnsupported, "the host executor needs a processor with AVX2, FMA and BMI2");
#endif
}

}  // namespace

std::string why_no_host_device() {
  if (MetallibKernels::chosen_file() != nullptr || embedded_shaders().front().library->kernels->entry != nullptr)
    return "";
  return "this program is built without the host executor's kernels (METAL_MARLIN_MSL_HOST)";
}

bool written_behind(const Buffer& buffer) {
  return static_cast<const HostBuffer&>(buffer).written_behind();
}

std::unique_ptr<Device> make_host_device(const HostDeviceOptions& options) {
  check_processor();
  if (const std::string reason = why_no_host_device(); !reason.empty()) throw Error(ErrorCode::kUnsupported, reason);
  return std::make_unique<HostDevice>(options);
}

std::string host_kernels() {
  const char* const metallib = MetallibKernels::chosen_file();
  return metallib == nullptr ? "" : fmt::format("{} of {}", count_kernels(metallib), metallib);
}

std::unique_ptr<Pipeline> make_host_pipeline(const MslLibrary& library, std::size_t kernel,
                                             const FunctionConstants& constants) {
  if (library.abi_version != kMslAbiVersion) {
    throw Error(ErrorCode::kUnsupported, fmt::format("shader library of ABI version {}, expected {}",
                                                     library.abi_version, static_cast<unsigned>(kMslAbiVersion)));
  }
  return std::make_unique<HostPipeline>(library, library.kernels[kernel], constants);
}

}  // namespace metal_marlin::msl
