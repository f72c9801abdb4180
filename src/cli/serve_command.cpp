#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <thread>

#include "base/printable.h"
#include "cli/chat_flags.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/model_source.h"
#include "cli/progress_bar.h"
#include "cli/speculation_flags.h"
#include "cli/streams.h"
#include "metal_marlin/embed.h"
#include "metal_marlin/error.h"
#include "server/json_text.h"
#include "server/server.h"
#include "server/tools.h"

namespace metal_marlin::cli {
namespace {

struct ServeFlags {
  ModelFlags model;
  SourceFlags source;
  std::vector<std::string> paths;
  std::vector<std::string> names;
  std::vector<std::string> aliases;  // NAME=MODEL
  std::vector<std::string> pinned;
  double idle_unload = 0;
  double load_wait = 60;
  server::ModelLimits limits;
  std::vector<std::string> adapters;  // [MODEL:]NAME=PATH, or [MODEL:]NAME=PATH:SCALE
  std::string template_file;
  std::string template_name;
  EngineOptions engine;
  SpeculationFlags speculation;
  bool no_prefix_cache = false;
  double swap_space = 0;  // GiB
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
    const bool is_named = i < flags.names.size() && !flags.names[i].empty();
    const std::string& name = is_named ? flags.names[i] : sources[i].name;
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("two models are called {}; --served-name and --alias give them others", name));
    }
    names.push_back(name);
  }
  return names;
}

// Models of --alias come behind those that are named without it.
void take_aliases(ServeFlags& flags) {
  if (flags.aliases.empty()) return;
  flags.names.resize(flags.paths.size());
  for (const std::string& alias : flags.aliases) {
    const std::size_t at = alias.find('=');
    if (at == alias.npos || at == 0 || at + 1 == alias.size())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("--alias {}: expected NAME=MODEL", alias));
    flags.names.push_back(alias.substr(0, at));
    flags.paths.push_back(alias.substr(at + 1));
  }
}

// What makes the model's vectors; none where its files ask for what is not there.
std::shared_ptr<Embedder> make_embedder(const std::shared_ptr<const Model>& model, const std::string& path,
                                        server::ServedModel& served) {
  try {
    served.embedding = read_embedding_config(path);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    print_notice(fmt::format("{}; it gives no vectors", error.what()));
    return nullptr;
  }
  EmbedderOptions options;
  options.context = served.engine->plan().context;
  options.others_wait = [engine = served.engine.get()] { return engine->stats().running > 0; };
  return std::make_shared<Embedder>(model, options);
}

server::ServedModel load_served(const ServeFlags& flags, const std::string& name, const std::string& path,
                                const std::vector<AdapterOptions>& adapters, const std::function<bool()>& goes_on,
                                const EngineOptions& share) {
  server::ServedModel served;
  served.name = name;
  served.chat = load_template(flags, path);
  ProgressBar bar("load " + name, "B");
  LoadOptions load = flags.model.load;
  load.adapters = adapters;
  load.prediction = flags.speculation.want_prediction();
  load.progress = [&](std::size_t done, std::size_t total) {
    bar.update(static_cast<double>(done), static_cast<double>(total));
    return goes_on() && !interrupted();
  };
  const std::shared_ptr<const Model> model = Model::load(path, load);
  served.tokenizer = model->tokenizer();
  server::learn_template(served);
  EngineOptions options = flags.engine;
  options.memory_reserved = share.memory_reserved;
  options.memory_share = share.memory_share;
  options.speculation = flags.speculation.of_model(options.speculation, *model);
  served.engine = std::make_shared<Engine>(model, options);
  served.embedder = make_embedder(model, path, served);
  return served;
}

// Of the files that hold its weights.
std::size_t weight_bytes(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::is_directory(path)) {
    const auto size = std::filesystem::file_size(path, failed);
    return failed ? 0 : size;
  }
  std::size_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(path, failed)) {
    if (entry.path().extension() == ".safetensors") bytes += entry.file_size(failed);
  }
  return bytes;
}

// Adds an adapter of --lora to those of its model, which is named where there are several.
void take_adapter(const std::string& text, const std::vector<std::string>& models,
                  std::vector<std::vector<AdapterOptions>>& adapters) {
  const std::string key = text.substr(0, text.find('='));
  const std::size_t colon = key.rfind(':');
  const auto model = std::find(models.begin(), models.end(), colon == key.npos ? "" : key.substr(0, colon));
  if (model == models.end() && models.size() > 1) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--lora {}: of several models it takes MODEL:NAME=PATH; there is {}", text,
                            fmt::join(models, ", ")));
  }
  const std::string name = model == models.end() ? key : key.substr(colon + 1);
  if (key.size() == text.size() || name.empty())
    throw Error(ErrorCode::kInvalidArgument, fmt::format("--lora {}: expected NAME=PATH", text));
  const auto is_called_so = [&](const AdapterOptions& other) { return other.name == name; };
  const auto has_one = [&](const auto& those) { return std::any_of(those.begin(), those.end(), is_called_so); };
  if (std::find(models.begin(), models.end(), name) != models.end() ||
      std::any_of(adapters.begin(), adapters.end(), has_one)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--lora {}: another model or adapter is called {} already", text, name));
  }
  AdapterOptions adapter = parse_adapter(text.substr(key.size() + 1));
  adapter.name = name;
  if (!std::filesystem::exists(adapter.path))
    throw Error(ErrorCode::kNotFound, fmt::format("--lora {}: no such folder", text));
  adapters[model == models.end() ? 0 : static_cast<std::size_t>(model - models.begin())].push_back(std::move(adapter));
}

