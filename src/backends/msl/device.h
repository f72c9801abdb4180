// Devices that run the Metal shaders: buffers, pipelines, and commands whose
// arguments are checked against the shader's own description. The code that picks
// kernels and grids is written once, above this; executors are below it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/dtype.h"
#include "msl_abi.h"

namespace metal_marlin::msl {

using Size3 = std::array<std::uint32_t, 3>;

// A shader that was compiled into this program.
struct EmbeddedShader {
  std::string_view name;
  const MslLibrary* library;          // for the host; in builds without it a table of kernels that cannot be called
  const MslLibrary* instrumented;     // for the host's debug modes; null in builds without detectors
  std::span<const std::byte> ptx;     // packed texts (base/packed_text.h), one a kernel; empty in builds without CUDA
  std::span<const std::byte> source;  // with its headers, as one packed text
};
// In order of name.
std::span<const EmbeddedShader> embedded_shaders();
// Its text with its headers, as one file.
std::string source_of(const EmbeddedShader& shader);
// \throws Error (kNotFound) naming those that there are.
const EmbeddedShader& find_shader(std::string_view name);

// Memory that kernels read and write.
class Buffer {
 public:
  explicit Buffer(std::size_t size) : size_(size) {}
  virtual ~Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] std::size_t size() const { return size_; }
  // \throws Error (kInvalidArgument) when the range does not lie in the buffer.
  void upload(std::span<const std::byte> bytes, std::size_t offset = 0);
  void download(std::span<std::byte> bytes, std::size_t offset = 0) const;
  // \throws as these two do.
  void check_range(std::size_t bytes, std::size_t offset) const;

 protected:
  virtual void write(std::span<const std::byte> bytes, std::size_t offset) = 0;
  virtual void read(std::span<std::byte> bytes, std::size_t offset) const = 0;

 private:
  std::size_t size_;
};

struct BufferArgument {
  Buffer* buffer;
  std::size_t offset = 0;
};
using BytesArgument = std::vector<std::byte>;
struct ThreadgroupArgument {
  std::uint32_t bytes;
};

// What a kernel is called with, by index.
class Arguments {
 public:
  Arguments& buffer(std::uint32_t index, Buffer& buffer, std::size_t offset = 0) {
    buffers_[index] = BufferArgument{&buffer, offset};
    return *this;
  }
  template <typename T>
  Arguments& bytes(std::uint32_t index, const T& value) {
    const auto* const data = reinterpret_cast<const std::byte*>(&value);
    return raw_bytes(index, {data, sizeof(T)});
  }
  Arguments& raw_bytes(std::uint32_t index, std::span<const std::byte> value) {
    buffers_[index] = BytesArgument(value.begin(), value.end());
    return *this;
  }
  Arguments& threadgroup(std::uint32_t index, std::uint32_t bytes) {
    threadgroups_[index] = {bytes};
    return *this;
  }
  // Multiplications and additions that the kernel is to do, where these may take longer than what it reads.
  Arguments& operations(double count) {
    operations_ = count;
    return *this;
  }
  [[nodiscard]] double operations() const { return operations_; }
  [[nodiscard]] const std::map<std::uint32_t, std::variant<BufferArgument, BytesArgument>>& buffers() const {
    return buffers_;
  }
  [[nodiscard]] const std::map<std::uint32_t, ThreadgroupArgument>& threadgroups() const { return threadgroups_; }

 private:
  std::map<std::uint32_t, std::variant<BufferArgument, BytesArgument>> buffers_;
  std::map<std::uint32_t, ThreadgroupArgument> threadgroups_;
  double operations_ = 0;
};

// A value of a function constant, by index.
using FunctionConstants = std::map<std::uint32_t, BytesArgument>;
// As a library takes them. \throws Error (kInvalidArgument) when it has no such constant, or of another size.
MslConstantValues constant_values(const MslLibrary& library, const FunctionConstants& constants);

class Pipeline {
 public:
  explicit Pipeline(const MslKernel& kernel) : kernel_(kernel) {}
  virtual ~Pipeline() = default;
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  [[nodiscard]] const MslKernel& kernel() const { return kernel_; }
  [[nodiscard]] std::string_view name() const { return kernel_.name; }

 private:
  const MslKernel& kernel_;
};

// Encoded work, run in order of encoding.
class Commands {
 public:
  virtual ~Commands() = default;
  Commands() = default;
  Commands(const Commands&) = delete;
  Commands& operator=(const Commands&) = delete;

  // \throws Error (kInvalidArgument) naming kernel and argument when one is
  // missing, unknown, too small, misaligned or given in the wrong way.
  void dispatch(const Pipeline& pipeline, const Size3& threadgroups, const Size3& threads_per_threadgroup,
                const Arguments& arguments);
  // As Metal's dispatchThreads: the last threadgroups may be smaller.
  void dispatch_threads(const Pipeline& pipeline, const Size3& threads, const Size3& threads_per_threadgroup,
                        const Arguments& arguments);
  // Starts the work, again where it has run before; wait() for its end. \throws Error when the device failed.
  virtual void commit() = 0;
  virtual void wait() = 0;
  // Seconds that the device took, after wait().
  [[nodiscard]] virtual double seconds() const = 0;

 protected:
  virtual void encode(const Pipeline& pipeline, const Size3& threads, const Size3& threads_per_threadgroup,
                      const Arguments& arguments) = 0;
};

