// metal-marlin: the command line.
#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/printable.h"
#include "base/system_error.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/progress_bar.h"
#include "cli/streams.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "metal_marlin/inspect.h"
#if METAL_MARLIN_MSL
#include "backends/msl/host/host_device.h"
#endif

namespace metal_marlin::cli {
void print_notice(const std::string& text) {
  print_error("note: {}\n", printable(text));
}

std::vector<TokenId> evaluation_tokens(const Tokenizer& tokenizer, const std::string& path, std::size_t most,
                                       EvaluateOptions& options) {
  std::vector<TokenId> tokens = tokenizer.encode(read_text_file(path));
  if (most > 0 && tokens.size() > most) tokens.resize(most);
  const std::vector<TokenId> prefix = tokenizer.encode("");
  if (!prefix.empty()) options.first_token = prefix.front();
  return tokens;
}

std::vector<TokenId> read_ids(const std::string& path) {
  const nlohmann::json json = nlohmann::json::parse(read_text_file(path), nullptr, false);
  std::vector<TokenId> ids;
  bool good = json.is_array();
  for (std::size_t i = 0; good && i < json.size(); ++i) {
    good = json[i].is_number_integer() && json[i].get<std::int64_t>() >= 0 && json[i].get<std::int64_t>() <= INT32_MAX;
    if (good) ids.push_back(json[i].get<TokenId>());
  }
  if (!good) throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: expected a JSON list of token ids", path));
  return ids;
}

void ModelFlags::add(CLI::App& command) {
  command.add_option("model", path, "Hugging Face folder, quantized folder, GGUF or ONNX file")->required();
  add_load(command);
}

void ModelFlags::add_load(CLI::App& command) {
  load.notice = print_notice;
  command.add_option("--threads", load.threads, "threads; 0: one per usable core")->check(CLI::Range(0, 4096));
  command.add_option(
      "--kv-cache", load.kv_cache,
      "what keys and values are kept in: f16, f32, fp8, int8, int4 or fp4; default: f16, with --exact f32");
  command.add_flag("--exact", load.exact, "f32 activations and cache instead of 8-bit activations and an f16 cache");
  command.add_option(
      "--backend", load.backend,
      "cpu; msl: the Metal shaders on the GPU, msl-metal (Apple's) or msl-cuda (NVIDIA's); msl-host: the same on "
      "this processor, slow, for tests; msl-host-debug: slower, with race and bounds detectors");
  command.add_option("--instruction-set", load.instruction_set,
                     "one that `metal-marlin status` lists; default: the best");
  command.add_flag("--gguf-f16", load.gguf_to_f16, "load GGUF K-quants and IQ4_XS as f16 instead of int8");
}

void ModelFlags::add_lora(CLI::App& command) {
  command.add_option("--lora", lora, "folder of a LoRA adapter that PEFT saved; PATH:0.5 halves it");
}

AdapterOptions parse_adapter(const std::string& text) {
  AdapterOptions out;
  out.path = text;
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || std::filesystem::exists(text)) return out;
  const std::string number = text.substr(colon + 1);
  const char* const end = number.data() + number.size();
  const auto [stop, error] = std::from_chars(number.data(), end, out.scale);
  if (error != std::errc() || stop != end || number.empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: no such folder, and {} is no scale", text, number));
  out.path = text.substr(0, colon);
  return out;
}

void notice_context(const ModelInfo& model, std::size_t prompt, std::size_t more) {
  const auto context = static_cast<std::size_t>(model.max_positions);
  if (prompt + more <= context) return;
  print_notice(fmt::format("{} tokens{} are more than the model's context of {}; what is past it may make no sense",
                           prompt, more == 0 ? "" : fmt::format(" and up to {} new ones", more), context));
}

CLI::Option* add_list(CLI::App& command, const std::string& name, std::vector<std::string>& values,
                      const std::string& what) {
  return command.add_option(name, values, what)->allow_extra_args(false);
}

std::shared_ptr<const Model> ModelFlags::load_model(const std::string& other) const {
  ProgressBar bar("load", "B");
  LoadOptions options = load;
  if (other.empty() && !lora.empty()) {
    options.adapters.push_back(parse_adapter(lora));
    options.adapters.back().name = lora;
  }
  if (!other.empty()) options.kv_cache.clear();  // what is compared with stays as it is
  options.progress = [&](std::size_t done, std::size_t total) {
    bar.update(static_cast<double>(done), static_cast<double>(total));
    return !interrupted();
  };
  return Model::load(other.empty() ? path : other, options);
}

#if !METAL_MARLIN_PULL || !METAL_MARLIN_MSL || !METAL_MARLIN_SERVER
// A subcommand that this build lacks says so, with whatever follows it.
static void add_missing(CLI::App& app, const std::string& name, const char* needs) {
  auto* const command = app.add_subcommand(name, fmt::format("not in this program, which is built without {}", needs));
  command->allow_extras();
  command->callback([name, needs] {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: this program is built without {}", name, needs));
  });
}
#endif

int run(int argc, char** argv) {
#if METAL_MARLIN_MSL
  msl::on_lowering(print_notice);
#endif
  CLI::App app{"Quantized language models: quantize, inspect, evaluate, generate."};
  app.name("metal-marlin");
  app.set_version_flag("--version", version());
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  metal-marlin quantize Qwen3-4B -o Qwen3-4B-fp4 --format fp4\n"
      "  metal-marlin generate Qwen3-4B-fp4 -p 'Once upon a time' -n 64\n"
      "  metal-marlin chat Qwen/Qwen3-4B --format fp4\n"
      "Exit codes: 0 done, 1 the answer is no, 2 wrong argument, 3 something is missing, 4 corrupt file, 5 not "
      "supported,\n"
      "  6 the system refused a read or write, 7 not enough memory, 8 or 130 cancelled, 9 internal error.");
  add_quantize(app);
  add_generate(app);
  add_chat(app);
  add_tokenize(app);
  add_render(app);
  add_grammar(app);
  add_logits(app);
#if METAL_MARLIN_SERVER
  add_embed(app);
  add_serve(app);
#else
  add_missing(app, "serve", "Boost and prometheus-cpp");
#endif
  add_inspect(app);
  add_eval(app);
  add_compare(app);
#if METAL_MARLIN_PULL
  add_pull(app);
#else
  add_missing(app, "pull", "libcurl and OpenSSL");
#endif
  add_models(app);
  add_status(app);
#if METAL_MARLIN_MSL
  add_shaders(app);
  add_tune(app);
#else
  add_missing(app, "tune", "Metal shaders (METAL_MARLIN_MSL_HOST, METAL_MARLIN_CUDA)");
  add_missing(app, "shaders", "Metal shaders (METAL_MARLIN_MSL_HOST, METAL_MARLIN_CUDA)");
#endif
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& error) {  // a command's own answer
    return error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ErrorCode::kInvalidArgument);
  }
  return interrupted() ? kInterruptedCode : 0;
}

