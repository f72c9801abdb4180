// `metal-marlin shaders`: the shaders of this build, and anybody's .metal files.
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iterator>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/host/host_device.h"
#include "base/child_process.h"
#include "base/parse_number.h"
#include "base/printable.h"
#include "base/program_path.h"
#include "base/system_error.h"
#include "cli/commands.h"
#include "cli/streams.h"
#include "cli/table.h"
#include "io/file_write.h"
#include "io/npy.h"
#include "io/safetensors.h"
#include "io/sources.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

using msl::Size3;

[[noreturn]] void bad_flag(const std::string& flag, const std::string& value, const std::string& expected) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("--{} {}: expected {}", flag, value, expected));
}

// Shaders that are compiled already: tools/msl/metallib.py knows the endings.
bool is_compiled(const std::string& path) {
  return path.ends_with(".metallib") || path.ends_with(".air") || path.ends_with(".bc") || path.ends_with(".ll");
}

// Where the toolchain lies: METAL_MARLIN_MSL_TOOLS, what was installed, the source.
std::string compiler_path() {
  std::vector<std::filesystem::path> places;
  if (const char* const chosen = std::getenv("METAL_MARLIN_MSL_TOOLS")) places.emplace_back(chosen);
  places.emplace_back(program_path().parent_path() / "../share/metal-marlin/msl");
  places.emplace_back(METAL_MARLIN_MSL_SOURCE);
  std::vector<std::string> looked;
  for (const auto& place : places) {
    if (std::filesystem::exists(place / "mslc.py")) return (place / "mslc.py").string();
    looked.push_back(place.string());
  }
  throw Error(ErrorCode::kNotFound,
              fmt::format("the shader toolchain is missing; looked for mslc.py in {}", fmt::join(looked, ", ")));
}

// A file or folder as the toolchain takes it: no option of its own.
std::string path_argument(const std::string& path) {
  return path.starts_with('-') ? "./" + path : path;
}

// The toolchain has said what is wrong. Its exit codes are ours, but for 1: the shaders are at fault.
[[noreturn]] void fail_as_compiler(int code, const std::string& file, const char* fault, const char* other) {
  const bool known =
      code >= static_cast<int>(ErrorCode::kInvalidArgument) && code <= static_cast<int>(ErrorCode::kInternal);
  throw Error(known ? static_cast<ErrorCode>(code) : ErrorCode::kCorruptFile,
              fmt::format("{}{}", file.empty() ? "" : file + ": ", known ? other : fault));
}

// Prints what comes from a descriptor. \throws Error (kIo) where it cannot be printed.
void print_all(int descriptor) {
  std::array<char, 4096> piece{};
  while (true) {
    const ssize_t count = read(descriptor, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return;
    std::fwrite(piece.data(), 1, static_cast<std::size_t>(count), stdout);
    flush_output();
  }
}

struct Pipe {
  Pipe() {
    if (pipe(ends.data()) != 0)
      throw Error(code_of_errno(errno), fmt::format("cannot make a pipe: {}", std::strerror(errno)));
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_end(std::size_t i) {
    if (ends[i] >= 0) close(std::exchange(ends[i], -1));
  }
  std::array<int, 2> ends{-1, -1};  // where it is read, where it is written
};

// Runs the toolchain with our standard error, and prints what it prints; its exit code. It takes the clang of this
// build where that is still there: Homebrew's is not on PATH.
int run_compiler(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"python3", compiler_path()});
  const bool has_clang = std::filesystem::exists(METAL_MARLIN_SHADER_CLANG);
  const std::filesystem::path air = program_path().parent_path() / "metal-marlin-air";
  const bool has_air = std::filesystem::exists(air);
  Pipe output;
  const pid_t child = start_process(std::move(arguments), [&] {
    if (has_air) setenv("METAL_MARLIN_AIR", air.c_str(), 0);
    if (has_clang) setenv("METAL_MARLIN_CLANG", METAL_MARLIN_SHADER_CLANG, 0);
    dup2(output.ends[1], STDOUT_FILENO);
    output.close_end(0);
    output.close_end(1);
  });
  output.close_end(1);
  std::exception_ptr failure;
  int code = 0;
  try {
    print_all(output.ends[0]);
  } catch (...) {
    failure = std::current_exception();
  }
  output.close_end(0);
  try {
    code = wait_for_process(child, "python3");
  } catch (...) {
    if (!failure) failure = std::current_exception();
  }
  if (failure) std::rethrow_exception(failure);
  if (code == kCannotRun) throw Error(ErrorCode::kNotFound, "cannot run python3");
  return code;
}

