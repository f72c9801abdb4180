#include "backends/msl/cuda/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "backends/msl/cuda/cuda_driver.h"
#include "base/memory.h"
#include "base/packed_text.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

using cuda::check;
using cuda::Driver;

// The device's memory and work belong to a context, which the driver wants bound in every thread that calls it. It is
// there until the program ends.
struct Context {
  const Driver& driver;
  cuda::Context context = nullptr;

  // The driver, for this thread.
  const Driver& bound() const {
    check(driver.context_set_current(context), "use the context");
    return driver;
  }
  // The same where nothing may be thrown.
  const Driver& bound_for_release() const {
    driver.context_set_current(context);
    return driver;
  }
};

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(const Context& context, std::size_t bytes) : Buffer(bytes), context_(context) {
    const cuda::Result result = context.bound().mem_alloc(&pointer_, std::max<std::size_t>(bytes, 16));
    if (result != 0)
      throw Error(ErrorCode::kOutOfMemory, fmt::format("cannot allocate {} bytes of CUDA memory", bytes));
  }
  ~CudaBuffer() override { context_.bound_for_release().mem_free(pointer_); }
  [[nodiscard]] cuda::DevicePointer pointer() const { return pointer_; }

 protected:
  // On the default stream, which the others do not wait for: the bytes must be there when this returns.
  void write(std::span<const std::byte> bytes, std::size_t offset) override {
    const Driver& driver = context_.bound();
    check(driver.copy_to_device(pointer_ + offset, bytes.data(), bytes.size()), "copy to the device");
    check(driver.stream_synchronize(nullptr), "copy to the device");
  }
  void read(std::span<std::byte> bytes, std::size_t offset) const override {
    check(context_.bound().copy_to_host(bytes.data(), pointer_ + offset, bytes.size()), "copy from the device");
  }

 private:
  Context context_;
  cuda::DevicePointer pointer_ = 0;
};

cuda::DevicePointer pointer_of(const Buffer& buffer) {
  return static_cast<const CudaBuffer&>(buffer).pointer();
}

