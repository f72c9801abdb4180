#include "backends/msl/metal/metal_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/memory.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl::metal {
namespace {

// Smaller ones share a buffer of Metal's, which stops at 499,000 of them.
constexpr std::size_t kLargeBytes = std::size_t{1} << 20;
constexpr std::size_t kSlabBytes = std::size_t{8} << 20;
// More than any type needs; lines of the GPU's caches are not shared by two pieces.
constexpr std::size_t kAlignment = 256;

// Hazards are ours to see to (barriers.h), so that pieces of one buffer do not wait for each other.
constexpr MTL::ResourceOptions kOptions = MTL::ResourceStorageModeShared | MTL::ResourceHazardTrackingModeUntracked;

std::size_t round_up(std::size_t n) {
  return (n + kAlignment - 1) / kAlignment * kAlignment;
}

// Null: there is no room.
std::shared_ptr<const Piece> piece_of(std::shared_ptr<Slab> slab, std::size_t bytes) {
  const std::optional<std::size_t> begin = slab->take(bytes);
  return begin ? std::make_shared<const Piece>(std::move(slab), *begin, bytes) : nullptr;
}

}  // namespace

Residency::Residency(MTL::Device& device) {
  if (!macos_at_least(15)) return;
  const NS::SharedPtr<MTL::ResidencySetDescriptor> descriptor =
      NS::TransferPtr(MTL::ResidencySetDescriptor::alloc()->init());
  NS::Error* error = nullptr;
  set_ = NS::TransferPtr(device.newResidencySet(descriptor.get(), &error));
  if (!set_) throw Error(ErrorCode::kInternal, "Metal makes no residency set: " + text_of(error));
}

void Residency::add(const MTL::Buffer& buffer) {
  if (!set_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  set_->addAllocation(&buffer);
  set_->commit();
  set_->requestResidency();
}

void Residency::remove(const MTL::Buffer& buffer) {
  if (!set_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  set_->removeAllocation(&buffer);
  set_->commit();
}

void Residency::attach(MTL::CommandQueue& queue) const {
  if (set_) queue.addResidencySet(set_.get());
}

Slab::Slab(std::shared_ptr<Residency> residency, NS::SharedPtr<MTL::Buffer> buffer, std::size_t bytes)
    : residency_(std::move(residency)), buffer_(std::move(buffer)), free_{{0, bytes}} {
  residency_->add(*buffer_.get());
}

Slab::~Slab() {
  const auto pool = scoped_pool();
  residency_->remove(*buffer_.get());
}

std::optional<std::size_t> Slab::take(std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found =
      std::find_if(free_.begin(), free_.end(), [&](const auto& range) { return range.second - range.first >= bytes; });
  if (found == free_.end()) return std::nullopt;
  const auto [begin, end] = *found;
  free_.erase(found);
  if (begin + bytes < end) free_.emplace(begin + bytes, end);
  return begin;
}

void Slab::give_back(std::size_t begin, std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::size_t end = begin + bytes;
  const auto after = free_.lower_bound(begin);
  if (after != free_.begin() && std::prev(after)->second == begin) {
    begin = std::prev(after)->first;
    free_.erase(std::prev(after));
  }
  if (after != free_.end() && after->first == end) {
    end = after->second;
    free_.erase(after);
  }
  free_.emplace(begin, end);
}

MetalMemory::MetalMemory(NS::SharedPtr<MTL::Device> device, bool labels)
    : device_(std::move(device)), labels_(labels), residency_(std::make_shared<Residency>(*device_.get())) {}

std::size_t MetalMemory::available() const {
  const std::size_t most = device_->recommendedMaxWorkingSetSize();
  return most - std::min<std::size_t>(device_->currentAllocatedSize(), most);
}

std::shared_ptr<Slab> MetalMemory::make_slab(std::size_t bytes) {
  if (bytes > device_->maxBufferLength()) {
    throw Error(ErrorCode::kOutOfMemory, fmt::format("a buffer of {} bytes, this GPU takes at most {} in one", bytes,
                                                     device_->maxBufferLength()));
  }
  if (bytes > available()) {
    throw Error(ErrorCode::kOutOfMemory,
                fmt::format("cannot allocate {} of Metal memory: {} of the {} that macOS lets the GPU use are taken "
                            "(sysctl iogpu.wired_limit_mb can raise that)",
                            byte_text(bytes), byte_text(device_->currentAllocatedSize()),
                            byte_text(device_->recommendedMaxWorkingSetSize())));
  }
  NS::SharedPtr<MTL::Buffer> buffer = NS::TransferPtr(device_->newBuffer(bytes, kOptions));
  if (!buffer) throw Error(ErrorCode::kOutOfMemory, fmt::format("cannot allocate {} bytes of Metal memory", bytes));
  return std::make_shared<Slab>(residency_, std::move(buffer), bytes);
}

std::shared_ptr<const Piece> MetalMemory::take_small(std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::erase_if(slabs_, [](const std::weak_ptr<Slab>& slab) { return slab.expired(); });
  for (const std::weak_ptr<Slab>& weak : slabs_) {
    std::shared_ptr<Slab> slab = weak.lock();
    if (slab == nullptr) continue;
    if (std::shared_ptr<const Piece> piece = piece_of(std::move(slab), bytes)) return piece;
  }
  std::shared_ptr<Slab> slab = make_slab(kSlabBytes);
  slabs_.push_back(slab);
  return piece_of(std::move(slab), bytes);
}

std::shared_ptr<const Piece> MetalMemory::allocate(std::size_t bytes) {
  const auto pool = scoped_pool();
  const std::size_t wanted = round_up(std::max<std::size_t>(bytes, 1));
  std::shared_ptr<const Piece> piece = wanted < kLargeBytes ? take_small(wanted) : piece_of(make_slab(wanted), wanted);
  if (labels_) {
    piece->buffer().addDebugMarker(string_of(fmt::format("{} bytes", bytes)),
                                   NS::Range::Make(piece->begin(), std::max<std::size_t>(bytes, 1)));
  }
  return piece;
}

void MetalBuffer::write(std::span<const std::byte> bytes, std::size_t offset) {
  std::memcpy(piece_->contents() + offset, bytes.data(), bytes.size());
}
void MetalBuffer::read(std::span<std::byte> bytes, std::size_t offset) const {
  std::memcpy(bytes.data(), piece_->contents() + offset, bytes.size());
}

}  // namespace metal_marlin::msl::metal