// What `shaders list` prints.
class KernelList {
 public:
  void add(std::string_view shader, const MslLibrary& library) {
    for (std::uint32_t i = 0; i < library.kernel_count; ++i) add(shader, library.kernels[i]);
  }
  void print(bool json) const { fmt::print("{}{}", json ? json_.dump(2) : render_table(rows_), json ? "\n" : ""); }

 private:
  void add(std::string_view shader, const MslKernel& kernel) {
    std::vector<std::string> names;
    nlohmann::ordered_json arguments = nlohmann::ordered_json::array();
    for (std::uint32_t k = 0; k < kernel.argument_count; ++k) {
      const MslArgument& a = kernel.arguments[k];
      if (a.kind == kMslBuiltin) continue;
      names.push_back(fmt::format("{}:{}", a.index, printable_line(a.name)));
      arguments.push_back({{"name", a.name},
                           {"type", a.type},
                           {"kind", a.kind == kMslBuffer ? "buffer" : "threadgroup"},
                           {"index", a.index},
                           {"size", a.size},
                           {"alignment", a.alignment},
                           {"bytes", a.by_value != 0}});
    }
    rows_.push_back({printable_line(shader), printable_line(kernel.name), fmt::format("{}", fmt::join(names, " "))});
    json_.push_back(
        {{"shader", shader}, {"kernel", kernel.name}, {"max_threads", kernel.max_threads}, {"arguments", arguments}});
  }

  nlohmann::ordered_json json_ = nlohmann::ordered_json::array();
  std::vector<std::vector<std::string>> rows_ = {{"shader", "kernel", "arguments"}};
};

void list_embedded(bool json) {
  KernelList kernels;
  for (const msl::EmbeddedShader& shader : msl::embedded_shaders()) kernels.add(shader.name, *shader.library);
  kernels.print(json);
}

void list_compiled(const std::string& file, bool json) {
  std::vector<std::string> arguments = {"list", path_argument(file)};
  if (json) arguments.emplace_back("--json");
  if (const int code = run_compiler(arguments); code != 0)
    fail_as_compiler(code, file, "cannot be listed", "not listed");
}

struct RunOptions {
  std::string file;
  std::string kernel;
  std::string grid = "1";
  std::string threads = "1";
  std::vector<std::string> buffers;
  std::vector<std::string> bytes;
  std::vector<std::string> threadgroups;
  std::vector<std::string> constants;
  std::vector<std::string> outputs;
  std::vector<std::string> includes;
  std::vector<std::string> defines;
  std::string order = "forward";
  std::uint64_t seed = 0;
  bool debug = false;
  bool json = false;
};

Size3 parse_size(const std::string& flag, const std::string& text) {
  Size3 size = {1, 1, 1};
  std::size_t at = 0;
  for (std::size_t i = 0; i < 3 && at <= text.size(); ++i) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + comma, size[i]);
    if (error != std::errc() || end != text.data() + comma || size[i] == 0) bad_flag(flag, text, "X, X,Y or X,Y,Z");
    at = comma + 1;
  }
  if (at <= text.size()) bad_flag(flag, text, "X, X,Y or X,Y,Z");
  return size;
}

// "3=rest" gives 3 and "rest".
std::pair<std::uint32_t, std::string> parse_indexed(const std::string& flag, const std::string& text) {
  const std::size_t equals = text.find('=');
  std::uint32_t index = 0;
  if (equals == std::string::npos ||
      std::from_chars(text.data(), text.data() + equals, index).ptr != text.data() + equals || equals == 0) {
    bad_flag(flag, text, "INDEX=VALUE");
  }
  return {index, text.substr(equals + 1)};
}

template <typename T>
void append_value(const std::string& flag, const std::string& text, std::vector<std::byte>& out) {
  const std::optional<T> value = parse_number<T>(text);
  if (!value) bad_flag(flag, text, "a number of that type");
  const auto* const bytes = reinterpret_cast<const std::byte*>(&*value);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}

// "u32:4,f32:0.5" gives eight bytes.
std::vector<std::byte> parse_values(const std::string& flag, const std::string& text) {
  std::vector<std::byte> out;
  std::size_t at = 0;
  while (at <= text.size()) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string item = text.substr(at, comma - at);
    const std::size_t colon = item.find(':');
    const std::string type = item.substr(0, colon);
    const std::string value = colon == std::string::npos ? "" : item.substr(colon + 1);
    if (type == "u32")
      append_value<std::uint32_t>(flag, value, out);
    else if (type == "i32")
      append_value<std::int32_t>(flag, value, out);
    else if (type == "f32")
      append_value<float>(flag, value, out);
    else if (type == "u64")
      append_value<std::uint64_t>(flag, value, out);
    else if (type == "bool" || type == "u8")
      append_value<std::uint8_t>(flag, value, out);
    else
      bad_flag(flag, text, "TYPE:VALUE[,TYPE:VALUE...] of u8, bool, u32, i32, u64, f32");
    at = comma + 1;
  }
  return out;
}

