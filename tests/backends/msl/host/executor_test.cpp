// The host executor: what it runs right, and what its detectors catch.
#include "backends/msl/host/executor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "backends/msl/host/host_device.h"
#include "backends/msl/host/shadow.h"
#include "metal_marlin/error.h"

extern "C" const MslLibrary msl_library_detectors;
extern "C" const MslLibrary msl_debug_library_detectors;

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kThreads = 64;

std::size_t kernel_index(const MslLibrary& library, std::string_view name) {
  for (std::uint32_t i = 0; i < library.kernel_count; ++i) {
    if (library.kernels[i].name == name) return i;
  }
  ADD_FAILURE() << "no kernel " << name;
  return 0;
}

std::optional<Fault> run(std::string_view name, LaneOrder order = LaneOrder::kForward) {
  const MslLibrary& library = msl_debug_library_detectors;
  // With room behind what is bound, so that nothing else lies there.
  std::vector<float> out(2 * kThreads, 0);
  std::vector<float> in(2 * kThreads, 1);
  HostDispatch d;
  d.kernel = &library.kernels[kernel_index(library, name)];
  d.threads = {2 * kThreads, 1, 1};
  if (name.find("groups") == std::string_view::npos) d.threads[0] = kThreads;
  d.threadgroup = {kThreads, 1, 1};
  d.buffers = {{reinterpret_cast<std::byte*>(out.data()), kThreads * sizeof(float), "out (buffer 0)"},
               {reinterpret_cast<std::byte*>(in.data()), kThreads * sizeof(float), "x (buffer 1)"}};
  d.instrumented = true;
  d.order = order;
  d.seed = 5;
  return run_on_host(d);
}

struct Case {
  const char* kernel;
  FaultKind kind;
  const char* line;  // a piece of the message
};

class Detector : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Each, Detector,
                         testing::Values(Case{"race_threadgroup", FaultKind::kRace, "of tile, which thread"},
                                         Case{"race_flags", FaultKind::kRace, "detectors.metal:28"},
                                         Case{"race_groups", FaultKind::kRace, "detectors.metal:42"},
                                         Case{"race_write", FaultKind::kRace, "detectors.metal:49"},
                                         Case{"race_simdgroup", FaultKind::kRace, "detectors.metal:59"},
                                         Case{"bounds_buffer", FaultKind::kOutOfBounds, "offset 256 of out (buffer 0)"},
                                         Case{"bounds_read", FaultKind::kOutOfBounds, "of x (buffer 1)"},
                                         Case{"bounds_threadgroup", FaultKind::kOutOfBounds, "of first, which has 256"},
                                         Case{"bounds_own", FaultKind::kOutOfBounds, "element 4 of 'float[4]'"},
                                         Case{"bounds_vector", FaultKind::kOutOfBounds, "element 3 of 'const float3'"},
                                         Case{"uninitialised", FaultKind::kUninitialised, "byte 20 of tile"},
                                         Case{"divergence_return", FaultKind::kBarrierDivergence, "60 of 64 threads"},
                                         Case{"divergence_branch", FaultKind::kBarrierDivergence,
                                              "others at the one at"},
                                         Case{"memory", FaultKind::kThreadgroupMemory, "limit is 32768"},
                                         Case{"misaligned", FaultKind::kMisaligned, "alignment of 16"}),
                         [](const auto& test) { return std::string(test.param.kernel); });

TEST_P(Detector, CatchesTheFaultAndNamesIt) {
  const std::optional<Fault> fault = run(GetParam().kernel);
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->kind, GetParam().kind) << fault->message;
  EXPECT_NE(fault->message.find(GetParam().line), std::string::npos) << fault->message;
  EXPECT_NE(fault->message.find(GetParam().kernel), std::string::npos) << fault->message;
}

TEST_P(Detector, LetsTheTwinPassInEveryOrder) {
  for (const LaneOrder order : {LaneOrder::kForward, LaneOrder::kReverse, LaneOrder::kRandom}) {
    const std::optional<Fault> fault = run(std::string(GetParam().kernel) + "_twin", order);
    EXPECT_FALSE(fault.has_value()) << fault->message;
  }
}

class Plain : public testing::Test {
 protected:
  template <typename T>
  std::vector<T> run(std::string_view name, const Size3& threads, const Size3& group, std::size_t count,
                     const FunctionConstants& constants = {}, const std::function<void(Arguments&)>& more = {}) {
    const auto device = make_host_device({2, false, LaneOrder::kForward, 0});
    const auto out = device->allocate(count * sizeof(T));
    const auto pipeline =
        make_host_pipeline(msl_library_detectors, kernel_index(msl_library_detectors, name), constants);
    Arguments arguments;
    arguments.buffer(0, *out);
    if (more) more(arguments);
    const auto commands = device->commands();
    commands->dispatch_threads(*pipeline, threads, group, arguments);
    commands->commit();
    commands->wait();
    std::vector<T> values(count);
    out->download(std::as_writable_bytes(std::span(values)));
    return values;
  }
};

