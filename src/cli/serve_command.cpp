#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>

#include "cli/chat_flags.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/model_source.h"
#include "cli/speculation_flags.h"
#include "cli/streams.h"
#include "metal_marlin/error.h"
#include "server/server.h"
#include "server/tools.h"

namespace metal_marlin::cli {
namespace {

struct ServeFlags {
  ModelFlags model;
  SourceFlags source;
  std::vector<std::string> paths;
  std::vector<std::string> names;
  std::string template_file;
  std::string template_name;
  EngineOptions engine;
  SpeculationFlags speculation;
  bool no_prefix_cache = false;
  std::optional<double> swap_space;  // GiB
  server::ServerOptions server;
  double read_timeout = 20;
  double write_timeout = 30;
  double drain = 30;
};

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

// The template of --chat-template, or the model's; none where it has none.
std::shared_ptr<const ChatTemplate> load_template(const ServeFlags& flags, const std::string& path) {
  ChatFlags chat;
  chat.template_file = flags.template_file;
  chat.template_name = flags.template_name;
  try {
    return chat.load(path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound || chat.given()) throw;
    print_notice(fmt::format("{}; /v1/chat/completions needs one", error.what()));
    return nullptr;
  }
}

// What requests call the models. \throws Error when it is the same for two.
std::vector<std::string> served_names(const ServeFlags& flags, const std::vector<ModelSource>& sources) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::string& name = i < flags.names.size() ? flags.names[i] : sources[i].name;
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("two models are called {}; --served-name gives them others", name));
    }
    names.push_back(name);
  }
  return names;
}

server::ServedModel load_served(ServeFlags& flags, const std::string& name, const ModelSource& source) {
  server::ServedModel served;
  flags.model.path = source.path.string();
  served.name = name;
  served.chat = load_template(flags, flags.model.path);
  const auto model = flags.model.load_model();
  served.tokenizer = model->tokenizer();
  server::learn_template(served);
  served.engine = std::make_unique<Engine>(model, flags.engine);
  return served;
}

std::string example(const ServeFlags& flags, const std::string& url, const server::ServedModel& model) {
  const bool keys = !flags.server.guard.api_keys.empty() || !flags.server.guard.api_key_file.empty();
  const std::string what =
      model.chat ? R"("messages": [{"role": "user", "content": "What is 2 + 2?"}])" : R"("prompt": "Once upon a time")";
  return fmt::format(
      "curl {}/v1/{} -H 'Content-Type: application/json'{} -d '{{\"model\": \"{}\", {}, \"max_tokens\": 64, "
      "\"temperature\": 0}}'",
      url, model.chat ? "chat/completions" : "completions", keys ? " -H 'Authorization: Bearer KEY'" : "", model.name,
      what);
}

void check(const ServeFlags& flags) {
  if (flags.names.size() > flags.paths.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--served-name: {} names for {} models", flags.names.size(), flags.paths.size()));
  }
  if (flags.server.http.tls_certificate.empty() != flags.server.http.tls_key.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--tls-certificate and --tls-key go together");
  }
}

void run_serve(ServeFlags& flags) {
  check(flags);
  flags.engine.prefix_cache = !flags.no_prefix_cache;
  if (flags.swap_space) flags.engine.swap_bytes = static_cast<std::size_t>(*flags.swap_space * (1 << 30));
  flags.server.http.read_timeout = milliseconds(flags.read_timeout);
  flags.server.http.write_timeout = milliseconds(flags.write_timeout);
  if (const char* const keys = std::getenv("METAL_MARLIN_API_KEY")) flags.server.guard.api_keys = keys;
  std::vector<ModelSource> sources, drafts;  // which keep the models in the cache
  server::Server running(flags.server);
  for (const std::string& path : flags.paths)
    sources.push_back(find_model(path, flags.source, flags.model.load.threads));
  const std::vector<std::string> names = served_names(flags, sources);
  std::vector<server::ServedModel> models;
  flags.engine.speculation = flags.speculation.options([&](const std::string& draft) {
    drafts.push_back(find_model(draft, flags.source, flags.model.load.threads));
    return flags.model.load_model(drafts.back().path.string());
  });
  for (std::size_t i = 0; i < sources.size(); ++i) models.push_back(load_served(flags, names[i], sources[i]));
  std::string lines;
  for (const server::ServedModel& model : models) {
    lines += fmt::format("model {}: {}\n", model.name, model.engine->plan().text());
  }
  const server::HttpOptions& http = flags.server.http;
  running.start(std::move(models));
  const bool numbers = http.host.find(':') != http.host.npos;
  const std::string url = fmt::format("{}://{}:{}", http.tls_certificate.empty() ? "http" : "https",
                                      numbers ? fmt::format("[{}]", http.host) : http.host, running.port());
  fmt::print("{}listening on {}\ntry: {}\n", lines, url, example(flags, url, running.models().front()));
  flush_output();
  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  print_error("shutting down: open requests have {} seconds; a second signal ends them at once\n", flags.drain);
  const bool whole = running.drain(milliseconds(flags.drain));
  forget_interrupt();
  if (!whole) throw Error(ErrorCode::kCancelled, "requests were open at the end of --drain, and were ended");
}

