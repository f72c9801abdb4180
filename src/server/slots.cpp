// The slots of engines: what runs in them, and conversations that go to files and come back.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/parse_number.h"
#include "base/seconds_since.h"
#include "metal_marlin/sequence_file.h"
#include "server/fields.h"
#include "server/openapi_schemas.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

constexpr std::size_t kMostNameBytes = 128;
// Words with single points between them: nothing that leads out of the folder, hides in it or ends a line.
constexpr const char* kNamePattern = "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$";
constexpr std::string_view kPartial = ".partial";  // what files are called that are being written

// What stands behind the path; nullptr: nothing. \throws ApiError (400) for a parameter that is not known.
const std::string* query_value(const Call& call, std::string_view name) {
  const std::string* value = nullptr;
  for (const auto& [key, text] : call.request().query) {
    if (key != name) throw ApiError(400, fmt::format("{}: there is no such parameter", key), key);
    value = &text;
  }
  return value;
}

const char* state_of(const EngineSlot& slot) {
  if (!slot.is_running) return "idle";
  return slot.generated_tokens > 0 ? "generating" : "prompt";
}

OrderedJson describe_slot(const ServedModel& model, const EngineSlot& slot, const std::string& owner) {
  const bool is_used = slot.since != std::chrono::steady_clock::time_point();
  return {{"id", slot.id},
          {"model", model.name},
          {"adapter", slot.adapter.empty() ? OrderedJson() : OrderedJson(slot.adapter)},
          {"n_ctx", model.engine->plan().context},
          {"is_processing", slot.is_running},
          {"state", state_of(slot)},
          {"is_own", is_used && (owner.empty() || slot.fair_key == owner)},
          {"id_task", slot.request == 0 ? OrderedJson(-1) : OrderedJson(slot.request)},
          {"prompt_tokens", slot.prompt_tokens},
          {"cached_tokens", slot.cached_tokens},
          {"generated_tokens", slot.generated_tokens},
          {"n_past", slot.tokens},
          {"seconds", is_used ? OrderedJson(std::max(0.0, seconds_since(slot.since))) : OrderedJson()}};
}

int slot_of(const Call& call, const ServedModel& model) {
  const std::string text = call.request().path.substr(std::string_view("/slots/").size());
  const auto id = parse_number<int>(text);
  const int count = model.engine->plan().parallel;
  if (id && *id >= 0 && *id < count) return *id;
  throw ApiError(404, fmt::format("there is no slot {}: they are 0 to {}", text, count - 1), {}, "no_such_slot");
}

bool is_file_name(std::string_view name) {
  char before = '.';
  for (const char c : name) {
    const bool is_word =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    if (!is_word && (c != '.' || before == '.')) return false;
    before = c;
  }
  return before != '.' && name.size() <= kMostNameBytes && !name.ends_with(kPartial);
}

std::string file_name(Fields& fields) {
  const auto name = fields.text("filename");
  if (!name || !is_file_name(*name)) {
    fields.wrong("filename", fmt::format("1 to {} letters, digits, _ and -, single points between them, and not {} at "
                                         "the end",
                                         kMostNameBytes, kPartial));
  }
  return *name;
}

// What a slot is asked to do.
struct SlotAction {
  const ServedModel& model;
  int slot;
  std::string owner;
  std::filesystem::path folder;
  std::string name;

  [[nodiscard]] std::filesystem::path path() const { return folder / name; }

  // Clients are not told where the folder lies.
  [[nodiscard]] std::string without_folder(std::string text) const {
    const std::string prefix = (folder / "").string();
    for (std::size_t at = text.find(prefix); at != text.npos; at = text.find(prefix, at)) text.erase(at, prefix.size());
    return text;
  }

  [[nodiscard]] OrderedJson answer(const char* tokens, std::int64_t count, const char* bytes, const char* time,
                                   std::chrono::steady_clock::time_point start) const {
    return {{"id_slot", slot},
            {"filename", name},
            {tokens, count},
            {bytes, std::filesystem::file_size(path())},
            {"timings", {{time, 1000 * seconds_since(start)}}}};
  }

  // The folder of a key is made when there is something to put into it.
  void make_folder() const {
    if (owner.empty() || !std::filesystem::create_directory(folder)) return;
    std::filesystem::permissions(folder, std::filesystem::perms::owner_all);
  }

