#include "backends/msl/host/metallib_kernels.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "backends/msl/host/host_device.h"
#include "base/child_process.h"
#include "base/paths.h"
#include "base/program_path.h"
#include "io/file_write.h"
#include "io/mapped_file.h"
#include "io/metallib.h"
#include "io/output_folder.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::size_t kKernelsOfAPart = 16;  // at least, so that starting the tool costs little

// METAL_MARLIN_AIR, what lies beside this program, or what lies in PATH.
std::string lowering_tool() {
  if (const char* const chosen = std::getenv("METAL_MARLIN_AIR")) return chosen;
  const std::filesystem::path beside = program_path().parent_path() / "metal-marlin-air";
  return std::filesystem::exists(beside) ? beside.string() : "metal-marlin-air";
}

std::vector<std::string> kernel_names(std::span<const std::byte> bytes, const std::string& where) {
  std::vector<std::string> names;
  for (const MetallibFunction& function : parse_metallib(bytes, where).functions) {
    if (function.type == MetallibFunctionType::kKernel) names.emplace_back(function.name);
  }
  if (names.empty()) throw Error(ErrorCode::kNotFound, fmt::format("{}: no kernels", where));
  return names;
}

std::string hexadecimal(const Sha256& hash) {
  std::string text;
  for (const std::byte b : hash) text += fmt::format("{:02x}", std::to_integer<unsigned>(b));
  return text;
}

// What the lowered code depends on: the file, the tool, and the kind of code.
std::string content_key(std::span<const std::byte> metallib, const std::string& tool, bool instrumented) {
  std::string text = fmt::format("{} ", instrumented);
  text += hexadecimal(sha256_of(metallib));
  if (std::filesystem::exists(tool)) text += hexadecimal(sha256_of(MappedFile(tool).bytes()));
  const std::string key = hexadecimal(sha256_of(std::as_bytes(std::span(text))));
  return key.substr(0, 32);
}

class Lock {
 public:
  explicit Lock(const std::filesystem::path& path)
      : descriptor_(open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644)) {
    if (descriptor_ < 0 || flock(descriptor_, LOCK_EX) != 0) fail_file(path, "lock");
  }
  ~Lock() { close(descriptor_); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  int descriptor_;
};

std::function<void(const std::string&)>& lowering_notice() {
  static std::function<void(const std::string&)> notice;
  return notice;
}

// Told where what goes on in its life takes over two seconds.
class LateNotice {
 public:
  explicit LateNotice(std::string text)
      : thread_([this, text = std::move(text)] {
          std::unique_lock<std::mutex> lock(mutex_);
          const bool in_time = ended_.wait_for(lock, std::chrono::seconds(2), [this] { return done_; });
          if (!in_time && lowering_notice()) lowering_notice()(text);
        }) {}
  ~LateNotice() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      done_ = true;
    }
    ended_.notify_one();
    thread_.join();
  }
  LateNotice(const LateNotice&) = delete;
  LateNotice& operator=(const LateNotice&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool done_ = false;
  std::thread thread_;  // after what it reads
};

// All parts at once, each by a process of its own.
void lower(const std::string& tool, const std::filesystem::path& file, const std::vector<std::string>& names,
           bool instrumented, const std::filesystem::path& folder) {
  const std::size_t parts = std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1,
                                                    (names.size() + kKernelsOfAPart - 1) / kKernelsOfAPart);
  std::vector<pid_t> running;
  for (std::size_t part = 0; part < parts; ++part) {
    std::vector<std::string> arguments = {tool, "lower", file.string(), "-o",
                                          (folder / fmt::format("{}.so", part)).string()};
    if (instrumented) arguments.emplace_back("--instrument");
    for (std::size_t i = part; i < names.size(); i += parts) {
      arguments.emplace_back("--kernel");
      arguments.push_back(names[i]);
    }
    running.push_back(start_process(std::move(arguments)));
  }
  std::string fault;
  for (const pid_t child : running) {  // all of them, that none is left behind
    try {
      const int code = wait_for_process(child, tool);
      if (code == kCannotRun) {
        fault = fmt::format("{} cannot be run (it is built where LLVM 19 is; METAL_MARLIN_AIR names it)", tool);
      } else if (code != 0) {
        fault = fmt::format("{} cannot lower it (exit code {})", tool, code);
      }
    } catch (const Error& error) {
      fault = error.what();
    }
  }
  if (!fault.empty()) throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", file.string(), fault));
}

