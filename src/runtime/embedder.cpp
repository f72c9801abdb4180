#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "base/seconds_since.h"
#include "metal_marlin/embed.h"
#include "runtime/embedding_batch.h"
#include "runtime/prompt_chunks.h"

namespace metal_marlin {
namespace {

// A request of which inputs have not ended.
struct OpenEmbedding {
  std::uint64_t id = 0;
  EmbeddingRequest asked;
  Embedder::OnResult on_result;
  std::vector<EmbeddingItem> items;
  std::size_t admitted = 0;  // of the items, the first ones
  std::size_t ready = 0;
  std::int64_t served = 0;  // tokens that were let in
  std::atomic<bool> cancelled{false};
};

}  // namespace

struct Embedder::Impl {
  std::shared_ptr<const Model> model;
  EmbedderOptions options;
  std::int64_t context;

  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::vector<std::shared_ptr<OpenEmbedding>> submitted;  // not yet the thread's
  std::vector<std::shared_ptr<OpenEmbedding>> known;      // all that are open
  std::uint64_t last_id = 0;
  EmbedderStats stats;
  bool draining = false;
  bool stopping = false;

  // The thread's own.
  std::list<std::shared_ptr<OpenEmbedding>> open;
  struct Running {
    std::shared_ptr<OpenEmbedding> request;
    EmbeddingItem* item;
  };
  std::vector<Running> running;
  std::optional<EmbeddingBatch> batch;  // while there is something to do
  PromptChunks chunks;
  std::thread thread;