// The file of "FILE.npy" or "FILE.safetensors:TENSOR".
std::string file_of_buffer(const std::string& text) {
  const std::size_t colon = text.find(".safetensors:");
  return colon == std::string::npos ? text : text.substr(0, colon + std::strlen(".safetensors"));
}

// "zeros:BYTES", "FILE.npy" or "FILE.safetensors:TENSOR".
std::vector<std::byte> read_buffer(const std::string& text) {
  if (text.starts_with("zeros:")) {
    std::size_t bytes = 0;
    const char* const end = text.data() + text.size();
    if (std::from_chars(text.data() + 6, end, bytes).ptr != end || bytes > (std::size_t{1} << 36))
      bad_flag("buffer", text, "zeros:BYTES");
    return std::vector<std::byte>(bytes);
  }
  const std::size_t colon = text.find(".safetensors:");
  if (colon != std::string::npos) {
    const std::string path = file_of_buffer(text);
    const SafetensorsFile file(path);
    const auto found = file.tensors().find(text.substr(colon + 13));
    if (found == file.tensors().end())
      throw Error(ErrorCode::kNotFound, fmt::format("{}: no tensor {}", path, text.substr(colon + 13)));
    return {found->second.bytes.begin(), found->second.bytes.end()};
  }
  if (text.ends_with(".npy")) return read_npy(text).bytes;
  bad_flag("buffer", text, "INDEX=zeros:BYTES, INDEX=FILE.npy or INDEX=FILE.safetensors:TENSOR");
}

// Goes with what is in it.
struct TemporaryFolder {
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "metal-marlin-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) fail_file(pattern, "create");
    path = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path path;
};

// A shader compiled and loaded.
class LoadedShader {
 public:
  explicit LoadedShader(const RunOptions& options) {
    const std::string output = (folder_.path / "shader.so").string();
    std::vector<std::string> arguments = {"shared", path_argument(options.file), "-o", output};
    if (is_compiled(options.file)) arguments.insert(arguments.end(), {"--kernel", options.kernel});
    if (options.debug) arguments.emplace_back("--instrument");
    for (const std::string& i : options.includes) arguments.insert(arguments.end(), {"-I", path_argument(i)});
    for (const std::string& d : options.defines) arguments.insert(arguments.end(), {"-D", d});
    if (const int code = run_compiler(arguments); code != 0)
      fail_as_compiler(code, options.file, "does not compile", "not lowered");
    handle_ = dlopen(output.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) throw Error(ErrorCode::kUnsupported, fmt::format("{}: {}", options.file, dlerror()));
    library_ = static_cast<const MslLibrary*>(dlsym(handle_, "msl_library"));
  }
  ~LoadedShader() {
    if (handle_ != nullptr) dlclose(handle_);
  }
  LoadedShader(const LoadedShader&) = delete;
  LoadedShader& operator=(const LoadedShader&) = delete;

  [[nodiscard]] const MslLibrary& library() const { return *library_; }
  [[nodiscard]] std::size_t find(const std::string& name) const {
    std::vector<std::string> known;
    for (std::uint32_t i = 0; i < library_->kernel_count; ++i) {
      if (library_->kernels[i].name == name) return i;
      known.emplace_back(library_->kernels[i].name);
    }
    throw Error(ErrorCode::kNotFound, fmt::format("no kernel {}; the file has {}", name, fmt::join(known, ", ")));
  }

 private:
  TemporaryFolder folder_;
  void* handle_ = nullptr;
  const MslLibrary* library_ = nullptr;
};

void list_text(const RunOptions& options) {
  const LoadedShader shader(options);
  KernelList kernels;
  kernels.add(std::filesystem::path(options.file).stem().string(), shader.library());
  kernels.print(options.json);
}

msl::LaneOrder parse_order(const std::string& text) {
  if (text == "forward") return msl::LaneOrder::kForward;
  if (text == "reverse") return msl::LaneOrder::kReverse;
  return msl::LaneOrder::kRandom;
}

constexpr std::array kNumpyTypes = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "c8"};