std::string written(const MslArgument& a) {
  const char* const kind = a.kind == kMslBuffer ? "buffer" : a.kind == kMslThreadgroup ? "threadgroup" : "builtin";
  if (a.kind == kMslBuiltin) return fmt::format("{} ({} {})", a.name, kind, a.index);
  return fmt::format("{} ({} {}, {}{} bytes, aligned to {})", a.name, kind, a.index,
                     a.by_value != 0 ? "by value, " : "", a.size, a.alignment);
}

}  // namespace

std::string difference(const MslKernel& expected, const MslKernel& found) {
  if (expected.argument_count != found.argument_count)
    return fmt::format("{} arguments, expected {}", found.argument_count, expected.argument_count);
  for (std::uint32_t i = 0; i < expected.argument_count; ++i) {
    const std::string known = written(expected.arguments[i]);
    const std::string other = written(found.arguments[i]);
    if (known != other) return fmt::format("argument {} is {}, expected {}", i, other, known);
  }
  if (expected.max_threads != found.max_threads)
    return fmt::format("at most {} threads a threadgroup, expected {}", found.max_threads, expected.max_threads);
  return "";
}

std::size_t count_kernels(const std::filesystem::path& metallib) {
  return kernel_names(MappedFile(metallib).bytes(), metallib.string()).size();
}

void on_lowering(std::function<void(const std::string&)> notice) {
  lowering_notice() = std::move(notice);
}

const char* MetallibKernels::chosen_file() {
  const char* const path = std::getenv("METAL_MARLIN_METALLIB");
  return path == nullptr || *path == '\0' ? nullptr : path;
}

const MetallibKernels* MetallibKernels::chosen(bool instrumented) {
  const char* const path = chosen_file();
  if (path == nullptr) return nullptr;
  if (instrumented) {
    static const MetallibKernels kernels(path, true);
    return &kernels;
  }
  static const MetallibKernels kernels(path, false);
  return &kernels;
}

MetallibKernels::MetallibKernels(const std::filesystem::path& path, bool instrumented) : path_(path) {
  const MappedFile file(path);
  const std::vector<std::string> names = kernel_names(file.bytes(), path.string());
  const std::string tool = lowering_tool();
  std::filesystem::path cache = cache_folder();
  if (cache.empty()) cache = std::filesystem::temp_directory_path() / "metal-marlin";
  cache /= "metallib";
  std::filesystem::create_directories(cache);
  const std::filesystem::path folder = cache / content_key(file.bytes(), tool, instrumented);
  const Lock lock(folder.string() + ".lock");
  if (!std::filesystem::exists(folder)) {
    OutputFolder out(folder, false);
    const LateNotice notice(fmt::format("{}: its kernels, {}, are lowered, once for this file; this takes a while",
                                        path.string(), names.size()));
    lower(tool, path, names, instrumented, out.path());
    out.commit();
  }
  for (const auto& part : std::filesystem::directory_iterator(folder)) load(part.path());
  for (const std::string& name : names) {
    if (!kernels_.contains(name))
      throw Error(ErrorCode::kInternal, fmt::format("{}: kernel {} was not lowered", path.string(), name));
  }
}

// What is loaded stays, as long as the program.
void MetallibKernels::load(const std::filesystem::path& part) {
  void* const handle = dlopen(part.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", path_.string(), dlerror()));
  const auto* const library = static_cast<const MslLibrary*>(dlsym(handle, "msl_library"));
  if (library == nullptr) throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", path_.string(), dlerror()));
  for (std::uint32_t i = 0; i < library->kernel_count; ++i) kernels_[library->kernels[i].name] = {library, i};
}

std::unique_ptr<Pipeline> MetallibKernels::pipeline(const MslLibrary& library, const MslKernel& kernel,
                                                    const FunctionConstants& constants) const {
  const auto found = kernels_.find(kernel.name);
  if (found == kernels_.end())
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no kernel {}", path_.string(), kernel.name));
  const MslLibrary& lowered = *found->second.library;
  const std::string other = difference(kernel, lowered.kernels[found->second.kernel]);
  if (!other.empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: kernel {}: {}", path_.string(), kernel.name, other));
  constant_values(library, constants);  // refuses those that the shader lacks; one that no kernel uses is not lowered
  FunctionConstants used;
  for (const MslFunctionConstant& constant : std::span(lowered.constants, lowered.constant_count)) {
    const auto value = constants.find(constant.index);
    if (value != constants.end()) used.insert(*value);
  }
  return make_host_pipeline(lowered, found->second.kernel, used);
}

}  // namespace metal_marlin::msl
