// The Metal device over the stand-in, whose rules hold in each of these tests too.
#include "backends/msl/metal/metal_device.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <new>
#include <span>
#include <thread>
#include <vector>

#include "backends/msl/epilogue.h"
#include "backends/msl/matrix_unit.h"
#include "backends/msl/recorded_metal.h"
#include "base/memory.h"
#include "metal_marlin/model.h"
#include "rules.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

using metal_stub::counts;
using metal_stub::machine;

constexpr std::int64_t kCount = 1024;
constexpr std::size_t kBytes = kCount * sizeof(float);

std::unique_ptr<Device> make(std::size_t first = 1 << 30, std::size_t each = 1 << 30) {
  MetalOptions options;
  options.limits = {first, each};
  options.labels = true;
  return make_metal_device(options);
}

std::unique_ptr<Buffer> floats(Device& device, float value, std::size_t count = kCount) {
  return device.allocate_with(std::vector<float>(count, value));
}
float first(const Buffer& buffer) {
  std::array<float, 1> value{};
  buffer.download(std::as_writable_bytes(std::span(value)));
  return value[0];
}
// to += from
void add(Device& device, Commands& commands, Buffer& to, Buffer& from) {
  encode_residual(device, commands, DType::kF32, kCount, to, from);
}
void run(Commands& commands) {
  commands.commit();
  commands.wait();
}

TEST(MetalDevice, HasTheMachinesTraits) {
  machine().cores = 40;
  const auto device = make();
  EXPECT_EQ(device->name(), "Apple M0 (recorded)");
  EXPECT_EQ(device->traits().cores, 40U);
  EXPECT_EQ(device->traits().busy_threadgroups, 160U);
  EXPECT_EQ(device->traits().threadgroup_bytes, 32768U);
  EXPECT_EQ(device->facts(),
            "Apple1, Apple2, Apple3, Apple4, Apple5, Apple6, Apple7, Mac2, Metal3; 40 cores; 4.0 GiB for the GPU, "
            "1.0 GiB in one buffer, 32.0 KiB of threadgroup memory");
  machine().cores = 0;  // the registry does not say
  EXPECT_EQ(make()->traits().cores, DeviceTraits().cores);
}

TEST(MetalDevice, IsTheFirstGpuThatWillDo) {
  machine().gpus = {{"Intel UHD", false}, {"Apple M9", true}, {"Apple M8", true}};
  EXPECT_EQ(why_no_metal(), "");
  EXPECT_EQ(make()->name(), "Apple M9");
}

TEST(MetalDevice, SaysWhyThereIsNone) {
  const auto refused = [](const std::vector<metal_stub::Machine::Gpu>& gpus, const std::string& why) {
    machine().gpus = gpus;
    EXPECT_EQ(why_no_metal(), why);
    expect_error(ErrorCode::kNotFound, "no Metal: " + why, [] { make(); });
  };
  refused({}, "Metal finds no device");
  refused({{"Intel UHD", false}},
          "the Intel UHD (Mac2) is older than the GPU family Apple7, which simdgroup matrices need");
  refused({{"Apple Paravirtual device", false}},
          "this is a virtual machine, whose Apple Paravirtual device (Mac2) has no simdgroup matrices");
}

TEST(MetalDevice, WaitsOnlyForWhatAKernelNeeds) {
  const auto device = make();
  std::array<std::unique_ptr<Buffer>, 6> x;
  for (auto& buffer : x) buffer = floats(*device, 1);
  const auto commands = device->commands();
  add(*device, *commands, *x[0], *x[1]);
  add(*device, *commands, *x[2], *x[1]);
  add(*device, *commands, *x[3], *x[4]);
  run(*commands);
  EXPECT_EQ(counts().barriers, 0);
  add(*device, *commands, *x[5], *x[0]);  // after the first
  add(*device, *commands, *x[4], *x[1]);  // after the third, as the barrier says
  run(*commands);                         // the first three again, too
  EXPECT_EQ(counts().barriers, 1);
  EXPECT_EQ(first(*x[0]), 3);
  EXPECT_EQ(first(*x[5]), 4);
}