std::vector<server::ModelEntry> model_entries(const ServeFlags& flags, const std::vector<ModelSource>& sources) {
  const std::vector<std::string> names = served_names(flags, sources);
  for (const std::string& name : flags.pinned) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--pin {}: no model is called so; there is {}", name, fmt::join(names, ", ")));
    }
  }
  if (flags.limits.max_loaded > 0 && static_cast<int>(flags.pinned.size()) > flags.limits.max_loaded) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("--max-loaded is {}, but {} models are pinned",
                                                         flags.limits.max_loaded, flags.pinned.size()));
  }
  std::vector<std::vector<AdapterOptions>> adapters(names.size());
  for (const std::string& text : flags.adapters) take_adapter(text, names, adapters);
  std::vector<server::ModelEntry> entries;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    server::ModelEntry entry;
    entry.name = names[i];
    entry.weight_bytes = weight_bytes(sources[i].path);
    for (const AdapterOptions& adapter : adapters[i]) {
      entry.adapters.push_back(adapter.name);
      entry.weight_bytes += weight_bytes(adapter.path);
    }
    entry.load = [&flags, name = names[i], path = sources[i].path.string(), those = std::move(adapters[i])](
                     const std::function<bool()>& goes_on, const EngineOptions& share) {
      return load_served(flags, name, path, those, goes_on, share);
    };
    entry.preload = sources.size() == 1;
    entry.pinned = std::find(flags.pinned.begin(), flags.pinned.end(), names[i]) != flags.pinned.end();
    entries.push_back(std::move(entry));
  }
  return entries;
}

// The name as JSON that stays whole between a shell's single quotes, in ASCII.
std::string quoted_name(const std::string& name) {
  std::string text = OrderedJson(name).dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  for (std::size_t at = text.find('\''); at != text.npos; at = text.find('\'', at)) text.replace(at, 1, "\\u0027");
  return text;
}

std::string example(const ServeFlags& flags, const std::string& url, const std::string& model, bool chats) {
  const bool keys = !flags.server.guard.api_keys.empty() || !flags.server.guard.api_key_file.empty();
  const std::string what =
      chats ? R"("messages": [{"role": "user", "content": "What is 2 + 2?"}])" : R"("prompt": "Once upon a time")";
  return fmt::format(
      "curl {}/v1/{} -H 'Content-Type: application/json'{} -d '{{\"model\": {}, {}, \"max_tokens\": 64, "
      "\"temperature\": 0}}'",
      url, chats ? "chat/completions" : "completions", keys ? " -H 'Authorization: Bearer KEY'" : "",
      quoted_name(model), what);
}

std::string model_lines(const server::Models& models) {
  std::string lines;
  const server::ModelLeases loaded = models.loaded();
  for (const server::ModelStatus& status : models.all()) {
    if (!status.parent.empty()) {
      lines += fmt::format("adapter {} of {}\n", printable_line(status.name), printable_line(status.parent));
      continue;
    }
    const auto found = std::find_if(loaded.begin(), loaded.end(),
                                    [&](const server::ModelLease& model) { return model->name == status.name; });
    lines += fmt::format("model {}: {}\n", printable_line(status.name),
                         found == loaded.end() ? "is loaded when it is asked for" : (*found)->engine->plan().text());
  }
  return lines;
}

// The first model's, loaded or not.
bool has_template(const ServeFlags& flags, const server::Models& models, const ModelSource& first) {
  const server::ModelLeases loaded = models.loaded();
  if (models.all().front().state == std::string_view("loaded")) return loaded.front()->chat != nullptr;
  return load_template(flags, first.path.string()) != nullptr;
}

void check(const ServeFlags& flags) {
  if (flags.paths.empty()) throw Error(ErrorCode::kInvalidArgument, "serve: no model is named");
  if (flags.names.size() > flags.paths.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--served-name: {} names for {} models", flags.names.size(), flags.paths.size()));
  }
  if (!flags.server.slot_folder.empty() && flags.no_prefix_cache) {
    throw Error(ErrorCode::kInvalidArgument,
                "--slot-save-path: it is the prefix cache that is saved, and --no-prefix-cache leaves none");
  }
  if (flags.server.http.tls_certificate.empty() != flags.server.http.tls_key.empty()) {
    throw Error(ErrorCode::kInvalidArgument, "--tls-certificate and --tls-key go together");
  }
}

