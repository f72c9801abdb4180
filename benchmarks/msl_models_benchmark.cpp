// Times attention, mixtures of experts and whole decode steps of the msl backend on a GPU and
// prints JSON, for msl_models.py. Times of ops are medians over launches of a graph of several;
// a decode step's is from the call to the logits on the host.
//   msl_models_benchmark [attention] [paged] [experts] [step]
// paged: prompts over pages, by tokens and by tiles; what tiles_cost_less() estimates, measured.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>

#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/experts.h"
#include "backends/msl/msl_backend.h"
#include "backends/msl/packed_attention.h"
#include "backends/msl/paged_attention.h"
#include "base/shared_pool.h"
#include "formats/packed_matrix.h"
#include "made_checkpoint.h"
#include "models/architectures.h"
#include "quantize/recipe.h"

namespace metal_marlin::msl {
namespace {

constexpr int kRepeats = 9;
const char* separator = "";

void print_row(const std::string& fields, double seconds) {
  fmt::print("{}{{{}, \"us\": {:.2f}}}", separator, fields, seconds * 1e6);
  separator = ",\n";
  std::fflush(stdout);
}

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Median seconds of one of `count` encodings.
double time_op(Device& device, int count, const std::function<void(Commands&, int)>& encode) {
  const auto commands = device.commands();
  for (int i = 0; i < count; ++i) encode(*commands, i);
  std::vector<double> times;
  for (int i = 0; i < kRepeats; ++i) {
    commands->commit();
    commands->wait();
    times.push_back(commands->seconds() / count);
  }
  return median(times);
}

// Numbers of size 1 or so in half precision, the same few over and over.
std::unique_ptr<Buffer> halves(Device& device, std::size_t count) {
  std::mt19937 random(3);
  std::vector<std::uint16_t> piece(std::size_t{1} << 20);
  for (std::uint16_t& v : piece) v = static_cast<std::uint16_t>(0x3000U + (random() & 0x8FFFU));  // f16: 2^-3 to 2^1
  auto buffer = device.allocate(count * 2);
  for (std::size_t at = 0; at < count; at += piece.size()) {
    buffer->upload(std::as_bytes(std::span(piece).first(std::min(piece.size(), count - at))), at * 2);
  }
  return buffer;
}

constexpr std::uint32_t kHeads = 32;
constexpr std::uint32_t kKvHeads = 8;
constexpr std::uint32_t kHeadDim = 128;

PagedParams params_of(std::int64_t context) {
  PagedParams p;
  p.heads = kHeads;
  p.kv_heads = kKvHeads;
  p.key_dim = p.value_dim = kHeadDim;
  p.table_stride = static_cast<std::uint32_t>(context / 16);
  p.q_stride = p.out_stride = kHeads * kHeadDim;
  p.split_keys = 128;
  p.scale = 0.088F;
  return p;
}

void decode_attention(Device& device, std::int64_t batch, std::int64_t context) {
  PagedParams p = params_of(context);
  p.splits = paged_splits(device, p, DType::kF16, CacheType::kF16, batch, 64);
  const auto rows = static_cast<std::size_t>(batch * context) * kKvHeads;
  const auto keys = halves(device, rows * kHeadDim);
  const auto values = halves(device, rows * kHeadDim);
  std::vector<std::int32_t> pages(static_cast<std::size_t>(batch * context / 16));
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(5));
  std::vector<std::int32_t> sequences(static_cast<std::size_t>(batch));
  for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i] = static_cast<std::int32_t>(i);
  const auto tables = device.allocate_with(pages);
  const auto sequence_buffer = device.allocate_with(sequences);
  const auto positions =
      device.allocate_with(std::vector<std::int32_t>(sequences.size(), static_cast<std::int32_t>(context - 1)));
  const auto q = halves(device, static_cast<std::size_t>(batch) * p.q_stride);
  const auto out = device.allocate(static_cast<std::size_t>(batch) * p.out_stride * 2);
  const auto partial = device.allocate(paged_partial_bytes(p, batch));
  PagedBuffers b;
  b.keys = keys.get();
  b.values = values.get();
  b.tables = tables.get();
  b.sequences = sequence_buffer.get();
  b.positions = positions.get();
  b.partial = partial.get();
  const double seconds = time_op(device, 8, [&](Commands& commands, int) {
    encode_paged_attention(device, commands, p, DType::kF16, CacheType::kF16, batch, *q, *out, b);
  });
  print_row(fmt::format("\"op\": \"decode attention\", \"batch\": {}, \"context\": {}", batch, context), seconds);
}