TEST(MetalDevice, PartsOfABufferAreApart) {
  const auto device = make();
  const auto x = floats(*device, 1, 2 * kCount);
  const auto one = floats(*device, 1);
  const auto commands = device->commands();
  const auto part = [&](std::size_t offset) {
    const std::uint64_t count = kCount;
    commands->dispatch_threads(device->pipeline("gemm_epilogue", "residual_float"), {kCount, 1, 1}, {128, 1, 1},
                               Arguments().buffer(0, *x, offset).buffer(1, *one).bytes(2, count));
  };
  part(kBytes);
  part(0);  // to the buffer's end, for all that the arguments tell
  run(*commands);
  EXPECT_EQ(counts().barriers, 1);
  EXPECT_EQ(first(*x), 2);
}

TEST(MetalDevice, CutsWorkIntoCommandBuffersTheFirstOfThemShort) {
  const auto device = make(2 * kBytes, 8 * kBytes);
  machine().most_work = 8 * kBytes;
  const auto x = floats(*device, 1);
  const auto y = floats(*device, 1);
  const auto commands = device->commands();
  for (int i = 0; i < 9; ++i) add(*device, *commands, *x, *y);  // two buffers' bytes each
  run(*commands);
  EXPECT_EQ(counts().command_buffers, 3);  // of 1, 4 and 4 dispatches
  EXPECT_EQ(counts().barriers, 6);         // a fence orders command buffers
  EXPECT_EQ(first(*x), 10);
  EXPECT_GT(commands->seconds(), 0);
  run(*commands);  // as it is encoded
  EXPECT_EQ(counts().command_buffers, 6);
  EXPECT_EQ(first(*x), 19);
}

TEST(MetalDevice, WorkIsWhatTakesLongerReadingOrComputing) {
  const auto device = make(8 * kBytes, 8 * kBytes);
  const auto x = floats(*device, 1);
  const auto commands = device->commands();
  const std::uint64_t count = kCount;
  for (int i = 0; i < 4; ++i) {  // of which two fit by their operations, four by their bytes
    commands->dispatch_threads(device->pipeline("gemm_epilogue", "residual_float"), {kCount, 1, 1}, {128, 1, 1},
                               Arguments().buffer(0, *x).buffer(1, *x).bytes(2, count).operations(32.0 * 4 * kBytes));
  }
  run(*commands);
  EXPECT_EQ(counts().command_buffers, 2);
}

TEST(MetalDevice, CommandsRunInTheOrderOfTheirCommits) {
  const auto device = make();
  const auto x = floats(*device, 1);
  const auto y = floats(*device, 1);
  const auto one = device->commands();
  const auto other = device->commands();
  add(*device, *one, *x, *y);
  add(*device, *other, *y, *x);
  one->commit();
  other->commit();
  one->commit();  // again, before its first run is waited for
  other->wait();
  one->wait();
  EXPECT_EQ(first(*y), 3);
  EXPECT_EQ(first(*x), 5);
}

TEST(MetalDevice, KeepsWhatIsInFlight) {
  const auto device = make(1, 1);
  auto x = floats(*device, 1);
  auto large = floats(*device, 1, 1 << 19);
  auto commands = device->commands();
  add(*device, *commands, *x, *large);
  add(*device, *commands, *large, *x);
  commands->commit();
  x.reset();
  large.reset();
  const auto other = floats(*device, 7);  // not where the first lay
  commands.reset();                       // waits
  EXPECT_EQ(first(*other), 7);
}

TEST(MetalDevice, SmallBuffersShareMemoryThatGoesBackWhenEmpty) {
  const auto device = make();
  std::vector<std::unique_ptr<Buffer>> small;
  for (std::size_t i = 0; i < 300; ++i) small.push_back(device->allocate(i * 100));
  EXPECT_EQ(counts().live_buffers, 1);
  const auto large = device->allocate(1 << 20);
  EXPECT_EQ(counts().live_buffers, 2);
  for (std::size_t i = 0; i < 300; i += 2) small[i].reset();
  for (std::size_t i = 0; i < 300; i += 2) small[i] = device->allocate(i * 100);  // where they lay
  EXPECT_EQ(counts().live_buffers, 2);
  std::vector<std::unique_ptr<Buffer>> more;
  while (counts().live_buffers == 2) more.push_back(device->allocate(1 << 19));
  EXPECT_EQ(more.size(), 8U);  // of 8 MiB, 4.3 taken
  more.clear();
  EXPECT_EQ(counts().live_buffers, 2);
  small.clear();
  EXPECT_EQ(counts().live_buffers, 1);
}