TEST(CodePlace, IsReadFromBothSymbolizers) {
  const auto place = place_of_symbolizer_line;
  EXPECT_EQ(place("/x/add.metal:6\n"), "/x/add.metal:6");
  EXPECT_EQ(place("/x/add.metal:6 (discriminator 2)\n"), "/x/add.metal:6");
  EXPECT_EQ(place("??:0\n"), "");
  EXPECT_EQ(place("<entries>:3\n"), "");
  EXPECT_EQ(place("/usr/share/msl/include/msl/entry.h:40\n"), "");
  EXPECT_EQ(place("add(float const*, unsigned int) (in shader.so) (/x/my kernels/add.metal:6)\n"),
            "/x/my kernels/add.metal:6");
  EXPECT_EQ(place("msl::call(MslThread const*) (in shader.so) (/usr/share/msl/include/msl/entry.h:40)\n"), "");
  EXPECT_EQ(place("msl::run(int) (in shader.so) + 72\n"), "");
  EXPECT_EQ(place("0x0000000104f3c2a4\n"), "");
  EXPECT_EQ(place(""), "");
}

TEST_F(Plain, SimdSumCountsTheActiveLanesOfEachBranch) {
  const auto v = run<std::uint32_t>("divergent_sum", {64, 1, 1}, {64, 1, 1}, 64);
  for (std::uint32_t i = 0; i < 64; ++i) {
    std::uint32_t sum = 0;
    std::uint32_t others = 0;
    for (std::uint32_t k = i / 32 * 32; k < i / 32 * 32 + 32; ++k) (k % 3 == 0 ? sum : others) += k % 3 == 0 ? k : 1;
    EXPECT_EQ(v[i], i % 3 == 0 ? sum : others) << i;
  }
}

TEST_F(Plain, ThreadgroupsAtTheEdgeAreSmaller) {
  const auto v = run<std::uint32_t>("edges", {10, 5, 1}, {8, 2, 1}, 50);
  EXPECT_EQ(v[0], 8 + 200 + 80000U);
  EXPECT_EQ(v[9], 2 + 200 + 80000U + 1000000U);
  EXPECT_EQ(v[49], 2 + 100 + 80000U + 1000000U);
}

TEST_F(Plain, FunctionConstantsReachWhatIsDerivedFromThem) {
  EXPECT_EQ(run<int>("constants", {4, 1, 1}, {4, 1, 1}, 4)[3], 7);
  const int value = 21;
  BytesArgument bytes(sizeof(value));
  std::memcpy(bytes.data(), &value, sizeof(value));
  EXPECT_EQ(run<int>("constants", {4, 1, 1}, {4, 1, 1}, 4, {{2, bytes}})[3], 42);
}

TEST_F(Plain, ThreadgroupMemoryOfTheHostsSize) {
  const auto v = run<float>("dynamic_memory", {64, 1, 1}, {64, 1, 1}, 64, {},
                            [](Arguments& a) { a.threadgroup(1, 256).bytes(3, 0.5F); });
  EXPECT_EQ(v[0], 63.5F);
  EXPECT_EQ(v[63], 0.5F);
}

// What a thread runs threadgroups in is kept, what an earlier dispatch left there is not.
TEST_F(Plain, ThreadgroupMemoryIsNewInEachDispatch) {
  EXPECT_EQ(run<float>("uninitialised_twin", {64, 1, 1}, {64, 1, 1}, 64)[5], 0.0F);
  const auto v = run<float>("uninitialised", {64, 1, 1}, {64, 1, 1}, 64);
  EXPECT_TRUE(std::isnan(v[5])) << v[5];
  EXPECT_EQ(v[4], 1.0F);
}

// Found by tools/differential/, which compares with Apple's compiler itself.
TEST_F(Plain, ArithmeticIsAsApplesCompilerHasIt) {
  const struct {
    float y, x, large, none, root, square, factor;
  } numbers = {1, -1, 300, std::numeric_limits<float>::quiet_NaN(), 1 + 0x1p-12F, 1 + 0x1p-11F, 0x1.038p+0F};
  const auto v = run<float>("arithmetic", {32, 1, 1}, {32, 1, 1}, 32, {}, [&](Arguments& a) { a.bytes(3, numbers); });
  EXPECT_FLOAT_EQ(v[0], 2.35619449F);  // three eighths of a turn
  EXPECT_EQ(v[1], 255.0F);             // what lies beyond an integer's range is its end
  EXPECT_EQ(v[2], -128.0F);
  EXPECT_EQ(v[3], 0.0F);
  EXPECT_EQ(v[4], 0x1p-24F);     // the product is not rounded by itself
  EXPECT_EQ(v[5], 0x1.0a8p+0F);  // each product of halves is
  EXPECT_EQ(v[6], 1.0F);
}

TEST_F(Plain, ArgumentsAreCheckedAgainstTheShader) {
  const auto expect = [&](const std::string& text, const std::function<void(Arguments&)>& more) {
    try {
      run<float>("dynamic_memory", {64, 1, 1}, {64, 1, 1}, 64, {}, more);
      FAIL() << "expected: " << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  };
  const double wide = 1;
  expect("kernel dynamic_memory: argument add (constant float &, buffer 3) is missing",
         [](Arguments& a) { a.threadgroup(1, 256); });
  expect("expected 4 bytes, found 8", [&](Arguments& a) { a.threadgroup(1, 256).bytes(3, wide); });
  expect("argument tile (threadgroup 1): its size is missing", [](Arguments& a) { a.bytes(3, 0.5F); });
  expect("has no buffer 9", [](Arguments& a) { a.threadgroup(1, 256).bytes(3, 0.5F).bytes(9, 1); });
}

TEST_F(Plain, TooManyThreadsAreRefused) {
  EXPECT_THROW(run<float>("edges", {2048, 1, 1}, {2048, 1, 1}, 2048), Error);
}

}  // namespace
}  // namespace metal_marlin::msl
