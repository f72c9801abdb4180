// The models that are served: loaded when somebody asks for them, and unloaded when nobody has for a while.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/api_error.h"
#include "server/metrics.h"
#include "server/served_model.h"

namespace metal_marlin::server {

// The code of the error for who waited too long, and may come again.
constexpr std::string_view kModelLoading = "model_loading";

// Keeps a model loaded as long as somebody has it.
using ModelLease = std::shared_ptr<const ServedModel>;
// Those of one request.
using ModelLeases = std::vector<ModelLease>;

struct ModelEntry {
  std::string name;
  std::vector<std::string> adapters;  // that the model is loaded with, by the names that requests call them
  // Called in a thread that loads one model at a time. `goes_on` turns false when nobody wants it any more. `share`: of
  // the memory that is free. \throws Error.
  std::function<ServedModel(const std::function<bool()>& goes_on, const EngineOptions& share)> load;
  std::size_t weight_bytes = 0;  // that it is expected to take; 0: not known
  bool preload = false;          // loaded at the start
  bool pinned = false;           // likewise, and never unloaded
};

struct ModelLimits {
  std::chrono::milliseconds idle_unload{0};  // 0: never for that alone
  int max_loaded = 0;                        // 0: all
  std::chrono::milliseconds load_wait{60000};
};

// What /v1/models tells of one.
struct ModelStatus {
  std::string name;
  const char* state = "unloaded";  // "loading", "loaded", "unloading", "failed"
  std::string failure;             // why the last try to load it failed
  std::time_t created = 0;
  std::optional<std::int64_t> context;  // where it was loaded once
  std::optional<std::int64_t> vocabulary;
  std::optional<std::int64_t> dimensions;  // of its vectors
  std::int64_t loads = 0;                  // so far
  std::int64_t unloads = 0;
  bool pinned = false;
  std::string parent;  // of an adapter: the model that it comes and goes with; empty: a model
};

// A request asks for a model that is not loaded: Models::wait_for() takes it from here.
struct ModelNotLoaded {
  std::size_t entry;
};

class Models {
 public:
  // on_unload: told what a model's engine counted, before it goes.
  explicit Models(std::function<void(const std::string& name, const EngineStats& stats)> on_unload);
  // Ends what runs.
  ~Models();
  Models(const Models&) = delete;
  Models& operator=(const Models&) = delete;

  // Loads those that are wanted at the start, in their order. \throws what loading one throws.
  void start(std::vector<ModelEntry> entries, const ModelLimits& limits);
  // Models that are loaded already, and stay.
  void start(std::vector<ServedModel> models);

  // By the name in a request, of a model or of an adapter of one; empty: the only model. `leases` keep it. \throws
  // ApiError (400, 404), ModelNotLoaded.
  const ServedModel& use(const std::string& name, ModelLeases& leases);
  // Whether it is one of them, loaded or not. \throws ApiError as use().
  [[nodiscard]] ModelStatus status(const std::string& name) const;
  // Calls `resume` once, in a thread of its own: when the model is loaded, which `leases` then keep, or with what to
  // answer instead. \returns a number for forget().
  using Resume = std::function<void(std::optional<ApiError> error)>;
  std::uint64_t wait_for(std::size_t entry, std::shared_ptr<ModelLeases> leases, Resume resume);
  // Who waits has gone: `resume` is not called any more.
  void forget(std::uint64_t waiter);

  // Behind each model its adapters.
  [[nodiscard]] std::vector<ModelStatus> all() const;
  // Models that are loaded. To look at them is not to use them.
  [[nodiscard]] ModelLeases loaded() const;
  // Loads no more; those that wait are told so.
  void stop_loading();

 private:
  enum class State { kUnloaded, kLoading, kLoaded, kUnloading, kFailed };
  struct Entry {
    ModelEntry given;
    State state = State::kUnloaded;
    std::optional<ServedModel> model;
    int users = 0;
    std::chrono::steady_clock::time_point last_used{};
    ModelStatus status;
  };
  struct Waiter {
    std::uint64_t id;
    std::size_t entry;
    std::chrono::steady_clock::time_point deadline;
    std::shared_ptr<ModelLeases> leases;
    Resume resume;
  };
  using Lock = std::unique_lock<std::mutex>;

  // The model that is called so, or that an adapter of the name is for. \throws ApiError.
  [[nodiscard]] std::size_t find(const std::string& name) const;
  [[nodiscard]] ModelLease lease(std::size_t entry, bool is_use) const;
  // Of the model, or of its adapter of this name.
  [[nodiscard]] static ModelStatus status_of(const Entry& entry, const std::string& name);
  void run();
  void watch_deadlines();
  void tell(Lock& lock, std::vector<Waiter> waiters, const std::optional<ApiError>& error);
  [[nodiscard]] std::vector<Waiter> take_waiters(const std::function<bool(const Waiter&)>& which);
  // One that somebody waits for though it is loaded; none.
  [[nodiscard]] std::optional<std::size_t> ready_one() const;
  // The one that was not used for longest, of those that nobody uses; none.
  [[nodiscard]] std::optional<std::size_t> least_used() const;
  [[nodiscard]] std::optional<std::size_t> idle_one(std::chrono::steady_clock::time_point now) const;
  [[nodiscard]] bool has_room() const;
  void load(Lock& lock, std::size_t entry);
  static void put(Entry& entry, ServedModel model);
  static void note_loaded(Entry& entry, ServedModel model);
  ServedModel load_with_room(Lock& lock, std::size_t entry);
  void unload(Lock& lock, std::size_t entry);
  [[nodiscard]] EngineOptions share_for(std::size_t entry) const;

  std::function<void(const std::string&, const EngineStats&)> on_unload_;
  ModelLimits limits_;
  mutable std::mutex mutex_;  // of what follows
  mutable std::condition_variable changed_;
  mutable std::vector<std::unique_ptr<Entry>> entries_;
  std::vector<Waiter> waiters_;  // in the order in which they came
  std::uint64_t last_waiter_ = 0;
  bool stopping_ = false;
  std::thread thread_;     // loads and unloads
  std::thread deadlines_;  // of those that wait
};

}  // namespace metal_marlin::server
