#include "backends/msl/cuda/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "backends/msl/cuda/cuda_driver.h"
#include "base/packed_text.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

using cuda::check;
using cuda::Driver;

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(const Driver& driver, std::size_t bytes) : Buffer(bytes), driver_(driver) {
    const cuda::Result result = driver.mem_alloc(&pointer_, std::max<std::size_t>(bytes, 16));
    if (result != 0)
      throw Error(ErrorCode::kOutOfMemory, fmt::format("cannot allocate {} bytes of CUDA memory", bytes));
  }
  ~CudaBuffer() override { driver_.mem_free(pointer_); }
  [[nodiscard]] cuda::DevicePointer pointer() const { return pointer_; }

 protected:
  void write(std::span<const std::byte> bytes, std::size_t offset) override {
    check(driver_.copy_to_device(pointer_ + offset, bytes.data(), bytes.size()), "copy to the device");
  }
  void read(std::span<std::byte> bytes, std::size_t offset) const override {
    check(driver_.copy_to_host(bytes.data(), pointer_ + offset, bytes.size()), "copy from the device");
  }

 private:
  const Driver& driver_;
  cuda::DevicePointer pointer_ = 0;
};

// The PTX of one kernel. Built-in texts are for sm_90 and later; all that older GPUs lack of it are the lines of
// programmatic dependent launch.
std::string ptx_of(const EmbeddedShader& shader, std::size_t index, int major) {
  constexpr std::string_view kTarget = ".target sm_90";
  constexpr std::string_view kDependentLaunch = "griddepcontrol.";
  std::string text = unpack_text(shader.ptx, index);
  if (major >= 9) return text;
  text.replace(text.find(kTarget), kTarget.size(), ".target sm_80");
  for (std::size_t at = text.find(kDependentLaunch); at != std::string::npos; at = text.find(kDependentLaunch, at))
    text.erase(at, text.find('\n', at) - at);
  return text;
}

constexpr std::uint32_t kDefaultThreadgroupBytes = 48 << 10;

class CudaPipeline final : public Pipeline {
 public:
  CudaPipeline(const Driver& driver, const MslLibrary& library, const std::string& text, std::size_t index,
               const FunctionConstants& constants)
      : Pipeline(library.kernels[index]), driver_(driver) {
    overlaps_ = text.find("griddepcontrol.wait") != std::string::npos;
    std::array<char, 8192> log{};
    const std::array<int, 2> options = {cuda::kJitErrorLog, cuda::kJitErrorLogBytes};
    std::array<void*, 2> values = {log.data(), reinterpret_cast<void*>(log.size())};
    if (driver.module_load_data(&module_, text.c_str(), 2, options.data(), values.data()) != 0) {
      throw Error(ErrorCode::kInternal,
                  fmt::format("kernel {}: the CUDA driver refuses its PTX: {}", name(), log.data()));
    }
    check(driver.module_get_function(&function_, module_, fmt::format("msl_entry_{}", index).c_str()),
          "find the kernel");
    if (!constants.empty()) set_constants(library, constants);
  }
  ~CudaPipeline() override { driver_.module_unload(module_); }
  [[nodiscard]] cuda::Function function() const { return function_; }
  // Lets launches have so much dynamic threadgroup memory.
  void allow_threadgroup_bytes(std::uint32_t bytes) const {
    if (bytes <= kDefaultThreadgroupBytes) return;
    check(driver_.function_set_attribute(function_, cuda::kMaxDynamicSharedBytes, static_cast<int>(bytes)),
          fmt::format("{}: {} bytes of threadgroup memory", name(), bytes).c_str());
  }
  // Whether it waits for the kernel before it by itself, and so may start early.
  [[nodiscard]] bool overlaps() const { return overlaps_; }

 private:
  void set_constants(const MslLibrary& library, const FunctionConstants& constants) {
    const MslConstantValues values = constant_values(library, constants);
    cuda::DevicePointer pointer = 0;
    std::size_t size = 0;
    check(driver_.module_get_global(&pointer, &size, module_, "msl_constant_values"), "find the function constants");
    check(driver_.copy_to_device(pointer, &values, sizeof(values)), "set the function constants");
  }