TEST(MetalDevice, PiecesDoNotOverlapAndAreAligned) {
  const auto device = make();
  std::vector<std::unique_ptr<Buffer>> odd;
  for (float i = 0; i < 20; ++i) {
    odd.push_back(device->allocate(3));
    odd.push_back(floats(*device, i, 5));
  }
  const auto commands = device->commands();
  const std::uint64_t count = 5;
  for (std::size_t i = 1; i + 2 < odd.size(); i += 2) {
    commands->dispatch_threads(device->pipeline("gemm_epilogue", "residual_float"), {5, 1, 1}, {5, 1, 1},
                               Arguments().buffer(0, *odd[i]).buffer(1, *odd[i + 2]).bytes(2, count));
  }
  run(*commands);
  for (std::size_t i = 1; i + 2 < odd.size(); i += 2) EXPECT_EQ(first(*odd[i]), static_cast<float>(i));
}

TEST(MetalDevice, NamesTheLimitsOfMemory) {
  machine().largest_buffer = 3 << 20;
  machine().working_set = 13 << 20;
  const auto device = make();
  expect_error(ErrorCode::kOutOfMemory, "a buffer of 4194304 bytes, this GPU takes at most 3145728 in one",
               [&] { device->allocate(4 << 20); });
  machine().largest_buffer = 32 << 20;
  const auto most = device->allocate(12 << 20);
  expect_error(
      ErrorCode::kOutOfMemory,
      "cannot allocate 2.0 MiB of Metal memory: 12.0 MiB of the 13.0 MiB that macOS lets the GPU use are taken",
      [&] { device->allocate(2 << 20); });
}

TEST(MetalDevice, PlansWithWhatMacOsLetsItTake) {
  machine().working_set = 13 << 20;
  const auto device = make();
  const std::size_t before = device->available_memory();
  EXPECT_LE(before, std::size_t{13} << 20);
  const auto some = device->allocate(4 << 20);
  EXPECT_EQ(device->available_memory(), before - (4 << 20));
  machine().working_set = std::size_t{1} << 60;
  EXPECT_LE(device->available_memory(), available_memory());  // the system's, which it shares
}

TEST(MetalDevice, ACachesLayerIsOneBuffer) {
  machine().largest_buffer = 9 << 20;
  LoadOptions options;
  options.backend = kRecordedMetal;
  const auto model = Model::load(test_data("fixtures/qwen3-tiny"), options);
  expect_error(ErrorCode::kInvalidArgument, "cache_tokens is 1000000, a cache of Apple M0 (recorded) takes at most ",
               [&] { Session(model, {.cache_tokens = 1000000}); });
  const std::int64_t pages = Session(model, {.max_sequences = 16}).cache_stats().limit;
  EXPECT_GT(pages, 2000);
  EXPECT_LT(pages, (9 << 20) / (4 << 10));  // 4096, but for the buffer
}

TEST(MetalDevice, GivesLargeBytesABufferOfTheirOwn) {
  const auto device = make();
  const auto x = floats(*device, 1, 2000);
  const std::vector<float> y(2000, 2);
  const auto commands = device->commands();
  const std::uint64_t count = y.size();
  commands->dispatch_threads(device->pipeline("gemm_epilogue", "residual_float"), {2000, 1, 1}, {128, 1, 1},
                             Arguments().buffer(0, *x).raw_bytes(1, std::as_bytes(std::span(y))).bytes(2, count));
  run(*commands);
  EXPECT_EQ(first(*x), 3);
}

TEST(MetalDevice, RefusesWhatTheGpuDoesNotTake) {
  machine().most_threads = 64;
  const auto device = make();
  const auto x = floats(*device, 1);
  const auto commands = device->commands();
  expect_error(ErrorCode::kUnsupported, "kernel residual_float: a threadgroup of 128 threads, this GPU takes 64", [&] {
    add(*device, *commands, *x, *x);
    run(*commands);
  });
}