  Impl(std::shared_ptr<const Model> of, EmbedderOptions with)
      : model(std::move(of)), options(std::move(with)), chunks(options.step_delay) {
    const std::int64_t most = model->info().max_positions;
    context = options.context > 0 ? std::min(options.context, most) : most;
    if (options.step_tokens < 1 || options.queue < 1) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("embedder options: step_tokens is {} and queue {}, expected 1 or more",
                              options.step_tokens, options.queue));
    }
    thread = std::thread([this] { run(); });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      for (const auto& each : known) each->cancelled = true;
    }
    changed.notify_all();
    thread.join();
  }

  std::uint64_t submit(EmbeddingRequest asked, OnResult on_result) {
    check_embedding(asked.inputs, asked.form, asked.skipped, asked.adapter, model->info(), context);
    auto request = std::make_shared<OpenEmbedding>();
    request->asked = std::move(asked);
    request->on_result = std::move(on_result);
    for (const std::vector<TokenId>& input : request->asked.inputs)
      request->items.push_back({input, request->asked.form, request->asked.skipped, request->asked.adapter});
    const std::lock_guard lock(mutex);
    if (draining || stopping) throw Error(ErrorCode::kBusy, "the embedder ends, and takes no more requests");
    if (static_cast<int>(known.size()) >= options.queue) {
      throw Error(ErrorCode::kBusy,
                  fmt::format("{} requests for embeddings are open, the queue holds no more", known.size()));
    }
    request->id = ++last_id;
    known.push_back(request);
    submitted.push_back(request);
    ++stats.requests;
    changed.notify_all();
    return request->id;
  }

  void cancel(std::uint64_t id) {
    const std::lock_guard lock(mutex);
    for (const auto& each : known) {
      if (each->id == id) each->cancelled = true;
    }
  }

  bool drain(std::chrono::milliseconds deadline) {
    std::unique_lock lock(mutex);
    draining = true;
    const auto all_ended = [&] { return known.empty(); };
    const bool in_time =
        changed.wait_for(lock, std::min<std::chrono::milliseconds>(deadline, std::chrono::hours(10000)), all_ended);
    if (in_time) return true;
    for (const auto& each : known) each->cancelled = true;
    changed.wait(lock, all_ended);
    return false;
  }

  // ---- the thread ----

  void run() {
    for (;;) {
      {
        std::unique_lock lock(mutex);
        if (open.empty() && submitted.empty()) {
          lock.unlock();
          batch.reset();  // the cache is nobody's, as nothing of it is used again
          lock.lock();
        }
        changed.wait(lock, [&] { return !open.empty() || !submitted.empty() || stopping; });
        if (stopping && open.empty() && submitted.empty()) return;
        open.insert(open.end(), submitted.begin(), submitted.end());
        submitted.clear();
      }
      try {
        step();
      } catch (const Error& error) {
        fail(error);
      } catch (const std::exception& error) {
        fail(Error(ErrorCode::kInternal, error.what()));
      }
      end_those_over();
    }
  }

  void step() {
    drop_cancelled();
    if (open.empty()) return;
    if (!batch) batch.emplace(model, context, options.step_tokens);
    admit();
    std::vector<EmbeddingItem*> items;
    for (const Running& each : running) items.push_back(each.item);
    if (items.empty()) return;  // of requests without inputs
    const int limit = std::min(options.step_tokens, chunks.limit(options.others_wait && options.others_wait()));
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t tokens = batch->step(items, limit);
    chunks.record(0, static_cast<int>(tokens), seconds_since(start));
    std::erase_if(running, [&](const Running& each) {
      if (!each.item->is_ready()) return false;
      batch->leave(*each.item);
      ++each.request->ready;
      return true;
    });
    const std::lock_guard lock(mutex);
    stats.tokens += tokens;
    ++stats.steps;
  }

  // The next input is of the request that had the fewest tokens: one of thousands of inputs does not hold up others.
  void admit() {
    for (;;) {
      OpenEmbedding* least = nullptr;
      std::shared_ptr<OpenEmbedding> owner;
      for (const auto& each : open) {
        if (each->admitted == each->items.size() || (least != nullptr && least->served <= each->served)) continue;
        least = each.get();
        owner = each;
      }
      if (least == nullptr || !batch->admit(least->items[least->admitted])) return;
      EmbeddingItem& item = least->items[least->admitted++];
      least->served += static_cast<std::int64_t>(item.tokens.size());
      running.push_back({std::move(owner), &item});
    }
  }

  void drop_cancelled() {
    std::erase_if(running, [&](const Running& each) {
      if (!each.request->cancelled) return false;
      batch->leave(*each.item);
      return true;
    });
    for (auto at = open.begin(); at != open.end();) {
      const std::shared_ptr<OpenEmbedding> request = *at;
      if (!request->cancelled) {
        ++at;
        continue;
      }
      at = open.erase(at);
      tell(*request, {{}, Error(ErrorCode::kCancelled, "the request was cancelled")});
    }
  }

  // What failed is the step of those that run.
  void fail(const Error& error) {
    std::vector<std::shared_ptr<OpenEmbedding>> failed;
    for (const Running& each : running) {
      if (std::find(failed.begin(), failed.end(), each.request) == failed.end()) failed.push_back(each.request);
    }
    if (failed.empty()) failed.assign(open.begin(), open.end());  // there is no session to run them in
    running.clear();
    batch.reset();
    for (const auto& request : failed) {
      open.remove(request);
      tell(*request, {{}, error});
    }
  }

  void end_those_over() {
    for (auto at = open.begin(); at != open.end();) {
      const std::shared_ptr<OpenEmbedding> request = *at;
      if (request->ready < request->items.size()) {
        ++at;
        continue;
      }
      at = open.erase(at);
      EmbeddingResult result;
      for (EmbeddingItem& item : request->items) result.vectors.push_back(std::move(item.vector));
      tell(*request, std::move(result));
    }
  }

  void tell(OpenEmbedding& request, EmbeddingResult result) {
    const OnResult on_result = std::exchange(request.on_result, nullptr);
    try {
      on_result(std::move(result));
    } catch (...) {  // whatever it was, it was the callback's, and nobody else's
    }
    const std::lock_guard lock(mutex);
    std::erase_if(known, [&](const auto& each) { return each.get() == &request; });
    changed.notify_all();
  }
};

Embedder::Embedder(std::shared_ptr<const Model> model, EmbedderOptions options)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(options))) {}
Embedder::~Embedder() = default;

std::uint64_t Embedder::submit(EmbeddingRequest request, OnResult on_result) {
  return impl_->submit(std::move(request), std::move(on_result));
}

void Embedder::cancel(std::uint64_t request) {
  impl_->cancel(request);
}

bool Embedder::drain(std::chrono::milliseconds deadline) {
  return impl_->drain(deadline);
}

EmbedderStats Embedder::stats() const {
  const std::lock_guard lock(impl_->mutex);
  EmbedderStats out = impl_->stats;
  out.open = static_cast<int>(impl_->known.size());
  return out;
}

}  // namespace metal_marlin