  const Driver& driver_;
  cuda::Module module_ = nullptr;
  cuda::Function function_ = nullptr;
  bool overlaps_ = false;
};

struct Launch {
  const CudaPipeline* pipeline;
  cuda::LaunchConfig config;
  std::vector<std::vector<std::byte>> parameters;
};

class CudaCommands final : public Commands {
 public:
  CudaCommands(const Driver& driver, cuda::Stream stream) : driver_(driver), stream_(stream) {
    check(driver.event_create(&begin_, 0), "create an event");
    check(driver.event_create(&end_, 0), "create an event");
  }
  ~CudaCommands() override {
    if (graph_ != nullptr) driver_.graph_exec_destroy(graph_);
    driver_.event_destroy(begin_);
    driver_.event_destroy(end_);
  }

  void commit() override {
    if (launches_.empty()) return;
    if (graph_ == nullptr) capture();
    check(driver_.event_record(begin_, stream_), "record an event");
    check(driver_.graph_launch(graph_, stream_), "launch");
    check(driver_.event_record(end_, stream_), "record an event");
  }
  void wait() override {
    if (launches_.empty()) return;
    check(driver_.stream_synchronize(stream_), "run");
    float milliseconds = 0;
    check(driver_.event_elapsed(&milliseconds, begin_, end_), "time");
    seconds_ = static_cast<double>(milliseconds) * 1e-3;
  }
  [[nodiscard]] double seconds() const override { return seconds_; }

 protected:
  void encode(const Pipeline& pipeline, const Size3& threads, const Size3& group, const Arguments& arguments) override {
    const auto& cuda_pipeline = static_cast<const CudaPipeline&>(pipeline);
    Launch& launch = launches_.emplace_back();
    launch.pipeline = &cuda_pipeline;
    std::uint32_t shared = 0;
    add(launch, threads);
    for (std::uint32_t i = 0; i < pipeline.kernel().argument_count; ++i) {
      const MslArgument& argument = pipeline.kernel().arguments[i];
      if (argument.kind == kMslThreadgroup) {
        add(launch, shared);
        shared += (arguments.threadgroups().at(argument.index).bytes + 15) / 16 * 16;
      } else if (argument.kind == kMslBuffer) {
        add_buffer(launch, argument, arguments);
      }
    }
    cuda_pipeline.allow_threadgroup_bytes(shared);
    launch.config = {(threads[0] + group[0] - 1) / group[0],
                     (threads[1] + group[1] - 1) / group[1],
                     (threads[2] + group[2] - 1) / group[2],
                     group[0],
                     group[1],
                     group[2],
                     shared,
                     stream_,
                     nullptr,
                     0};
  }

 private:
  template <typename T>
  static void add(Launch& launch, const T& value) {
    const auto* const bytes = reinterpret_cast<const std::byte*>(&value);
    launch.parameters.emplace_back(bytes, bytes + sizeof(T));
  }

  void add_buffer(Launch& launch, const MslArgument& argument, const Arguments& arguments) {
    const auto found = arguments.buffers().find(argument.index);
    if (found == arguments.buffers().end()) return add(launch, cuda::DevicePointer{0});  // optional
    if (const auto* const buffer = std::get_if<BufferArgument>(&found->second)) {
      return add(launch, static_cast<CudaBuffer&>(*buffer->buffer).pointer() + buffer->offset);
    }
    const auto& bytes = std::get<BytesArgument>(found->second);
    if (argument.by_value != 0) {
      launch.parameters.push_back(bytes);
      return;
    }
    auto& copy = bytes_.emplace_back(std::make_unique<CudaBuffer>(driver_, bytes.size()));
    copy->upload(bytes);
    add(launch, copy->pointer());
  }

