#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/commands.h"
#include "cli/model_cache.h"
#include "cli/streams.h"
#include "cli/table.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cli {
namespace {

struct ModelsFlags {
  bool json = false;
  std::vector<std::string> removed;
  bool yes = false;
};

void list_models(const ModelsFlags& flags) {
  const std::vector<CachedModel> models = ModelCache().models();
  if (flags.json) {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const CachedModel& model : models) {
      nlohmann::ordered_json used;
      if (model.last_used) used = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(*model.last_used));
      out.push_back({{"name", model.name},
                     {"format", model.format},
                     {"path", model.folder.string()},
                     {"bytes", model.bytes},
                     {"last_used", used},
                     {"complete", model.complete},
                     {"in_use", model.in_use}});
    }
    fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  std::vector<std::vector<std::string>> rows{{"model", "format", "size#", "last used", "state"}};
  for (const CachedModel& model : models) {
    const auto used = model.last_used ? std::chrono::system_clock::to_time_t(*model.last_used) : 0;
    rows.push_back({model.name, model.format.empty() ? "as published" : model.format, byte_text(model.bytes),
                    model.last_used ? fmt::format("{:%Y-%m-%d %H:%M}", fmt::localtime(used)) : "",
                    fmt::format("{}{}", model.complete ? "complete" : "not complete", model.in_use ? ", in use" : "")});
  }
  if (models.empty()) {
    fmt::print("no models; `metal-marlin chat ORG/NAME` fetches one\n");
  } else {
    fmt::print("{}", render_table(std::move(rows)));
  }
}

// On a terminal; elsewhere nobody can answer.
bool is_agreed(const std::vector<std::string>& names, std::uintmax_t bytes) {
  if (isatty(STDIN_FILENO) == 0)
    throw Error(ErrorCode::kInvalidArgument, "remove: nobody can be asked; --yes is needed");
  fmt::print("remove {} ({})? [y/N] ", fmt::join(names, ", "), byte_text(bytes));
  flush_output();
  const int answer = std::getchar();
  return answer == 'y' || answer == 'Y';
}

void remove_models(const ModelsFlags& flags) {
  const ModelCache cache;
  std::uintmax_t bytes = 0;
  const std::vector<CachedModel> models = cache.models();
  for (const std::string& name : flags.removed) {
    cache.check_removable(name);
    for (const CachedModel& model : models) bytes += model.name == name ? model.bytes : 0;
  }
  if (!flags.yes && !is_agreed(flags.removed, bytes)) throw Error(ErrorCode::kCancelled, "nothing was removed");
  for (const std::string& name : flags.removed) {
    cache.remove(name);
    fmt::print("removed {}\n", name);
  }
}

}  // namespace

void add_models(CLI::App& app) {
  auto* const command = app.add_subcommand("models", "List and remove the models of hubs that were fetched");
  auto flags = std::make_shared<ModelsFlags>();
  command->add_flag("--json", flags->json, "print JSON");
  command->require_subcommand(0, 1);
  auto* const remove = command->add_subcommand("remove", "Remove models, or what they were quantized to");
  remove->add_option("names", flags->removed, "as the list has them: ORG/NAME or ORG/NAME@FORMAT")->required();
  remove->add_flag("--yes", flags->yes, "do not ask");
  const std::string footer =
      "They lie in models/ in METAL_MARLIN_CACHE, else in metal-marlin/ in XDG_CACHE_HOME or ~/.cache.\n"
      "Examples:\n  metal-marlin models\n  metal-marlin models remove Qwen/Qwen3-4B Qwen/Qwen3-4B@fp4";
  command->footer(footer);
  remove->footer(footer);
  command->callback([flags, remove] {
    if (remove->parsed()) {
      std::sort(flags->removed.begin(), flags->removed.end());
      flags->removed.erase(std::unique(flags->removed.begin(), flags->removed.end()), flags->removed.end());
      remove_models(*flags);
    } else {
      list_models(*flags);
    }
  });
}

}  // namespace metal_marlin::cli
