// One thread's linear kernels by format and number of tokens: multiply-adds a
// second, and bytes of weights a second (to set beside the memory's bandwidth).
#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "backends/cpu/panel_matrix.h"
#include "base/thread_pool.h"
#include "formats/number_format.h"

namespace metal_marlin::cpu {
namespace {

constexpr std::int64_t kRows = 2048;
constexpr std::int64_t kCols = 2048;

constexpr const char* kInputNames[] = {"f32", "q8", "bf16"};

PanelMatrix bf16_matrix(ThreadPool& pool) {
  const auto bytes =
      std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(kRows * kCols * 2), std::byte{0x3C});
  return {Weight{DenseView{DType::kBf16, {kRows, kCols}, *bytes}, bytes}, kRows, kCols, pool};
}

PanelMatrix make_matrix(const FormatSpec& spec, ThreadPool& pool) {
  const RowReader read = [](std::int64_t row, float* out) {
    std::mt19937 random(static_cast<unsigned>(row));
    std::normal_distribution<float> normal(0, 0.02F);
    for (std::int64_t i = 0; i < kCols; ++i) out[i] = normal(random);
  };
  auto packed = std::make_shared<PackedMatrix>(quantize_matrix(spec, kRows, kCols, read, 1, pool));
  return {Weight{packed->view(), packed}, kRows, kCols, pool};
}

void linear(benchmark::State& state, const PanelMatrix& matrix, LinearInput input) {
  const Kernels& kernels = *available_kernels().front();
  const std::int64_t tokens = state.range(0);
  const std::vector<float> x(static_cast<std::size_t>(tokens * kCols), 0.5F);
  std::vector<Q8Block> blocks(static_cast<std::size_t>(tokens * kCols / kBlock));
  kernels.quantize_q8(x.data(), tokens * kCols, blocks.data());
  std::vector<std::uint16_t> bf16(x.size());
  if (input == LinearInput::kBf16) kernels.round_bf16(x.data(), tokens * kCols, bf16.data());
  std::vector<float> out(static_cast<std::size_t>(tokens * kRows));
  std::vector<float> scratch(static_cast<std::size_t>(scratch_floats(matrix.view())));
  const auto kernel = input == LinearInput::kQ8     ? kernels.linear_q8
                      : input == LinearInput::kBf16 ? kernels.linear_bf16
                                                    : kernels.linear_f32;
  for (auto _ : state) {
    for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) {
      const LinearTile tile{
          &matrix.view(), nullptr,       panel,       tokens,
          blocks.data(),  x.data(),      bf16.data(), input == LinearInput::kQ8 ? kCols / kBlock : kCols,
          out.data(),     kRows,         nullptr,     nullptr,
          false,          scratch.data()};
      kernel(tile);
    }
    benchmark::DoNotOptimize(out.data());
  }
  state.SetLabel(kernels.name);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(matrix.bytes()));
  state.counters["MAC/s"] =
      benchmark::Counter(static_cast<double>(tokens * kRows * kCols), benchmark::Counter::kIsIterationInvariantRate);
}

template <typename MakeMatrix>
void add(const std::string& name, LinearInput input, const MakeMatrix& make) {
  benchmark::RegisterBenchmark((name + "/" + kInputNames[static_cast<int>(input)]).c_str(),
                               [=](benchmark::State& state) {
                                 ThreadPool pool;
                                 linear(state, make(pool), input);
                               })
      ->Arg(1)
      ->Arg(64)
      ->Unit(benchmark::kMicrosecond);
}

void register_all() {
  for (const FormatInfo& info : all_formats()) {
    const std::string name(info.name);
    const auto make = [spec = default_spec(info.format)](ThreadPool& pool) { return make_matrix(spec, pool); };
    if (number_format(info.format).unit != 0) add(name, LinearInput::kQ8, make);
    add(name, LinearInput::kF32, make);
  }
  FormatSpec sparse = default_spec(Format::kS4);
  sparse.sparse = true;
  for (const LinearInput input : {LinearInput::kQ8, LinearInput::kF32})
    add(format_label(sparse), input, [=](ThreadPool& pool) { return make_matrix(sparse, pool); });
  add("bf16", LinearInput::kF32, bf16_matrix);
  if (available_kernels().front()->linear_bf16 != nullptr) add("bf16", LinearInput::kBf16, bf16_matrix);
}

}  // namespace
}  // namespace metal_marlin::cpu

int main(int argc, char** argv) {
  metal_marlin::cpu::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