TEST(MetalDevice, AllocatesThreadgroupMemoryBySixteenBytesUpToItsLimit) {
  const auto device = make();
  const auto nothing = device->allocate(1 << 16);
  const MslLibrary& library = *find_shader("dense_gemm").library;
  const auto dispatch = [&](std::uint32_t bytes) {  // over no rows, whatever the arguments are
    const Pipeline& pipeline = device->pipeline("dense_gemm", library.kernels[0].name, tile_constants(*device));
    Arguments arguments;
    for (const MslArgument& argument : std::span(pipeline.kernel().arguments, pipeline.kernel().argument_count)) {
      if (argument.kind == kMslThreadgroup) arguments.threadgroup(argument.index, bytes);
      if (argument.kind != kMslBuffer) continue;
      if (argument.by_value != 0) {
        arguments.raw_bytes(argument.index, std::vector<std::byte>(argument.size));
      } else {
        arguments.buffer(argument.index, *nothing);
      }
    }
    const auto commands = device->commands();
    commands->dispatch(pipeline, {1, 1, 1}, {32, 1, 1}, arguments);
    run(*commands);
  };
  dispatch(20);  // the stand-in takes multiples of 16 alone
  expect_error(ErrorCode::kUnsupported, "33792 bytes of threadgroup memory, this GPU has 32768",
               [&] { dispatch(33 << 10); });
  std::size_t& of_kernel = machine().static_bytes[library.kernels[0].name];  // variables take of the same memory
  of_kernel = 32768 - 32;
  dispatch(20);
  of_kernel = 32768 - 16;
  expect_error(ErrorCode::kUnsupported, "32784 bytes of threadgroup memory, this GPU has 32768", [&] { dispatch(20); });
}

TEST(MetalDevice, AnErrorOfTheGpuNamesKernelsAndEncoder) {
  const auto device = make();
  const auto x = floats(*device, 1);
  const auto commands = device->commands();
  add(*device, *commands, *x, *x);
  machine().next_error = "Caused GPU Timeout Error";
  commands->commit();
  expect_error(ErrorCode::kInternal,
               "Metal: Caused GPU Timeout Error, running residual_float; at fault: residual_float",
               [&] { commands->wait(); });
  run(*commands);  // and goes on
  EXPECT_EQ(first(*x), 2);
}

TEST(MetalDevice, AnExceptionWhileEncodingLeavesNoEncoderOpen) {
  const auto device = make(1, 1);
  const auto x = floats(*device, 1);
  const auto y = floats(*device, 1);
  const auto commands = device->commands();
  for (int i = 0; i < 3; ++i) add(*device, *commands, *x, *y);
  machine().throws_at = 2;
  EXPECT_THROW(commands->commit(), std::bad_alloc);
  commands->wait();  // for the first, which was committed
  EXPECT_EQ(first(*x), 2);
  run(*commands);
  EXPECT_EQ(first(*x), 5);
}

TEST(MetalDevice, TakesTheLibraryOrSaysWhyNotAndCompilesTheText) {
  const std::filesystem::path file = std::filesystem::path(testing::TempDir()) / "recorded.metallib";
  for (const bool good : {true, false}) {
    std::ofstream(file, std::ios::binary) << (good ? "MTLB" : "MTLX");
    MetalOptions options;
    options.library = file;
    options.labels = true;
    testing::internal::CaptureStderr();
    const auto device = make_metal_device(options);
    EXPECT_EQ(testing::internal::GetCapturedStderr(),
              good ? ""
                   : "metal-marlin: " + file.string() +
                         ": Invalid library file; shaders are compiled from their text instead\n");
    EXPECT_FALSE(device->matrix_unit().staged);
  }
  std::filesystem::remove(file);
}

TEST(MetalDevice, RunsOnMacos14WithoutResidencySets) {
  machine().macos = 14;
  const auto device = make();
  const auto x = floats(*device, 1);
  const auto commands = device->commands();
  add(*device, *commands, *x, *x);
  run(*commands);
  EXPECT_EQ(first(*x), 2);
}

TEST(MetalDevice, ThreadsUseItSideBySide) {
  const auto device = make();
  std::array<float, 4> found{};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < found.size(); ++t) {
    threads.emplace_back([&, t] {
      const auto value = static_cast<float>(t);
      for (int i = 0; i < 20; ++i) {
        const auto x = floats(*device, value);
        const auto y = floats(*device, 1);
        const auto commands = device->commands();
        add(*device, *commands, *x, *y);
        run(*commands);
        found[t] = first(*x);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t t = 0; t < found.size(); ++t) EXPECT_EQ(found[t], static_cast<float>(t) + 1);
}

}  // namespace
}  // namespace metal_marlin::msl