  void capture() {
    check(driver_.stream_begin_capture(stream_, cuda::kCaptureThreadLocal), "begin a graph");
    for (Launch& launch : launches_) {
      std::vector<void*> parameters;
      for (auto& parameter : launch.parameters) parameters.push_back(parameter.data());
      cuda::LaunchAttribute overlap{};
      overlap.id = cuda::kProgrammaticSerialization;
      overlap.value = 1;
      launch.config.attributes = &overlap;
      launch.config.attribute_count = launch.pipeline->overlaps() ? 1 : 0;
      check(driver_.launch_kernel(&launch.config, launch.pipeline->function(), parameters.data(), nullptr),
            std::string(launch.pipeline->name()).c_str());
    }
    cuda::Graph graph = nullptr;
    check(driver_.stream_end_capture(stream_, &graph), "end a graph");
    check(driver_.graph_instantiate(&graph_, graph, 0), "make a graph");
    driver_.graph_destroy(graph);
  }

  const Driver& driver_;
  cuda::Stream stream_;
  cuda::Event begin_ = nullptr;
  cuda::Event end_ = nullptr;
  cuda::GraphExec graph_ = nullptr;
  std::vector<Launch> launches_;
  std::vector<std::unique_ptr<CudaBuffer>> bytes_;
  double seconds_ = 0;
};

class CudaDevice final : public Device {
 public:
  CudaDevice() : driver_(cuda::require_driver()) {
    const char* const chosen = std::getenv("METAL_MARLIN_CUDA_DEVICE");
    cuda::DeviceId id = 0;
    check(driver_.device_get(&id, chosen == nullptr ? 0 : std::atoi(chosen)), "find the device");
    check(driver_.device_get_name(name_.data(), static_cast<int>(name_.size()), id), "name the device");
    major_ = attribute(cuda::kComputeCapabilityMajor, id);
    const int minor = attribute(cuda::kComputeCapabilityMinor, id);
    if (major_ < 8) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} has compute capability {}.{}, expected 8.0 or later", name_.data(), major_, minor));
    }
    traits_.cores = static_cast<std::uint32_t>(attribute(cuda::kMultiprocessorCount, id));
    traits_.busy_threadgroups = 4 * traits_.cores;
    traits_.threadgroup_bytes = static_cast<std::uint32_t>(attribute(cuda::kMaxSharedBytesOptIn, id));
    traits_.thread_registers = 255;
    traits_.copies_ahead = true;
    check(driver_.primary_context_retain(&context_, id), "make a context");
    check(driver_.context_set_current(context_), "use the context");
    // Ordered after the copies, which go to the default stream.
    check(driver_.stream_create(&stream_, 0), "make a stream");
  }
  [[nodiscard]] std::string name() const override { return name_.data(); }
  std::unique_ptr<Buffer> allocate(std::size_t bytes) override { return std::make_unique<CudaBuffer>(driver_, bytes); }
  std::unique_ptr<Commands> commands() override { return std::make_unique<CudaCommands>(driver_, stream_); }
  [[nodiscard]] DeviceTraits traits() const override { return traits_; }

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                          const FunctionConstants& constants) override {
    return std::make_unique<CudaPipeline>(driver_, *shader.library, ptx_of(shader, kernel, major_), kernel, constants);
  }

 private:
  [[nodiscard]] int attribute(int which, cuda::DeviceId id) const {
    int value = 0;
    check(driver_.device_get_attribute(&value, which, id), "ask the device");
    return value;
  }

  const Driver& driver_;
  DeviceTraits traits_;
  cuda::Context context_ = nullptr;
  cuda::Stream stream_ = nullptr;
  std::array<char, 128> name_{};
  int major_ = 0;
};

}  // namespace

std::string why_no_cuda_device() {
  if (embedded_shaders().front().ptx.empty()) return "this program is built without CUDA (METAL_MARLIN_CUDA)";
  return cuda::find_driver() != nullptr ? "" : "no NVIDIA driver, or no GPU";
}

bool has_cuda_device() {
  return why_no_cuda_device().empty();
}

std::unique_ptr<Device> make_cuda_device() {
  return std::make_unique<CudaDevice>();
}

}  // namespace metal_marlin::msl
