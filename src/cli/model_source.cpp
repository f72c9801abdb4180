#include "cli/model_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <span>

#include "base/hash.h"
#include "cli/commands.h"
#include "cli/interrupts.h"
#include "cli/model_cache.h"
#include "formats/spec_text.h"
#include "io/model_folder.h"
#include "io/text_file.h"
#include "metal_marlin/error.h"
#include "quantize/recipe.h"
#if METAL_MARLIN_PULL
#include "cli/pull.h"
#endif

namespace metal_marlin::cli {
namespace {

// The folder of a model, or the GGUF file that it is.
std::filesystem::path loadable(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "config.json")) return folder;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".gguf") return first_part(entry.path());
  }
  return folder;  // loading says what it lacks
}

// Waits for a lock, and tells once whom for.
FileLock take_lock(const ModelCache& cache, const std::string& name, FileLock::Kind kind) {
  constexpr int kTold = 10;  // others may be looking only
  int calls = 0;
  return FileLock::take(cache.lock_file(name), kind, [&] {
    if (++calls == kTold) print_notice(fmt::format("{}: waiting for another process that makes or uses it", name));
    if (interrupted()) throw Error(ErrorCode::kCancelled, "cancelled");
  });
}

// A model of the cache, which is made if it is not there whole.
ModelSource hold(const ModelCache& cache, const std::string& name, const std::function<void()>& make) {
  const std::string repository = name.substr(0, name.find('@'));
  for (;;) {
    {
      FileLock lock = take_lock(cache, name, FileLock::Kind::kShared);
      if (cache.is_complete(name)) {
        lock.touch();
        return {loadable(cache.folder(name)), repository, std::move(lock)};
      }
    }
    const FileLock lock = take_lock(cache, name, FileLock::Kind::kExclusive);
    if (cache.is_complete(name)) continue;  // by another process, meanwhile
    make();
    cache.mark_complete(name);
  }
}

void fetch(const std::string& name, const std::filesystem::path& folder) {
#if METAL_MARLIN_PULL
  try {
    PullRequest request;
    request.repository = name;
    request.destination = folder;
    pull(request);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound) throw;
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no such file or folder here; {}", name, error.what()));
  }
#else
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: not in {}, and this program, which is built without libcurl and "
                          "OpenSSL, cannot fetch it",
                          name, folder.string()));
#endif
}

// "fp4"; of a recipe its name and its text's hash, so that one that is changed is another.
std::string variant(const SourceFlags& flags) {
  if (flags.recipe.empty()) {
    parse_spec({flags.format});
    return flags.format;
  }
  load_recipe(flags.recipe);
  const auto built_in = builtin_recipes();
  const auto found = std::find_if(built_in.begin(), built_in.end(),
                                  [&](const BuiltinRecipe& recipe) { return recipe.name == flags.recipe; });
  const std::string text = found == built_in.end() ? read_text_file(flags.recipe) : std::string(found->text);
  std::string name = "recipe-";
  for (const char c : std::filesystem::path(flags.recipe).stem().string())
    name +=
        std::string_view("_.-").find(c) != std::string_view::npos || std::isalnum(static_cast<unsigned char>(c)) != 0
            ? c
            : '_';
  return fmt::format("{}-{:016x}", name, hash_of(std::as_bytes(std::span(text))));
}

void quantize_into(const std::filesystem::path& folder, const ModelSource& source, const SourceFlags& flags,
                   int threads) {
  QuantizeOptions options;
  options.recipe = flags.recipe;
  if (!flags.format.empty()) options.spec = parse_spec({flags.format});
  options.threads = threads;
  options.overwrite = true;  // what is there is not whole
  quantize_with_progress(source.path, folder, options);
}

}  // namespace

void SourceFlags::add(CLI::App& command) {
  auto* const by_format =
      command.add_option("--format", format, "of a hub's ORG/NAME: quantize it to this format, once; as of quantize");
  command.add_option("--recipe", recipe, "of a hub's ORG/NAME: the same by a recipe")->excludes(by_format);
}

ModelSource find_model(const std::string& model, const SourceFlags& flags, int threads) {
  if (std::filesystem::exists(model)) {
    if (flags.given()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("--{}: {} is here already; `metal-marlin quantize` writes it in another format",
                              flags.format.empty() ? "recipe" : "format", model));
    }
    const std::filesystem::path whole = std::filesystem::absolute(model).lexically_normal();
    return {model, (whole.has_filename() ? whole : whole.parent_path()).filename().string(), std::nullopt};
  }
  if (!is_repository(model)) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no such file or folder, and not ORG/NAME of a model on a hub", model));
  }
  const ModelCache cache;
  if (!flags.given()) return hold(cache, model, [&] { fetch(model, cache.folder(model)); });
  const std::string name = fmt::format("{}@{}", model, variant(flags));
  return hold(cache, name, [&] {
    const ModelSource source = find_model(model, {}, threads);
    quantize_into(cache.folder(name), source, flags, threads);
  });
}

}  // namespace metal_marlin::cli