// "1=FILE.npy:u4"
struct RunOutput {
  explicit RunOutput(const std::string& text) {
    std::string value;
    std::tie(index, value) = parse_indexed("output", text);
    const std::size_t colon = value.rfind(':');
    if (colon != std::string::npos) type = value.substr(colon + 1);
    path = value.substr(0, colon);
    if (std::find(kNumpyTypes.begin(), kNumpyTypes.end(), type) == kNumpyTypes.end())
      bad_flag("output", text, fmt::format("INDEX=FILE.npy[:TYPE] of {}", fmt::join(kNumpyTypes, ", ")));
  }

  [[nodiscard]] std::size_t element() const { return static_cast<std::size_t>(type[1] - '0'); }

  std::uint32_t index = 0;
  std::string path;
  std::string type = "f4";
};

// No output may take the place of what the kernel is made of or reads.
void refuse_to_overwrite(const RunOptions& options, const std::vector<RunOutput>& outputs) {
  Sources sources;
  sources.add(options.file);
  for (const std::string& text : options.buffers) {
    const std::string value = parse_indexed("buffer", text).second;
    if (!value.starts_with("zeros:")) sources.add(file_of_buffer(value));
  }
  for (const RunOutput& output : outputs) sources.refuse(output.path);
}

void write_output(const RunOutput& output, const msl::Buffer& buffer) {
  std::vector<std::byte> content(buffer.size());
  buffer.download(content);
  const std::size_t element = output.element();
  write_npy(output.path, (element == 1 ? "|" : "<") + output.type,
            {static_cast<std::int64_t>(content.size() / element)}, content);
}

void run_kernel(const RunOptions& options) {
  const std::vector<RunOutput> outputs(options.outputs.begin(), options.outputs.end());
  refuse_to_overwrite(options, outputs);
  const LoadedShader shader(options);
  msl::FunctionConstants constants;
  for (const std::string& text : options.constants) {
    const auto [index, value] = parse_indexed("constant", text);
    constants[index] = parse_values("constant", value);
  }
  const auto pipeline = msl::make_host_pipeline(shader.library(), shader.find(options.kernel), constants);
  const auto device = msl::make_host_device({0, options.debug, parse_order(options.order), options.seed});
  std::map<std::uint32_t, std::unique_ptr<msl::Buffer>> buffers;
  msl::Arguments arguments;
  for (const std::string& text : options.buffers) {
    const auto [index, value] = parse_indexed("buffer", text);
    buffers[index] = device->allocate_with(read_buffer(value));
    arguments.buffer(index, *buffers[index]);
  }
  for (const std::string& text : options.bytes) {
    const auto [index, value] = parse_indexed("bytes", text);
    arguments.raw_bytes(index, parse_values("bytes", value));
  }
  for (const std::string& text : options.threadgroups) {
    const auto [index, value] = parse_indexed("threadgroup", text);
    arguments.threadgroup(index, parse_size("threadgroup", value)[0]);
  }
  for (const RunOutput& output : outputs) {
    if (!buffers.contains(output.index))
      bad_flag("output", fmt::format("{}={}", output.index, output.path), "the index of a --buffer");
    if (const std::size_t bytes = buffers.at(output.index)->size(); bytes % output.element() != 0)
      bad_flag("output", fmt::format("{}={}:{}", output.index, output.path, output.type),
               fmt::format("a type of which {} bytes are a whole number", bytes));
  }
  const auto commands = device->commands();
  commands->dispatch_threads(*pipeline, parse_size("grid", options.grid), parse_size("threads", options.threads),
                             arguments);
  commands->commit();
  try {
    commands->wait();
  } catch (const Error& e) {  // a detector's finding: the shader is at fault, and not this program
    throw e.code() == ErrorCode::kInternal ? Error(ErrorCode::kCorruptFile, e.what()) : e;
  }
  for (const auto& [index, buffer] : buffers) {
    if (msl::written_behind(*buffer))
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: wrote behind buffer {} ({} bytes); --debug says where",
                                                       options.kernel, index, buffer->size()));
  }
  for (const RunOutput& output : outputs) write_output(output, *buffers.at(output.index));
  fmt::print("{}: {:.3f} ms{}\n", options.kernel, commands->seconds() * 1e3, options.debug ? ", no fault found" : "");
}

// How a .metal file is read; options as RunOptions or add_check have them.
template <typename Options>
void add_text_options(CLI::App& command, Options& options) {
  add_list(command, "-I", options.includes, "folder of included files");
  add_list(command, "-D", options.defines, "macro, NAME=VALUE");
}