// Memory of the processor that the device copies to and from by itself: many small copies follow each other without
// the driver's waiting for each.
class PinnedMemory {
 public:
  PinnedMemory(const Context& context, std::size_t bytes) : context_(context), size_(bytes) {
    void* data = nullptr;
    if (context.bound().mem_host_alloc(&data, bytes, 0) != 0)
      throw Error(ErrorCode::kOutOfMemory, fmt::format("cannot pin {} bytes of memory for CUDA", bytes));
    data_ = static_cast<std::byte*>(data);
  }
  ~PinnedMemory() { context_.bound_for_release().mem_free_host(data_); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  Context context_;
  std::byte* data_ = nullptr;
  std::size_t size_;
};

class CudaStream {
 public:
  explicit CudaStream(const Context& context) : context_(context) {
    check(context.bound().stream_create(&stream_, cuda::kStreamNonBlocking), "make a stream");
  }
  ~CudaStream() { context_.bound_for_release().stream_destroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  [[nodiscard]] const Context& context() const { return context_; }
  [[nodiscard]] cuda::Stream get() const { return stream_; }
  // Held while work is given to it: what another thread launched would get into a graph that is captured.
  std::mutex& mutex() { return mutex_; }

 private:
  Context context_;
  cuda::Stream stream_ = nullptr;
  std::mutex mutex_;
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
  CudaPipeline(const Context& context, const MslLibrary& library, const std::string& text, std::size_t index,
               const FunctionConstants& constants)
      : Pipeline(library.kernels[index]), context_(context) {
    const Driver& driver = context.bound();
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
  ~CudaPipeline() override { context_.bound_for_release().module_unload(module_); }
  [[nodiscard]] cuda::Function function() const { return function_; }
  // Lets launches have so much dynamic threadgroup memory, and never less than another thread asked for.
  void allow_threadgroup_bytes(std::uint32_t bytes) const {
    const std::lock_guard lock(allowed_mutex_);
    if (bytes <= allowed_bytes_) return;
    check(context_.bound().function_set_attribute(function_, cuda::kMaxDynamicSharedBytes, static_cast<int>(bytes)),
          fmt::format("{}: {} bytes of threadgroup memory", name(), bytes).c_str());
    allowed_bytes_ = bytes;
  }
  // Whether it waits for the kernel before it by itself, and so may start early.
  [[nodiscard]] bool overlaps() const { return overlaps_; }

 private:
  void set_constants(const MslLibrary& library, const FunctionConstants& constants) {
    const Driver& driver = context_.bound();
    const MslConstantValues values = constant_values(library, constants);
    cuda::DevicePointer pointer = 0;
    std::size_t size = 0;
    check(driver.module_get_global(&pointer, &size, module_, "msl_constant_values"), "find the function constants");
    check(driver.copy_to_device(pointer, &values, sizeof(values)), "set the function constants");
    check(driver.stream_synchronize(nullptr), "set the function constants");
  }

  Context context_;
  cuda::Module module_ = nullptr;
  cuda::Function function_ = nullptr;
  bool overlaps_ = false;
  mutable std::mutex allowed_mutex_;
  mutable std::uint32_t allowed_bytes_ = kDefaultThreadgroupBytes;
};

struct Launch {
  const CudaPipeline* pipeline;
  cuda::LaunchConfig config;
  std::vector<std::vector<std::byte>> parameters;
};

class CudaCommands final : public Commands {
 public:
  explicit CudaCommands(std::shared_ptr<CudaStream> stream) : stream_(std::move(stream)) {
    const Driver& driver = context().bound();
    check(driver.event_create(&begin_, 0), "create an event");
    check(driver.event_create(&end_, 0), "create an event");
  }
  ~CudaCommands() override {
    const Driver& driver = context().bound_for_release();
    if (graph_ != nullptr) driver.graph_exec_destroy(graph_);
    driver.event_destroy(begin_);
    driver.event_destroy(end_);
  }

  void commit() override {
    if (launches_.empty()) return;
    const Driver& driver = context().bound();
    const std::lock_guard lock(stream_->mutex());
    if (graph_ == nullptr) capture(driver);
    check(driver.event_record(begin_, stream_->get()), "record an event");
    check(driver.graph_launch(graph_, stream_->get()), "launch");
    check(driver.event_record(end_, stream_->get()), "record an event");
  }
  void wait() override {
    if (launches_.empty()) return;
    const Driver& driver = context().bound();
    check(driver.stream_synchronize(stream_->get()), "run");
    float milliseconds = 0;
    check(driver.event_elapsed(&milliseconds, begin_, end_), "time");
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
                     stream_->get(),
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
      return add(launch, pointer_of(*buffer->buffer) + buffer->offset);
    }
    const auto& bytes = std::get<BytesArgument>(found->second);
    if (argument.by_value != 0) {
      launch.parameters.push_back(bytes);
      return;
    }
    auto& copy = bytes_.emplace_back(std::make_unique<CudaBuffer>(context(), bytes.size()));
    copy->upload(bytes);
    add(launch, copy->pointer());
  }

  [[nodiscard]] const Context& context() const { return stream_->context(); }

  void capture(const Driver& driver) {
    check(driver.stream_begin_capture(stream_->get(), cuda::kCaptureThreadLocal), "begin a graph");
    for (Launch& launch : launches_) {
      std::vector<void*> parameters;
      for (auto& parameter : launch.parameters) parameters.push_back(parameter.data());
      cuda::LaunchAttribute overlap{};
      overlap.id = cuda::kProgrammaticSerialization;
      overlap.value = 1;
      launch.config.attributes = &overlap;
      launch.config.attribute_count = launch.pipeline->overlaps() ? 1 : 0;
      check(driver.launch_kernel(&launch.config, launch.pipeline->function(), parameters.data(), nullptr),
            std::string(launch.pipeline->name()).c_str());
    }
    cuda::Graph graph = nullptr;
    check(driver.stream_end_capture(stream_->get(), &graph), "end a graph");
    check(driver.graph_instantiate(&graph_, graph, 0), "make a graph");
    driver.graph_destroy(graph);
  }

  std::shared_ptr<CudaStream> stream_;
  cuda::Event begin_ = nullptr;
  cuda::Event end_ = nullptr;
  cuda::GraphExec graph_ = nullptr;
  std::vector<Launch> launches_;
  std::vector<std::unique_ptr<CudaBuffer>> bytes_;
  double seconds_ = 0;
};

class CudaQueue final : public Queue {
 public:
  explicit CudaQueue(const Context& context) : stream_(std::make_shared<CudaStream>(context)) {}
  std::unique_ptr<Commands> commands() override { return std::make_unique<CudaCommands>(stream_); }
  void upload(Buffer& to, std::span<const std::byte> bytes, std::size_t offset) override {
    to.check_range(bytes.size(), offset);
    if (bytes.empty()) return;
    check(driver().copy_to_device_async(pointer_of(to) + offset, bytes.data(), bytes.size(), stream_->get()),
          "copy to the device");
  }
  void download(const Buffer& from, std::span<std::byte> bytes, std::size_t offset) override {
    from.check_range(bytes.size(), offset);
    if (bytes.empty()) return;
    const Driver& bound = driver();
    check(bound.copy_to_host_async(bytes.data(), pointer_of(from) + offset, bytes.size(), stream_->get()),
          "copy from the device");
    check(bound.stream_synchronize(stream_->get()), "copy from the device");
  }
  void download(std::span<const DownloadPiece> pieces) override {
    for (const DownloadPiece& piece : pieces) piece.from->check_range(piece.bytes.size(), piece.offset);
    const Driver& bound = driver();
    stage(
        pieces,
        [&](const Staged& part) {
          const DownloadPiece& piece = pieces[part.piece];
          check(bound.copy_to_host_async(part.data, pointer_of(*piece.from) + piece.offset + part.offset, part.bytes,
                                         stream_->get()),
                "copy from the device");
        },
        [&](const std::vector<Staged>& parts) {
          check(bound.stream_synchronize(stream_->get()), "copy from the device");
          for (const Staged& part : parts)
            std::memcpy(pieces[part.piece].bytes.data() + part.offset, part.data, part.bytes);
        });
  }
  void upload(std::span<const UploadPiece> pieces) override {
    for (const UploadPiece& piece : pieces) piece.to->check_range(piece.bytes.size(), piece.offset);
    const Driver& bound = driver();
    stage(
        pieces,
        [&](const Staged& part) {
          const UploadPiece& piece = pieces[part.piece];
          std::memcpy(part.data, piece.bytes.data() + part.offset, part.bytes);
          check(bound.copy_to_device_async(pointer_of(*piece.to) + piece.offset + part.offset, part.data, part.bytes,
                                           stream_->get()),
                "copy to the device");
        },
        // The pinned memory is written to again.
        [&](const std::vector<Staged>&) { check(bound.stream_synchronize(stream_->get()), "copy to the device"); });
  }
  void copy(const Buffer& from, std::size_t from_offset, Buffer& to, std::size_t to_offset,
            std::size_t bytes) override {
    from.check_range(bytes, from_offset);
    to.check_range(bytes, to_offset);
    if (bytes == 0) return;
    const Driver& bound = driver();
    check(bound.copy_on_device_async(pointer_of(to) + to_offset, pointer_of(from) + from_offset, bytes, stream_->get()),
          "copy on the device");
    check(bound.stream_synchronize(stream_->get()), "copy on the device");
  }