// Bytes of a buffer and where they go, or come from.
struct DownloadPiece {
  const Buffer* from;
  std::size_t offset;
  std::span<std::byte> bytes;
};
struct UploadPiece {
  Buffer* to;
  std::size_t offset;
  std::span<const std::byte> bytes;
};

// A line of work: copies and commands go in the order in which they are given. Lines of several threads run side by
// side; the device outlives them.
class Queue {
 public:
  virtual ~Queue() = default;
  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  virtual std::unique_ptr<Commands> commands() = 0;
  // The bytes may go when this returns.
  virtual void upload(Buffer& to, std::span<const std::byte> bytes, std::size_t offset = 0) = 0;
  virtual void download(const Buffer& from, std::span<std::byte> bytes, std::size_t offset = 0) = 0;
  virtual void copy(const Buffer& from, std::size_t from_offset, Buffer& to, std::size_t to_offset,
                    std::size_t bytes) = 0;
  // Many at a time, for devices where each copy costs time of its own.
  virtual void download(std::span<const DownloadPiece> pieces) {
    for (const DownloadPiece& piece : pieces) download(*piece.from, piece.bytes, piece.offset);
  }
  virtual void upload(std::span<const UploadPiece> pieces) {
    for (const UploadPiece& piece : pieces) upload(*piece.to, piece.bytes, piece.offset);
  }
};

// Of a device whose memory the processor sees: nothing runs once commands were waited for.
class SharedMemoryQueue final : public Queue {
 public:
  explicit SharedMemoryQueue(std::function<std::unique_ptr<Commands>()> make) : make_(std::move(make)) {}
  using Queue::download;
  using Queue::upload;
  std::unique_ptr<Commands> commands() override { return make_(); }
  void upload(Buffer& to, std::span<const std::byte> bytes, std::size_t offset) override { to.upload(bytes, offset); }
  void download(const Buffer& from, std::span<std::byte> bytes, std::size_t offset) override {
    from.download(bytes, offset);
  }
  void copy(const Buffer& from, std::size_t from_offset, Buffer& to, std::size_t to_offset, std::size_t bytes) override;

 private:
  std::function<std::unique_ptr<Commands>()> make_;
};

// What kernels' names call a type: float, half, bfloat. \throws Error (kInvalidArgument) for others.
const char* shader_type(DType type);

// As shaders take counts.
inline std::uint32_t to_u32(std::int64_t n) {
  return static_cast<std::uint32_t>(n);
}

// Of a product of [tokens, cols] and [rows, cols], for Arguments::operations().
constexpr double product_operations(std::int64_t tokens, std::int64_t rows, std::int64_t cols) {
  return 2 * static_cast<double>(tokens) * static_cast<double>(rows) * static_cast<double>(cols);
}

// Threads that take elements in turn: enough to keep a device busy.
std::uint32_t busy_threads(std::int64_t elements);

// What the choice of kernels and grids depends on.
struct DeviceTraits {
  std::uint32_t cores = 8;
  std::uint32_t busy_threadgroups = 528;  // of a product's tiles, that keep the device busy
  std::uint32_t threadgroup_bytes = 32 << 10;
  std::size_t largest_buffer = SIZE_MAX;  // bytes
  std::uint32_t thread_registers = 128;   // of 32 bits, that kernels' tiles are chosen for
  bool copies_ahead = false;              // to threadgroup memory, while a kernel goes on (NVIDIA's cp.async)
  bool memory_apart = false;              // buffers lie in memory that is not the processor's
};

struct MatrixUnit;

class Device {
 public:
  virtual ~Device();
  Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] virtual std::string name() const = 0;
  // What the system says of it, for people; empty: nothing.
  [[nodiscard]] virtual std::string facts() const { return {}; }
  // \throws Error (kOutOfMemory). The contents are undefined.
  virtual std::unique_ptr<Buffer> allocate(std::size_t bytes) = 0;
  // Kept, so that asking again costs little; threads may ask side by side. \throws Error naming shader and kernel:
  // kNotFound; or kInvalidArgument, when a function constant that the kernel uses has no value.
  const Pipeline& pipeline(std::string_view shader, std::string_view kernel, const FunctionConstants& constants = {});
  // Into a line that all who ask this have in common.
  virtual std::unique_ptr<Commands> commands() = 0;
  // A line for one thread at a time. Commands are waited for before bytes are copied.
  virtual std::unique_ptr<Queue> make_queue();
  // Bytes that allocate() may still give.
  [[nodiscard]] virtual std::size_t available_memory() const;
  [[nodiscard]] virtual DeviceTraits traits() const { return {}; }
  // Asked of the device once, by whichever thread comes first (matrix_unit.h).
  const MatrixUnit& matrix_unit();

  std::unique_ptr<Buffer> allocate_with(std::span<const std::byte> bytes);
  template <typename T>
  std::unique_ptr<Buffer> allocate_with(const std::vector<T>& values) {
    return allocate_with(std::as_bytes(std::span(values)));
  }

 protected:
  // Called by one thread at a time.
  virtual std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                                  const FunctionConstants& constants) = 0;

 private:
  std::mutex pipelines_mutex_;
  std::map<std::string, std::unique_ptr<Pipeline>, std::less<>> pipelines_;
  std::once_flag asked_;
  std::unique_ptr<const MatrixUnit> matrix_unit_;
};

}  // namespace metal_marlin::msl
