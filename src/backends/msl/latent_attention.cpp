#include "backends/msl/latent_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"
#include "common/paged_attention_params.h"
#include "formats/small_floats.h"

namespace metal_marlin::msl {
namespace {

// dense: the expansion's type, where it is not quantized.
DType key_type(std::optional<DType> dense, Activations mode) {
  if (dense == DType::kF16 || dense == DType::kBf16) return *dense;
  return mode == Activations::kF32 ? DType::kF32 : DType::kF16;
}

std::optional<DType> dense_type_of(const Weight& weight) {
  if (weight.packed()) return std::nullopt;
  return std::get<DenseView>(weight.view).dtype;
}

// Each head's key expansion, transposed: [rank, nope_dim].
std::vector<Weight> transposed_keys(const LatentAttentionOp& op, const Weight& expand, DType type, ThreadPool& pool) {
  const auto nope = static_cast<std::size_t>(op.nope_dim);
  const auto rank = static_cast<std::size_t>(op.rank);
  const std::size_t element = dtype_bytes(type);
  std::vector<Weight> out(static_cast<std::size_t>(op.heads));
  pool.parallel_for(op.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(rank);
    for (std::int64_t head = begin; head < end; ++head) {
      auto bytes = std::make_shared<std::vector<std::byte>>(nope * rank * element);
      for (std::size_t n = 0; n < nope; ++n) {
        expand.decode_row(head * (op.nope_dim + op.value_dim) + static_cast<std::int64_t>(n), op.rank, row.data());
        for (std::size_t r = 0; r < rank; ++r) {
          const std::uint32_t bits = type == DType::kF32   ? std::bit_cast<std::uint32_t>(row[r])
                                     : type == DType::kF16 ? f32_to_f16(row[r])
                                                           : f32_to_bf16(row[r]);
          std::memcpy(bytes->data() + (r * nope + n) * element, &bits, element);
        }
      }
      out[static_cast<std::size_t>(head)] = {DenseView{type, {op.rank, op.nope_dim}, *bytes}, bytes};
    }
  });
  return out;
}

std::vector<Weight> value_parts(const LatentAttentionOp& op, const Weight& expand) {
  std::vector<Weight> out;
  for (std::int64_t head = 0; head < op.heads; ++head)
    out.push_back(expand.rows(head * (op.nope_dim + op.value_dim) + op.nope_dim, op.value_dim));
  return out;
}

}  // namespace

LatentWorkspace::LatentWorkspace(Device& device, const LatentAttentionOp& op, std::int64_t max_tokens)
    : linear_(device, max_tokens * op.heads, std::max(op.nope_dim, op.rank), 1) {
  const auto rows = static_cast<std::size_t>(max_tokens * op.heads);
  queries_ = device.allocate(rows * static_cast<std::size_t>(op.rank + op.rope_dim) * sizeof(float));
  sums_ = device.allocate(rows * static_cast<std::size_t>(op.rank) * sizeof(float));
}

LatentAttention::LatentAttention(Device& device, const LatentAttentionOp& op, const Weight& expand, Activations mode,
                                 ThreadPool& pool)
    : device_(device),
      op_(op),
      mode_(mode),
      keys_(device, op.expand, transposed_keys(op, expand, key_type(dense_type_of(expand), mode), pool), op.rank,
            op.nope_dim, pool),
      values_(device, op.expand, value_parts(op, expand), op.value_dim, op.rank, pool) {}

std::size_t LatentAttention::bytes_of(const LatentAttentionOp& op, const WeightInfo& expand, Activations mode) {
  WeightInfo keys;
  keys.dtype = key_type(expand.packed ? std::nullopt : std::optional(expand.dtype), mode);
  return static_cast<std::size_t>(op.heads) *
         (matrix_bytes(keys, op.rank, op.nope_dim) + matrix_bytes(expand, op.value_dim, op.rank));
}

PagedParams latent_paged_params(const LatentAttentionOp& op) {
  PagedParams p;
  p.heads = to_u32(op.heads);
  p.kv_heads = 1;
  p.key_dim = to_u32(op.rank + op.rope_dim);
  p.value_dim = to_u32(op.rank);
  p.latent = 1;
  p.q_stride = to_u32(op.heads * (op.rank + op.rope_dim));
  p.out_stride = to_u32(op.heads * op.rank);
  p.scale = op.scale;
  return p;
}

void LatentAttention::encode(Commands& commands, const LatentCall& call, const LatentWorkspace& workspace) const {
  if (call.tokens == 0) return;
  PagedParams paged = latent_paged_params(op_);
  paged.table_stride = call.table_stride;
  paged.splits = call.splits;
  paged.split_keys = call.split_keys;
  const MlaParams p{to_u32(op_.heads),         to_u32(op_.nope_dim),   to_u32(op_.rope_dim),
                    to_u32(op_.rank),          1U << paged.page_shift, call.table_stride,
                    op_.interleaved ? 1U : 0U, op_.norm_eps,           call.rope_scale};
  commands.dispatch(device_.pipeline("mla_proj", fmt::format("mla_place_{}", kv_type_name(call.cache))),
                    {to_u32(call.tokens), 1, 1}, {128, 1, 1},
                    Arguments()
                        .buffer(0, *call.q)
                        .buffer(1, *call.latent)
                        .buffer(2, *call.norm)
                        .buffer(3, *call.frequencies)
                        .buffer(4, *call.paged.positions)
                        .buffer(5, *call.paged.sequences)
                        .buffer(6, *call.paged.tables)
                        .buffer(7, *call.paged.keys)
                        .buffer(8, workspace.queries())
                        .bytes(9, p));
  BatchedCall batched;
  batched.rows = call.tokens * op_.heads;
  batched.mode = mode_;
  batched.x = call.q;
  batched.x_stride = op_.nope_dim + op_.rope_dim;
  batched.y = &workspace.queries();
  batched.y_stride = op_.rank + op_.rope_dim;
  encode_batched(device_, commands, keys_, batched, workspace.linear());
  encode_paged_attention(device_, commands, paged, DType::kF32, call.cache, call.tokens, workspace.queries(),
                         workspace.sums(), call.paged);
  batched.x = &workspace.sums();
  batched.x_stride = op_.rank;
  batched.y = call.out;
  batched.y_stride = op_.value_dim;
  encode_batched(device_, commands, values_, batched, workspace.linear());
}

}  // namespace metal_marlin::msl
