// metal-marlin-air: Apple's compiled shaders, lowered to this machine's code or NVIDIA's.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/printable.h"
#include "check.h"
#include "description.h"
#include "emit.h"
#include "guard.h"
#include "input.h"
#include "lower.h"
#include "metal_marlin/error.h"
#include "pack.h"

namespace metal_marlin::air {
namespace {

nlohmann::ordered_json json_of(const Kernel& kernel) {
  nlohmann::ordered_json arguments = nlohmann::ordered_json::array();
  for (const Argument& a : kernel.arguments) {
    nlohmann::ordered_json row = {{"name", a.name}, {"type", a.type}};
    if (a.kind == ArgumentKind::kBuiltin) {
      row["kind"] = "builtin";
    } else {
      row["kind"] = a.kind == ArgumentKind::kBuffer ? "buffer" : "threadgroup";
      row["index"] = a.index;
      row["size"] = a.size;
      row["alignment"] = a.alignment;
      row["read_only"] = a.read_only;
      row["bytes"] = a.by_value;
      row["optional"] = a.optional;
    }
    arguments.push_back(std::move(row));
  }
  nlohmann::ordered_json constants = nlohmann::ordered_json::array();
  for (const FunctionConstant& c : kernel.constants)
    constants.push_back({{"name", c.name}, {"type", c.type}, {"index", c.index}, {"size", c.size}});
  return {{"kernel", kernel.name},
          {"max_threads", kernel.max_threads},
          {"arguments", arguments},
          {"constants", constants},
          {"air_version", kernel.air_version},
          {"language", kernel.language},
          {"compile_options", kernel.compile_options}};
}

// Of bytes that are no UTF-8, which names may have, replacement characters.
std::string json_text(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string line_of(const Kernel& kernel) {
  std::string text = kernel.name;
  for (const Argument& a : kernel.arguments) {
    if (a.kind != ArgumentKind::kBuiltin) text += fmt::format(" {}:{}", a.index, a.name);
  }
  for (const FunctionConstant& c : kernel.constants) text += fmt::format(" constant {}:{}", c.index, c.name);
  return printable_line(text);
}

Kernel describe_source(const KernelSource& source) {
  Kernel kernel;
  run_guarded(source.name, [&] {
    llvm::LLVMContext context;
    kernel = describe(*parse_module(context, source), source.name);
  });
  return kernel;
}

void list(const InputFile& file, const std::vector<std::string>& names, bool json) {
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (const KernelSource& source : file.select(names)) {
    try {
      const Kernel kernel = describe_source(source);
      if (json) {
        out.push_back(json_of(kernel));
      } else {
        fmt::print("{}\n", line_of(kernel));
      }
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kUnsupported) throw;
      if (json) {
        out.push_back({{"kernel", source.name}, {"unsupported", e.what()}});
      } else {
        fmt::print("{} not supported: {}\n", printable_line(source.name), printable_line(e.what()));
      }
    }
  }
  if (json) fmt::print("{}\n", json_text(out));
}

void lower_file(const InputFile& file, const std::vector<std::string>& names, LowerOptions options,
                const std::string& output) {
  const Product product = output.ends_with(".o")     ? Product::kObject
                          : output.ends_with(".so")  ? Product::kShared
                          : output.ends_with(".ptx") ? Product::kPtx
                                                     : throw Error(ErrorCode::kInvalidArgument,
                                                                   fmt::format("-o {}: expected a name that ends with "
                                                                               ".o, .so or .ptx",
                                                                               output));
  options.machine = product == Product::kPtx ? Machine::kPtx : Machine::kHost;
  if (product == Product::kPtx && options.instrument)
    throw Error(ErrorCode::kInvalidArgument, "--instrument: the detectors are the host's, not NVIDIA's");
  const std::vector<KernelSource> sources = file.select(names);
  run_guarded(output, [&] {
    llvm::LLVMContext context;
    emit_file(*lower(context, sources, options), product, options, output);
  });
}

// The error without the kernel's name, so that equal ones are counted together.
std::string reason_of(const CheckResult& result) {
  std::string reason = result.error;
  const std::string named = "kernel " + result.kernel;
  if (reason.starts_with(named)) reason.replace(0, named.size(), "kernel *");
  return reason;
}

void print_check(const std::vector<CheckResult>& results, std::size_t names) {
  std::map<std::string, std::pair<int, int>> families;
  std::map<std::string, std::vector<std::string>> reasons;
  int failed = 0;
  for (const CheckResult& result : results) {
    auto& [all, bad] = families[family(result.kernel)];
    ++all;
    if (result.error.empty()) continue;
    ++bad;
    ++failed;
    reasons[reason_of(result)].push_back(result.kernel);
  }
  fmt::print("{:>8} {:>8}  family\n", "kernels", "failed");
  for (const auto& [name, counts] : families)
    fmt::print("{:8} {:8}  {}\n", counts.first, counts.second, printable_line(name));
  for (const auto& [reason, kernels] : reasons) {
    fmt::print("{}x {}\n", kernels.size(), printable_line(reason));
    for (std::size_t i = 0; i < std::min(names, kernels.size()); ++i)
      fmt::print("    {}\n", printable_line(kernels[i]));
    if (kernels.size() > names) fmt::print("    and {} more\n", kernels.size() - names);
  }
  fmt::print("{} kernels, {} lowered, {} failed\n", results.size(), results.size() - static_cast<std::size_t>(failed),
             failed);
}

struct CommandLine {
  std::string file;
  std::vector<std::string> modules;
  std::vector<std::string> kernels;
  LowerOptions options;
  std::string output;
  bool json = false;
  std::size_t names = 1000;  // of kernels that failed for one reason
  bool ptx = false;
  int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
};

int check_file(const InputFile& file, CommandLine line) {
  LowerOptions& options = line.options;
  options.machine = line.ptx ? Machine::kPtx : Machine::kHost;
  options.quick = !options.instrument;
  const std::vector<CheckResult> results = check(file.select(line.kernels), options, line.threads);
  const bool ok = std::all_of(results.begin(), results.end(), [](const CheckResult& r) { return r.error.empty(); });
  if (!line.json) {
    print_check(results, line.names);
    return ok ? 0 : 1;
  }
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const CheckResult& r : results)
    rows.push_back(
        {{"kernel", r.kernel}, {"family", family(r.kernel)}, {"lowered", r.error.empty()}, {"error", r.error}});
  fmt::print("{}\n", json_text({{"kernels", rows}, {"ok", ok}}));
  return ok ? 0 : 1;
}

int run(int argc, char** argv) {
  CLI::App app("Lowers Apple's compiled shaders (metallib, AIR bitcode or text)", "metal-marlin-air");
  app.require_subcommand(1);
  CommandLine line;
  const auto add = [&](const char* name, const char* what) {
    CLI::App* const command = app.add_subcommand(name, what);
    command->add_option("file", line.file, "metallib, bitcode or text of LLVM")->required();
    command->add_option("--kernel", line.kernels, "only this one; may be given again")->allow_extra_args(false);
    return command;
  };
  CLI::App* const list_command = add("list", "The kernels with their arguments");
  list_command->add_flag("--json", line.json, "print JSON");
  CLI::App* const lower_command = add("lower", "An object, a shared library or PTX, by the output's name");
  lower_command->add_option("-o", line.output, "FILE.o, FILE.so or FILE.ptx")->required();
  lower_command->add_option("--symbol", line.options.symbol, "of the library's table");
  lower_command->add_flag("--instrument", line.options.instrument, "report loads and stores to the executor");
  lower_command->add_option("--gpu", line.options.gpu, "for PTX")->check(CLI::IsMember({"sm_80", "sm_90"}));
  CLI::App* const check_command = add("check", "Lower every kernel without optimising, count by family");
  check_command->add_flag("--json", line.json, "print JSON");
  check_command->add_option("-j", line.threads, "threads");
  check_command->add_flag("--instrument", line.options.instrument, "as for the detectors");
  check_command->add_option("--names", line.names, "print at most so many kernels that fail for one reason");
  check_command->add_flag("--ptx", line.ptx, "for NVIDIA");
  CLI::App* const pack_command = app.add_subcommand("pack", "A metallib of modules, as mslc.py metallib makes them");
  pack_command->add_option("modules", line.modules, "bitcode, one file a shader")->required();
  pack_command->add_option("-o", line.output, "FILE.metallib")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ErrorCode::kInvalidArgument);
  }
  if (pack_command->parsed()) {
    pack(line.modules, line.output);
    return 0;
  }
  initialise_targets();
  initialise_guard();
  const InputFile file(line.file);
  if (list_command->parsed()) list(file, line.kernels, line.json);
  if (lower_command->parsed()) lower_file(file, line.kernels, line.options, line.output);
  return check_command->parsed() ? check_file(file, line) : 0;
}

}  // namespace
}  // namespace metal_marlin::air

int main(int argc, char** argv) {
  using metal_marlin::printable_line;
  try {
    const int code = metal_marlin::air::run(argc, argv);
    if (std::fflush(stdout) != 0)
      throw metal_marlin::Error(metal_marlin::ErrorCode::kIo, "the output cannot be written");
    return code;
  } catch (const metal_marlin::Error& e) {
    fmt::print(stderr, "error: {}\n", printable_line(e.what()));
    return static_cast<int>(e.code());
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", printable_line(e.what()));
    return static_cast<int>(metal_marlin::ErrorCode::kInternal);
  }
}
