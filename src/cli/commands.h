// The subcommands of metal-marlin.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "metal_marlin/evaluate.h"
#include "metal_marlin/model.h"
#include "metal_marlin/quantize.h"

namespace metal_marlin::cli {

// Each adds its subcommand with a callback that runs it.
void add_quantize(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_render(CLI::App& app);
void add_logits(CLI::App& app);
void add_embed(CLI::App& app);
void add_serve(CLI::App& app);
void add_grammar(CLI::App& app);
void add_inspect(CLI::App& app);
void add_eval(CLI::App& app);
void add_compare(CLI::App& app);
void add_pull(CLI::App& app);
void add_models(CLI::App& app);
void add_status(CLI::App& app);
void add_shaders(CLI::App& app);
void add_tune(CLI::App& app);

// Options that every command which loads a model has.
struct ModelFlags {
  std::string path;
  LoadOptions load;
  std::string lora;  // PATH or PATH:SCALE of an adapter, which is called so; empty: none
  void add(CLI::App& command);
  void add_load(CLI::App& command);  // those of how it is loaded alone
  void add_lora(CLI::App& command);
  // Loads the model at `path`, or at `other`, with a progress bar.
  [[nodiscard]] std::shared_ptr<const Model> load_model(const std::string& other = {}) const;
};

// quantize(), with notices and a progress bar.
QuantizeReport quantize_with_progress(const std::filesystem::path& source, const std::filesystem::path& destination,
                                      QuantizeOptions options);

// PATH or PATH:SCALE of an adapter. \throws Error (kInvalidArgument).
AdapterOptions parse_adapter(const std::string& text);

// Prints a notice to the standard error.
void print_notice(const std::string& text);

// An option that may be given several times, each time with one value: it takes none of the arguments after it.
CLI::Option* add_list(CLI::App& command, const std::string& name, std::vector<std::string>& values,
                      const std::string& what);

// A notice where a prompt, and what may follow it, is longer than the model's context.
void notice_context(const ModelInfo& model, std::size_t prompt, std::size_t more);

// The tokens of a text to evaluate on, the first `most` of them (0: all), and how its windows begin.
std::vector<TokenId> evaluation_tokens(const Tokenizer& tokenizer, const std::string& path, std::size_t most,
                                       EvaluateOptions& options);
// A JSON list of token ids.
std::vector<TokenId> read_ids(const std::string& path);

}  // namespace metal_marlin::cli