namespace {

// Says what ended the program, without asking for memory; its exit code.
int report(std::string_view message, ErrorCode code) {
  write_error("error: ");
  write_error(message);
  write_error("\n");
  return static_cast<int>(code);
}

int report(const std::system_error& error) {
  const bool printing = std::ferror(stdout) != 0;
  if (!printing && error.code() == std::errc::resource_unavailable_try_again) {  // what std::thread throws
    return report(fmt::format("the system starts no more threads: {}", error.code().message()),
                  ErrorCode::kOutOfMemory);
  }
  return report(
      printing ? fmt::format("standard output: cannot write: {}", error.code().message()) : printable(error.what()),
      printing ? ErrorCode::kIo : code_of_errno(error.code().value()));
}

std::terminate_handler default_terminate = nullptr;

// Exceptions take memory themselves: where there is none to throw one in, the program ends here.
void on_terminate() {
  void* volatile const probe = std::malloc(1024);  // more than any; volatile, or compilers take it for granted
  if (probe != nullptr) default_terminate();
  std::_Exit(report("out of memory", ErrorCode::kOutOfMemory));
}

void handle_terminate() {
  default_terminate = std::set_terminate(on_terminate);
}
#if defined(__ELF__)
// Before main() and the constructors of the libraries, some of which ask for memory.
[[gnu::section(".preinit_array"), gnu::used]] void (*const first_of_all)() = handle_terminate;
#endif

}  // namespace

// run(), with every failure a message and an exit code.
int run_and_report(int argc, char** argv) {
  try {
    const int code = run(argc, argv);
    flush_output();
    return code;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kCancelled || !interrupted()) return report(printable(error.what()), error.code());
    write_error("\ninterrupted\n");
    return kInterruptedCode;
  } catch (const std::bad_alloc&) {
    return report("out of memory", ErrorCode::kOutOfMemory);
  } catch (const std::length_error&) {  // more elements than there are addresses
    return report("out of memory", ErrorCode::kOutOfMemory);
  } catch (const std::system_error& error) {
    return report(error);
  } catch (const std::exception& error) {
    return report(printable(fmt::format("internal: {}", error.what())), ErrorCode::kInternal);
  }
}

}  // namespace metal_marlin::cli

int main(int argc, char** argv) {
#if !defined(__ELF__)
  metal_marlin::cli::handle_terminate();
#endif
  metal_marlin::cli::prepare_streams();
  metal_marlin::cli::handle_interrupts();
  return metal_marlin::cli::run_and_report(argc, argv);
}