 private:
  static constexpr std::size_t kStagedBytes = std::size_t{16} << 20;

  // A part of a piece, and where in the pinned memory it is.
  struct Staged {
    std::size_t piece;
    std::size_t offset;  // in the piece
    std::size_t bytes;
    std::byte* data;
  };

  // Cuts pieces into parts that fit into the pinned memory, and calls `flush` with what fills it. copy: called with
  // each part as it is made.
  template <typename Piece, typename Copy, typename Flush>
  void stage(std::span<const Piece> pieces, const Copy& copy, const Flush& flush) {
    if (pieces.empty()) return;
    if (!staging_) staging_ = std::make_unique<PinnedMemory>(stream_->context(), kStagedBytes);
    std::vector<Staged> parts;
    std::size_t used = 0;
    for (std::size_t piece = 0; piece < pieces.size(); ++piece) {
      for (std::size_t done = 0; done < pieces[piece].bytes.size();) {
        const std::size_t count = std::min(pieces[piece].bytes.size() - done, staging_->size() - used);
        parts.push_back({piece, done, count, staging_->data() + used});
        copy(parts.back());
        done += count;
        used += count;
        if (used < staging_->size()) continue;
        flush(parts);
        parts.clear();
        used = 0;
      }
    }
    flush(parts);
  }