void add_limits(CLI::App& command, ServeFlags& flags) {
  server::HttpOptions& http = flags.server.http;
  command
      .add_option("--context", flags.engine.context,
                  "most tokens of a request and its answer; 0: what the model and memory have")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  command.add_option("--parallel", flags.engine.parallel, "most sequences in a step; 0: what memory is good for")
      ->check(CLI::Range(0, 1024));
  command
      .add_option("--cache-tokens", flags.engine.cache_tokens, "most tokens in the cache; 0: what fits in free memory")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  command
      .add_option("--swap-space", flags.swap_space,
                  "GiB of this machine's memory, for each model on a GPU, that pages of requests go to which make room "
                  "for others; 0: these are computed again; default: 4, or half of what is free")
      ->check(CLI::Range(0.0, 65536.0));
  command.add_option("--step-tokens", flags.engine.step_tokens, "most tokens in a step")->capture_default_str();
  command.add_option("--queue", flags.engine.queue, "most requests that wait; more get status 429")
      ->capture_default_str();
  flags.speculation.add(command);
  command.add_flag("--no-prefix-cache", flags.no_prefix_cache, "do not keep prompts for those that begin alike");
  command.add_option("--max-body", http.max_body, "most bytes of a request")->capture_default_str();
  command.add_option("--max-connections", http.max_connections, "most connections")->capture_default_str();
  command.add_option("--max-connections-per-address", http.max_connections_per_address, "of one address; 0: no limit")
      ->capture_default_str();
  command.add_option("--read-timeout", flags.read_timeout, "seconds in which a request must have come")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  command
      .add_option("--write-timeout", flags.write_timeout, "seconds after which a client that takes nothing is dropped")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  command.add_option("--drain", flags.drain, "seconds that open requests have after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
}

void add_access(CLI::App& command, ServeFlags& flags) {
  server::ServerOptions& options = flags.server;
  command.add_option("--host", options.http.host, "address to listen on; 0.0.0.0: all")->capture_default_str();
  command.add_option("--port", options.http.port, "port; 0: one that is free")->capture_default_str();
  command.add_option("--api-key-file", options.guard.api_key_file,
                     "file with API keys, one a line, read again when it changes; the environment's "
                     "METAL_MARLIN_API_KEY has keys too, parted by commas");
  add_list(command, "--cors-origin", options.guard.cors_origins, "origin whose pages may ask, or *; repeatable");
  add_list(command, "--allowed-host", options.guard.hosts,
           "name that a Host header may have on loopback, beside this machine's; repeatable");
  command.add_option("--tls-certificate", options.http.tls_certificate,
                     "PEM file with a chain of certificates: serve HTTPS");
  command.add_option("--tls-key", options.http.tls_key, "PEM file with its key");
  command.add_option("--log-file", options.log_file, "file for a line of JSON a request; default: the standard error");
  command.add_flag("--log-prompts", options.log_prompts, "log prompts too");
}

}  // namespace

void add_serve(CLI::App& app) {
  auto* const command = app.add_subcommand("serve", "Serve models by OpenAI's API over HTTP");
  auto flags = std::make_shared<ServeFlags>();
  command->add_option("models", flags->paths, kModelHelp)->required();
  flags->source.add(*command);
  add_list(*command, "--served-name", flags->names,
           "what requests call a model, in the order of models; default: ORG/NAME, or its folder's name");
  command->add_option("--chat-template", flags->template_file, "file with a chat template, instead of the models'");
  command->add_option("--template-name", flags->template_name, "which of a model's templates");
  flags->model.add_load(*command);
  add_access(*command, *flags);
  add_limits(*command, *flags);
  command->footer(
      "Example:\n  metal-marlin serve Qwen/Qwen3-4B --format fp4 --port 8000\n"
      "SIGTERM and Ctrl-C end it when open requests were answered. docs/server.md tells the rest.\n"
      "Exit codes: 0 ended by a signal, 2 wrong argument, 3 no such model or file, 6 the port is taken or may not be\n"
      "  listened on, or a file cannot be written, 8 requests were open at the end of --drain, 130 a second signal.");
  command->callback([flags] { run_serve(*flags); });
}

}  // namespace metal_marlin::cli
