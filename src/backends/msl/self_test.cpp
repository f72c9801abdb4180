#include "backends/msl/self_test.h"

#include <cmath>
#include <functional>
#include <map>

#include "backends/msl/dequantize.h"
#include "backends/msl/linear.h"
#include "formats/packed_matrix.h"
#include "metal_marlin/error.h"
#include "runtime/thread_pool.h"

namespace metal_marlin::msl {
namespace {

constexpr std::int64_t kRows = 24;
constexpr std::int64_t kCols = 96;

// Numbers of both signs that repeat late.
float number(std::int64_t i) {
  return static_cast<float>((i * 7919 + 13) % 251 - 125) / 97.0F;
}

struct Matrix {
  PackedMatrix packed;
  std::vector<float> decoded;
};

Matrix make_matrix(Format format, ThreadPool& pool) {
  const RowReader read = [](std::int64_t row, float* out) {
    for (std::int64_t k = 0; k < kCols; ++k) out[k] = number(row * kCols + k);
  };
  Matrix m{quantize_matrix(default_spec(format), kRows, kCols, read, 1, pool), {}};
  m.decoded.resize(static_cast<std::size_t>(kRows * kCols));
  for (std::int64_t row = 0; row < kRows; ++row) m.packed.view().decode_row(row, m.decoded.data() + row * kCols);
  return m;
}

bool product_matches(Device& device, const Weight& weight, const std::vector<float>& w, std::int64_t tokens,
                     Activations mode, ThreadPool& pool) {
  const Linear linear(device, "w", weight, kRows, kCols, pool);
  const LinearWorkspace workspace(device, tokens, kCols, kRows);
  std::vector<float> x(static_cast<std::size_t>(tokens * kCols));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = number(static_cast<std::int64_t>(i) + 1000);
  const auto x_buffer = device.allocate_with(x);
  const auto y_buffer = device.allocate(static_cast<std::size_t>(tokens * kRows) * sizeof(float));
  const auto commands = device.commands();
  Linear::Call call;
  call.x = x_buffer.get();
  call.y = y_buffer.get();
  call.tokens = tokens;
  call.mode = mode;
  linear.encode(*commands, call, workspace);
  commands->commit();
  commands->wait();
  std::vector<float> y(static_cast<std::size_t>(tokens * kRows));
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < kRows; ++r) {
      double sum = 0;
      double size = 0;
      for (std::int64_t k = 0; k < kCols; ++k) {
        const double term = static_cast<double>(w[static_cast<std::size_t>(r * kCols + k)]) *
                            x[static_cast<std::size_t>(t * kCols + k)];
        sum += term;
        size += std::fabs(term);
      }
      if (!(std::fabs(y[static_cast<std::size_t>(t * kRows + r)] - sum) <= size * 0x1.1p-10)) return false;
    }
  }
  return true;
}

bool products_match(Device& device, Format format, std::int64_t tokens, Activations mode, ThreadPool& pool) {
  const Matrix m = make_matrix(format, pool);
  return product_matches(device, {m.packed.view(), nullptr}, m.decoded, tokens, mode, pool);
}

bool dense_matches(Device& device, ThreadPool& pool) {
  const Matrix m = make_matrix(Format::kInt8, pool);
  const DenseView view{DType::kF32, {kRows, kCols}, std::as_bytes(std::span(m.decoded))};
  return product_matches(device, {view, nullptr}, m.decoded, 5, Activations::kInt8, pool) &&
         products_match(device, Format::kNf4, 3, Activations::kF32, pool);
}

bool dequantized_matches(Device& device, Format format, ThreadPool& pool) {
  const Matrix m = make_matrix(format, pool);
  const UnitMatrix units = make_unit_matrix(device, "w", m.packed.view(), pool);
  const auto out = device.allocate(m.decoded.size() * sizeof(float));
  const auto commands = device.commands();
  encode_dequantize(device, *commands, units, DType::kF32, *out);
  commands->commit();
  commands->wait();
  std::vector<float> found(m.decoded.size());
  out->download(std::as_writable_bytes(std::span(found)));
  return found == m.decoded;
}

}  // namespace

std::vector<ShaderStatus> self_test(Device& device) {
  ThreadPool pool(1);
  const std::map<std::string_view, std::function<bool()>> tests = {
      {"decode_gemv", [&] { return products_match(device, Format::kFp4, 3, Activations::kInt8, pool); }},
      {"dense_gemm", [&] { return dense_matches(device, pool); }},
      {"dequant", [&] { return dequantized_matches(device, Format::kFp4, pool); }},
      {"dequant_fp8", [&] { return dequantized_matches(device, Format::kFp8E4M3, pool); }},
      {"dequant_int8", [&] { return dequantized_matches(device, Format::kInt8, pool); }},
      {"dequant_sub4bit", [&] { return dequantized_matches(device, Format::kInt3, pool); }},
      {"gemm_fp4_optimized", [&] { return products_match(device, Format::kFp4, 130, Activations::kInt8, pool); }},
      {"marlin_gemm", [&] { return products_match(device, Format::kS4, 40, Activations::kInt8, pool); }},
  };
  std::vector<ShaderStatus> out;
  for (const EmbeddedShader& shader : embedded_shaders()) {
    ShaderStatus status;
    status.shader = shader.name;
    status.kernels = shader.library->kernel_count;
    const auto test = tests.find(shader.name);
    try {
      if (test == tests.end()) throw Error(ErrorCode::kInternal, "no test of this shader");
      status.matched = test->second();
      status.executed = true;
      if (!status.matched) status.fault = "results differ from the reference";
    } catch (const Error& error) {
      status.fault = error.what();
    }
    out.push_back(std::move(status));
  }
  return out;
}

}  // namespace metal_marlin::msl