void paged_prefill(Device& device, CacheType cache, bool rounded, std::int64_t context) {
  PagedParams p = params_of(context);
  p.rounded = rounded ? 1 : 0;
  p.splits = paged_splits(device, p, DType::kF32, cache, context, 32);
  const auto rows = static_cast<std::size_t>(context) * kKvHeads;
  const auto keys = halves(device, rows * cache_row_bytes(cache, kHeadDim) / 2);
  const auto values = halves(device, rows * cache_row_bytes(cache, kHeadDim) / 2);
  std::vector<std::int32_t> places(static_cast<std::size_t>(context));
  std::iota(places.begin(), places.end(), 0);
  const auto tables = device.allocate_with(places);
  const auto positions = device.allocate_with(places);
  const auto sequences = device.allocate_with(std::vector<std::int32_t>(places.size()));
  const auto starts = device.allocate_with(std::vector<std::int32_t>{0, static_cast<std::int32_t>(context)});
  const auto q = device.allocate_with(std::vector<float>(places.size() * p.q_stride, 0.5F));
  const auto out = device.allocate(places.size() * p.out_stride * sizeof(float));
  const auto partial = device.allocate(paged_partial_bytes(p, context));
  const PagedBuffers b{keys.get(),      values.get(), tables.get(), sequences.get(),
                       positions.get(), nullptr,      partial.get()};
  const SequenceSlice whole{0, static_cast<int>(context), 0, {}, 0};
  const std::string fields =
      fmt::format("\"batch\": 1, \"context\": {}, \"cache\": \"{}\", \"rounded\": {}, \"tiled\": {}", context,
                  kv_type_name(cache), rounded, tiles_cost_less(device, p, cache, {&whole, 1}));
  print_row("\"op\": \"prefill by tokens\", " + fields, time_op(device, 4, [&](Commands& commands, int) {
              encode_paged_attention(device, commands, p, DType::kF32, cache, context, *q, *out, b);
            }));
  print_row("\"op\": \"prefill by tiles\", " + fields, time_op(device, 4, [&](Commands& commands, int) {
              encode_paged_tiles(device, commands, p, cache, context, *q, *out, b, {1, starts.get(), starts.get()});
            }));
}

void prefill_attention(Device& device, std::int64_t context) {
  const auto count = static_cast<std::size_t>(context);
  const auto q = halves(device, count * kHeads * kHeadDim);
  const auto keys = halves(device, count * kKvHeads * kHeadDim);
  const auto values = halves(device, count * kKvHeads * kHeadDim);
  const auto out = device.allocate(count * kHeads * kHeadDim * 2);
  const auto sequences = device.allocate_with(std::vector<std::int32_t>(count));
  const auto starts = device.allocate_with(std::vector<std::int32_t>{0, static_cast<std::int32_t>(context)});
  PackedParams p;
  p.heads = kHeads;
  p.kv_heads = kKvHeads;
  p.key_width = p.value_width = kHeadDim;
  p.causal = 1;
  p.scale = 0.088F;
  PackedBatch b;
  b.queries = context;
  b.q = q.get();
  b.keys = keys.get();
  b.values = values.get();
  b.out = out.get();
  b.sequences = sequences.get();
  b.q_starts = b.k_starts = starts.get();
  b.sequence_count = 1;
  print_row(fmt::format("\"op\": \"simdgroup_attention\", \"batch\": 1, \"context\": {}", context),
            time_op(device, 2,
                    [&](Commands& commands, int) { encode_simdgroup_attention(device, commands, p, DType::kF16, b); }));
  print_row(fmt::format("\"op\": \"flash_attention_v2\", \"batch\": 1, \"context\": {}", context),
            time_op(device, 1, [&](Commands& commands, int) {
              encode_flash_attention_v2(device, commands, p, DType::kF16, CacheType::kF16, b);
            }));
}

// A quantized matrix of random codes.
Weight random_weight(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, unsigned seed) {
  auto packed = std::make_shared<PackedMatrix>(spec, rows, cols);
  std::mt19937 random(seed);
  for (std::size_t i = 0; i + 4 <= packed->codes.size(); i += 4) {
    const std::uint32_t word = static_cast<std::uint32_t>(random()) & 0x77777777U;  // no NaN in E4M3
    std::memcpy(packed->codes.data() + i, &word, 4);
  }
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t group = 0; group < spec.groups(cols); ++group) packed->set_scale(row, group, 0x1p-9F);
  }
  return {packed->view(), packed};
}

