// Memory that processor and GPU share.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backends/msl/device.h"
#include "backends/msl/metal/metal_objects.h"

namespace metal_marlin::msl::metal {

// What is to stay in the GPU's reach while it is used: every buffer, from macOS 15 on. Before that
// Metal makes a command buffer's own resident each time.
class Residency {
 public:
  explicit Residency(MTL::Device& device);
  void add(const MTL::Buffer& buffer);
  void remove(const MTL::Buffer& buffer);
  void attach(MTL::CommandQueue& queue) const;

 private:
  NS::SharedPtr<MTL::ResidencySet> set_;  // null before macOS 15
  std::mutex mutex_;
};

// One buffer of Metal's, and which of its bytes are free.
class Slab {
 public:
  Slab(std::shared_ptr<Residency> residency, NS::SharedPtr<MTL::Buffer> buffer, std::size_t bytes);
  ~Slab();
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
  [[nodiscard]] MTL::Buffer& buffer() const { return *buffer_.get(); }
  // Where `bytes` begin; nothing: there is no room.
  std::optional<std::size_t> take(std::size_t bytes);
  void give_back(std::size_t begin, std::size_t bytes);

 private:
  std::shared_ptr<Residency> residency_;
  NS::SharedPtr<MTL::Buffer> buffer_;
  std::mutex mutex_;
  std::map<std::size_t, std::size_t> free_;  // begin to end
};

// Bytes of a slab, which goes back to Metal with the last of its pieces.
class Piece {
 public:
  Piece(std::shared_ptr<Slab> slab, std::size_t begin, std::size_t bytes)
      : slab_(std::move(slab)), begin_(begin), bytes_(bytes) {}
  ~Piece() { slab_->give_back(begin_, bytes_); }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;
  [[nodiscard]] MTL::Buffer& buffer() const { return slab_->buffer(); }
  [[nodiscard]] std::size_t begin() const { return begin_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] std::byte* contents() const { return static_cast<std::byte*>(buffer().contents()) + begin_; }

 private:
  std::shared_ptr<Slab> slab_;
  std::size_t begin_;
  std::size_t bytes_;
};

// Threads may allocate, and let go, side by side.
class MetalMemory {
 public:
  // \param labels pieces are named for Metal's debugger
  MetalMemory(NS::SharedPtr<MTL::Device> device, bool labels);
  // \throws Error (kOutOfMemory) when Metal takes no buffer so large, or the GPU's memory is used up.
  std::shared_ptr<const Piece> allocate(std::size_t bytes);
  // Bytes of the working set that macOS recommends and nobody has taken.
  [[nodiscard]] std::size_t available() const;
  [[nodiscard]] const Residency& residency() const { return *residency_; }

 private:
  std::shared_ptr<Slab> make_slab(std::size_t bytes);
  std::shared_ptr<const Piece> take_small(std::size_t bytes);  // of a slab that there is, where one has room

  NS::SharedPtr<MTL::Device> device_;
  bool labels_;
  std::shared_ptr<Residency> residency_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Slab>> slabs_;  // of small pieces
};

class MetalBuffer final : public Buffer {
 public:
  MetalBuffer(std::shared_ptr<const Piece> piece, std::size_t bytes) : Buffer(bytes), piece_(std::move(piece)) {}
  [[nodiscard]] const std::shared_ptr<const Piece>& piece() const { return piece_; }

 protected:
  void write(std::span<const std::byte> bytes, std::size_t offset) override;
  void read(std::span<std::byte> bytes, std::size_t offset) const override;

 private:
  std::shared_ptr<const Piece> piece_;
};

}  // namespace metal_marlin::msl::metal