  [[nodiscard]] const Driver& driver() const { return stream_->context().bound(); }
  std::shared_ptr<CudaStream> stream_;
  std::unique_ptr<PinnedMemory> staging_;  // once it is needed
};

class CudaDevice final : public Device {
 public:
  CudaDevice() : driver_(cuda::require_driver()), context_{driver_} {
    const char* const chosen = std::getenv("METAL_MARLIN_CUDA_DEVICE");
    cuda::DeviceId id = 0;
    check(driver_.device_get(&id, chosen == nullptr ? 0 : std::atoi(chosen)), "find the device");
    check(driver_.device_get_name(name_.data(), static_cast<int>(name_.size()), id), "name the device");
    major_ = attribute(cuda::kComputeCapabilityMajor, id);
    minor_ = attribute(cuda::kComputeCapabilityMinor, id);
    if (major_ < 8) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} has compute capability {}.{}, expected 8.0 or later", name_.data(), major_, minor_));
    }
    traits_.cores = static_cast<std::uint32_t>(attribute(cuda::kMultiprocessorCount, id));
    traits_.busy_threadgroups = 4 * traits_.cores;
    traits_.threadgroup_bytes = static_cast<std::uint32_t>(attribute(cuda::kMaxSharedBytesOptIn, id));
    traits_.thread_registers = 255;
    traits_.copies_ahead = true;
    traits_.memory_apart = attribute(cuda::kIntegrated, id) == 0;
    check(driver_.primary_context_retain(&context_.context, id), "make a context");
    stream_ = std::make_shared<CudaStream>(context_);
  }
  [[nodiscard]] std::string name() const override { return name_.data(); }
  [[nodiscard]] std::string facts() const override {
    std::size_t free = 0;
    std::size_t total = 0;
    check(context_.bound().mem_get_info(&free, &total), "ask for free memory");
    return fmt::format("compute capability {}.{}; {} multiprocessors; {}, of which {} are free", major_, minor_,
                       traits_.cores, byte_text(total), byte_text(free));
  }
  std::unique_ptr<Buffer> allocate(std::size_t bytes) override { return std::make_unique<CudaBuffer>(context_, bytes); }
  std::unique_ptr<Commands> commands() override { return std::make_unique<CudaCommands>(stream_); }
  std::unique_ptr<Queue> make_queue() override { return std::make_unique<CudaQueue>(context_); }
  [[nodiscard]] std::size_t available_memory() const override {
    std::size_t free = 0;
    std::size_t total = 0;
    check(context_.bound().mem_get_info(&free, &total), "ask for free memory");
    return free;
  }
  [[nodiscard]] DeviceTraits traits() const override { return traits_; }

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                          const FunctionConstants& constants) override {
    return std::make_unique<CudaPipeline>(context_, *shader.library, ptx_of(shader, kernel, major_), kernel, constants);
  }

 private:
  [[nodiscard]] int attribute(int which, cuda::DeviceId id) const {
    int value = 0;
    check(driver_.device_get_attribute(&value, which, id), "ask the device");
    return value;
  }

  const Driver& driver_;
  DeviceTraits traits_;
  Context context_;
  std::shared_ptr<CudaStream> stream_;  // of commands that have no queue
  std::array<char, 128> name_{};
  int major_ = 0;
  int minor_ = 0;
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