void run_serve(ServeFlags& flags) {
  take_aliases(flags);
  check(flags);
  flags.limits.idle_unload = milliseconds(flags.idle_unload);
  flags.limits.load_wait = milliseconds(flags.load_wait);
  flags.engine.prefix_cache = !flags.no_prefix_cache;
  flags.engine.swap_bytes = static_cast<std::size_t>(flags.swap_space * (1 << 30));
  flags.server.http.read_timeout = milliseconds(flags.read_timeout);
  flags.server.http.write_timeout = milliseconds(flags.write_timeout);
  if (const char* const keys = std::getenv("METAL_MARLIN_API_KEY")) flags.server.guard.api_keys = keys;
  std::vector<ModelSource> sources, drafts;  // which keep the models in the cache
  server::Server running(flags.server);
  for (const std::string& path : flags.paths)
    sources.push_back(find_model(path, flags.source, flags.model.load.threads));
  std::vector<server::ModelEntry> entries = model_entries(flags, sources);
  flags.engine.speculation = flags.speculation.options([&](const std::string& draft) {
    drafts.push_back(find_model(draft, flags.source, flags.model.load.threads));
    return flags.model.load_model(drafts.back().path.string());
  });
  const std::string first = entries.front().name;
  const server::HttpOptions& http = flags.server.http;
  running.start(std::move(entries), flags.limits);
  const bool numbers = http.host.find(':') != http.host.npos;
  const std::string url = fmt::format("{}://{}:{}", http.tls_certificate.empty() ? "http" : "https",
                                      numbers ? fmt::format("[{}]", http.host) : http.host, running.port());
  fmt::print("{}listening on {}\ntry: {}\n", model_lines(running.models()), url,
             example(flags, url, first, has_template(flags, running.models(), sources.front())));
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
                  "for others; 0: these are computed again")
      ->check(CLI::Range(0.0, 65536.0))
      ->capture_default_str();
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
  command.add_option("--slot-save-path", options.slot_folder,
                     "folder that POST /slots/ID?action=save writes conversations to, and restore reads them from");
  command.add_flag("--keep-billing-line", options.keep_billing_line,
                   "leave x-anthropic-billing-header lines in system prompts of /v1/messages, which keep prompts from "
                   "being found in the cache");
}

}  // namespace

void add_serve(CLI::App& app) {
  auto* const command = app.add_subcommand("serve", "Serve models by OpenAI's API and Anthropic's over HTTP");
  auto flags = std::make_shared<ServeFlags>();
  command->add_option("models", flags->paths, kModelHelp);
  flags->source.add(*command);
  add_list(*command, "--served-name", flags->names,
           "what requests call a model, in the order of models; default: ORG/NAME, or its folder's name");
  add_list(*command, "--alias", flags->aliases, "NAME=MODEL: one more model, and what requests call it; repeatable");
  add_list(*command, "--lora", flags->adapters,
           "NAME=PATH of a LoRA adapter that PEFT saved, which requests choose as their model; PATH:0.5 halves it; of "
           "several models MODEL:NAME=PATH; repeatable");
  add_list(*command, "--pin", flags->pinned, "name of a model that is loaded at the start and stays; repeatable");
  command
      ->add_option("--idle-unload", flags->idle_unload,
                   "seconds without a request after which a model is unloaded; 0: never")
      ->check(CLI::Range(0.0, 1e7));
  command
      ->add_option("--max-loaded", flags->limits.max_loaded,
                   "most models that are loaded; the one that was not used for longest goes for another; 0: all")
      ->check(CLI::Range(0, 1024));
  command->add_option("--load-wait", flags->load_wait, "seconds that a request waits for its model; then it gets 503")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  command->add_option("--chat-template", flags->template_file, "file with a chat template, instead of the models'");
  command->add_option("--template-name", flags->template_name, "which of a model's templates");
  flags->model.add_load(*command);
  add_access(*command, *flags);
  add_limits(*command, *flags);
  command->footer(
      "Examples:\n  metal-marlin serve Qwen/Qwen3-4B --format fp4 --port 8000\n"
      "  metal-marlin serve --alias large=Qwen3-4B-fp4 --alias small=Qwen3-0.6B-fp4 --pin small --idle-unload 600\n"
      "Of several models each is loaded when a request names it.\n"
      "SIGTERM and Ctrl-C end it when open requests were answered. docs/server.md tells the rest.\n"
      "Exit codes: 0 ended by a signal, 2 wrong argument, 3 no such model or file, 6 the port is taken or may not be\n"
      "  listened on, or a file cannot be written, 8 requests were open at the end of --drain, 130 a second signal.");
  command->callback([flags] { run_serve(*flags); });
}

}  // namespace metal_marlin::cli