  [[nodiscard]] OrderedJson save() const {
    const auto start = std::chrono::steady_clock::now();
    const SavedSequence saved = model.engine->save(slot, owner);
    try {
      make_folder();
      write_sequence(path(), saved, model.engine->model());
    } catch (const std::filesystem::filesystem_error& error) {
      throw ApiError(507, fmt::format("{}: {}", name, error.code().message()), "filename", "not_written");
    } catch (const Error& error) {
      throw ApiError(507, without_folder(error.what()), "filename", "not_written");
    }
    return answer("n_saved", saved.length, "n_written", "save_ms", start);
  }

  [[nodiscard]] OrderedJson restore() const {
    const auto start = std::chrono::steady_clock::now();
    std::shared_ptr<const SavedSequence> saved;
    try {
      saved = std::make_shared<const SavedSequence>(read_sequence(path(), model.engine->model()));
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kOutOfMemory) throw;
      const bool is_missing = error.code() == ErrorCode::kNotFound && !std::filesystem::exists(path());
      throw ApiError(is_missing ? 404 : 400, without_folder(error.what()), "filename",
                     is_missing ? "no_such_file" : "invalid_slot_file");
    }
    return answer("n_restored", model.engine->restore(slot, saved, owner), "n_read", "restore_ms", start);
  }
};

OrderedJson act(Service& service, const Call& call, const std::string& action, Fields& fields) {
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  SlotAction asked{model, slot_of(call, model), call.owner, service.slot_folder / call.owner, {}};
  const bool has_file = action != "erase";
  if (has_file) asked.name = file_name(fields);
  if (!has_file) fields.find("filename");  // which some clients send always
  fields.refuse_others({});
  try {
    if (action == "save") return asked.save();
    if (action == "restore") return asked.restore();
    return {{"id_slot", asked.slot}, {"n_erased", model.engine->erase(asked.slot, call.owner)}};
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kBusy) throw ApiError(409, error.what(), {}, "slot_busy");
    if (error.code() == ErrorCode::kNotFound) throw ApiError(409, error.what(), {}, "slot_empty");
    if (error.code() == ErrorCode::kInvalidArgument) throw ApiError(400, error.what(), {}, "cache_too_small");
    throw;
  }
}

}  // namespace

OrderedJson slot_file_name() {
  return {{"type", "string"},
          {"maxLength", kMostNameBytes},
          {"pattern", kNamePattern},
          {"not", {{"pattern", "\\.partial$"}}}};
}

void answer_slots(Service& service, const Call& call) {
  const std::string* const asked = query_value(call, "model");
  const ModelStatus status = asked == nullptr ? ModelStatus() : service.models.status(*asked);
  const std::string& wanted = status.parent.empty() ? status.name : status.parent;
  OrderedJson all = OrderedJson::array();
  for (const ModelLease& model : service.models.loaded()) {
    if (!wanted.empty() && model->name != wanted) continue;
    for (const EngineSlot& slot : model->engine->slots()) all.push_back(describe_slot(*model, slot, call.owner));
  }
  call.exchange->respond(200, "application/json", json_text(all));
}

void answer_slot(Service& service, const Call& call) {
  if (service.slot_folder.empty())
    throw ApiError(501, "this server was started without --slot-save-path", {}, "slots_unsupported");
  refuse_while_draining(service);
  constexpr std::array<std::string_view, 3> actions = {"save", "restore", "erase"};
  const std::string* const action = query_value(call, "action");
  if (action == nullptr || std::find(actions.begin(), actions.end(), *action) == actions.end()) {
    throw ApiError(
        400, fmt::format("action is {}, expected save, restore or erase", action == nullptr ? "missing" : *action),
        "action");
  }
  const std::string& text = call.request().body;
  const OrderedJson body = text.empty() ? OrderedJson::object() : parse_body(text);
  Fields fields(body);
  if (!call.has_turn) {
    (void)service.model(call, fields.text("model").value_or(""));  // which may have to be loaded first
    return service.take_turn(call, answer_slot);
  }
  call.log->set("action", *action);
  call.exchange->respond(200, "application/json", json_text(act(service, call, *action, fields)));
}

}  // namespace metal_marlin::server