void list(const RunOptions& options) {
  if (options.file.empty()) return list_embedded(options.json);
  is_compiled(options.file) ? list_compiled(options.file, options.json) : list_text(options);
}

void add_run(CLI::App& shaders) {
  auto* const command =
      shaders.add_subcommand("run", "Run a kernel of a .metal file or a metallib on the host executor");
  auto o = std::make_shared<RunOptions>();
  command->add_option("file", o->file, ".metal file or metallib")->required();
  command->add_option("--kernel", o->kernel, "name of the kernel")->required();
  command->add_option("--grid", o->grid, "threads of the grid: X, X,Y or X,Y,Z");
  command->add_option("--threads", o->threads, "threads of a threadgroup, likewise");
  add_list(*command, "--buffer", o->buffers, "INDEX=zeros:BYTES, INDEX=FILE.npy or INDEX=FILE.safetensors:TENSOR");
  add_list(*command, "--bytes", o->bytes, "INDEX=TYPE:VALUE[,...]: u8, bool, u32, i32, u64, f32");
  add_list(*command, "--threadgroup", o->threadgroups, "INDEX=BYTES of dynamic threadgroup memory");
  add_list(*command, "--constant", o->constants, "INDEX=TYPE:VALUE of a function constant");
  add_list(*command, "--output", o->outputs, "INDEX=FILE.npy[:TYPE]: a buffer afterwards; default type f4");
  add_text_options(*command, *o);
  command->add_option("--order", o->order, "in which threads run")
      ->check(CLI::IsMember({"forward", "reverse", "random"}));
  command->add_option("--seed", o->seed, "of the random order");
  command->add_flag("--debug", o->debug, "instrument: races, bounds, uninitialised reads, barriers, alignment");
  command->footer(
      "Example:\n  metal-marlin shaders run add.metal --kernel add --grid 1024 --threads 64 \\\n"
      "    --buffer 0=a.npy --buffer 1=zeros:4096 --bytes 2=u32:1024 --output 1=sum.npy --debug");
  command->callback([o] { run_kernel(*o); });
}

void add_check(CLI::App& shaders) {
  struct Options {
    std::vector<std::string> paths;
    std::vector<std::string> includes;
    std::vector<std::string> defines;
    int version = 310;
    bool json = false;
    bool no_strict = false;
    bool verbose = false;
  };
  auto* const command = shaders.add_subcommand(
      "check", "Compile .metal files, and check them as Apple's compiler would; or lower a metallib's kernels");
  auto o = std::make_shared<Options>();
  command->add_option("paths", o->paths, ".metal files or folders of them, or a metallib")->required();
  add_text_options(*command, *o);
  command->add_option("--msl", o->version, "version of the language, such as 310");
  command->add_flag("--no-strict", o->no_strict, "compile only");
  command->add_flag("--verbose", o->verbose, "every error in full");
  command->add_flag("--json", o->json, "print JSON");
  command->footer("Example:\n  metal-marlin shaders check kernels/ --json");
  command->callback([o] {
    for (const std::string& path : o->paths) {
      if (!std::filesystem::exists(path))
        throw Error(ErrorCode::kNotFound, fmt::format("{}: no such file or folder", path));
    }
    std::vector<std::string> arguments = {"check"};
    std::transform(o->paths.begin(), o->paths.end(), std::back_inserter(arguments), path_argument);
    for (const std::string& i : o->includes) arguments.insert(arguments.end(), {"-I", path_argument(i)});
    for (const std::string& d : o->defines) arguments.insert(arguments.end(), {"-D", d});
    arguments.insert(arguments.end(), {"--version", std::to_string(o->version)});
    if (o->json) arguments.emplace_back("--json");
    if (o->no_strict) arguments.emplace_back("--no-strict");
    if (o->verbose) arguments.emplace_back("--verbose");
    if (const int code = run_compiler(arguments); code != 0)
      fail_as_compiler(code, "", "some shaders have errors", "the check was not done");
  });
}

}  // namespace

void add_shaders(CLI::App& app) {
  auto* const command = app.add_subcommand("shaders", "List, check and run Metal shaders, also other people's");
  command->require_subcommand(1);
  auto* const list_command =
      command->add_subcommand("list", "The kernels in this build, in a .metal file or in a metallib");
  auto o = std::make_shared<RunOptions>();
  list_command->add_option("file", o->file, ".metal file or metallib");
  add_text_options(*list_command, *o);
  list_command->add_flag("--json", o->json, "print JSON");
  list_command->callback([o] { list(*o); });
  add_check(*command);
  add_run(*command);
}

}  // namespace metal_marlin::cli