void experts(Device& device, ThreadPool& pool) {
  constexpr std::int64_t kExperts = 64;
  constexpr std::int64_t kHidden = 2048;
  constexpr std::int64_t kIntermediate = 1536;
  constexpr std::int64_t kChosen = 4;
  const FormatSpec spec = default_spec(Format::kFp4);
  const Weight up = random_weight(spec, kIntermediate, kHidden, 1);
  const Weight down = random_weight(spec, kHidden, kIntermediate, 2);
  const Experts mixture(
      device, "experts.", kExperts, kHidden, kIntermediate,
      [&](std::int64_t, const char* projection) { return std::string_view(projection) == "down" ? down : up; }, pool);
  for (const std::int64_t tokens : {1, 4, 16, 64, 256, 1024}) {
    const ExpertsWorkspace workspace(device, tokens, kChosen, kExperts, kHidden, kIntermediate);
    std::mt19937 random(9);
    std::vector<std::int32_t> ids;
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::set<std::int32_t> chosen;
      while (chosen.size() < kChosen) chosen.insert(static_cast<std::int32_t>(random() % kExperts));
      ids.insert(ids.end(), chosen.begin(), chosen.end());
    }
    const auto ids_buffer = device.allocate_with(ids);
    const auto weights = device.allocate_with(std::vector<float>(ids.size(), 0.25F));
    const auto x = device.allocate_with(std::vector<float>(static_cast<std::size_t>(tokens * kHidden), 0.1F));
    const auto y = device.allocate(static_cast<std::size_t>(tokens * kHidden) * sizeof(float));
    const double seconds = time_op(device, 8, [&](Commands& commands, int) {
      mixture.encode(commands, {x.get(), ids_buffer.get(), weights.get(), y.get(), tokens, kChosen}, workspace);
    });
    print_row(fmt::format("\"op\": \"experts\", \"tokens\": {}", tokens), seconds);
  }
}

// Random weights in the formats of a recipe.
MadeCheckpoint random_checkpoint(const Plan& plan, const Recipe& recipe) {
  std::vector<WeightInfo> weights;
  for (const PlannedWeight& planned : planned_weights(plan)) {
    const auto spec = planned.quantizable ? recipe.find(planned, false) : std::nullopt;
    weights.push_back({planned.name, planned.shape, DType::kBf16, spec, 1, ""});
  }
  return {std::move(weights), [](const WeightInfo& info) -> Weight {
            if (info.packed) return random_weight(*info.packed, info.shape[0], info.shape[1], 7);
            const auto count = static_cast<std::size_t>(*element_count(info.shape));
            auto ones = std::make_shared<std::vector<std::uint16_t>>(count, 0x3F80);
            return {DenseView{DType::kBf16, info.shape, std::as_bytes(std::span(*ones))}, ones};
          }};
}

void decode_step(const std::shared_ptr<Device>& device) {
  const auto backend = make_backend("msl-cuda", device, shared_pool(0));
  for (const BuiltinRecipe& builtin : builtin_recipes()) {
    if (builtin.name != "qwen3-4b") continue;
    const Json json = parse_json(builtin.text, "recipe");
    const Plan plan = build_plan(parse_model_config(json["models"][0]["config"], nullptr, "config"));
    const MadeCheckpoint checkpoint = random_checkpoint(plan, parse_recipe(json, "recipe"));
    const auto model = backend->prepare(plan, checkpoint, {Activations::kInt8, {}});
    constexpr int kContext = 1024;
    const auto runner = model->make_runner({32, 1, 1, kContext / 16}, CacheType::kF16);
    std::vector<std::int32_t> pages(kContext / 16);
    for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
    const std::vector<std::int32_t> token = {17};
    const std::vector<int> selected = {0};
    std::vector<double> times;
    for (int i = 0; i < 40; ++i) {
      const std::vector<SequenceSlice> slices = {{0, 1, 200 + i, pages}};
      const auto begin = std::chrono::steady_clock::now();
      runner->step({token, slices, selected});
      times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    times.erase(times.begin(), times.begin() + 10);
    print_row("\"op\": \"decode step\", \"model\": \"Qwen3-4B\", \"context\": 220", median(times));
  }
}

void run(const std::set<std::string>& parts) {
  const std::shared_ptr<Device> device = make_cuda_device();
  ThreadPool pool;
  fmt::print("{{\"device\": \"{}\", \"results\": [\n", device->name());
  const auto wants = [&](const char* part) { return parts.empty() || parts.contains(part); };
  if (wants("attention")) {
    for (const std::int64_t context : {2048, 8192}) prefill_attention(*device, context);
    for (const std::int64_t context : {8192, 32768}) {
      for (const std::int64_t batch : {1, 8, 64}) decode_attention(*device, batch, context);
    }
  }
  if (wants("paged")) {
    for (const std::int64_t context : {64, 128, 256, 512, 2048}) {
      paged_prefill(*device, CacheType::kF16, true, context);
      paged_prefill(*device, CacheType::kF32, false, context);
      paged_prefill(*device, CacheType::kInt4, true, context);
    }
  }
  if (wants("experts")) experts(*device, pool);
  if (wants("step")) decode_step(device);
  fmt::print("\n]}}\n");
}

}  // namespace
}  // namespace metal_marlin::msl

int main(int argc, char** argv) {
  try {
    metal_marlin::msl::run({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
