// What a peer writes into shared memory: the slot of a frame and the frame itself. Whatever the
// bytes, the frame lies in the arena or is refused, and what is read of it lies in the frame.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "lib/base/check.h"
#include "lib/rpc/shm_frame.h"
#include "lib/rpc/shm_ring.h"

namespace {

using tandem::rpc::kFrameAlign;
using tandem::rpc::PayloadView;

volatile unsigned char sink;

// Reading all of it lets the sanitizer look.
void Touch(const void* data, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; ++i) sink = static_cast<const unsigned char*>(data)[i];
}

void Touch(const PayloadView& view) {
  Touch(view.data, uint64_t{view.rows} * view.cols * tandem::rpc::WireDTypeBytes(view.dtype));
}

void ReadAsCall(std::span<const std::byte> frame) {
  tandem::rpc::ReceivedCall received;
  if (!tandem::rpc::ReadCall(frame, &received).ok()) return;
  Touch(received.call.x);
  Touch(received.call.expert_ids.data(), received.call.expert_ids.size_bytes());
  Touch(received.call.grid_exponents.data(), received.call.grid_exponents.size_bytes());
  Touch(received.call.model_digest.data(), received.call.model_digest.size());
  TANDEM_CHECK_LE(received.call.x.data - frame.data(), static_cast<ptrdiff_t>(frame.size()));
}

void ReadAsAnswer(std::span<const std::byte> frame) {
  tandem::rpc::ReceivedAnswer received;
  if (!tandem::rpc::ReadAnswer(frame, &received).ok()) return;
  Touch(received.answer.row_flags.data(), received.answer.row_flags.size());
  Touch(received.answer.sums);
}

}  // namespace

// The first 16 bytes are the slot, the rest is the arena.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint64_t slot[2];
  if (size < sizeof slot) return 0;
  std::memcpy(slot, data, sizeof slot);
  const size_t arena_bytes = size - sizeof slot;
  // Its end is the end of an allocation, so that the sanitizer sees one byte too many.
  auto* const arena = new (std::align_val_t{kFrameAlign}) std::byte[arena_bytes];
  std::memcpy(arena, data + sizeof slot, arena_bytes);
  const auto shared = std::make_unique<tandem::rpc::RingShared>();
  shared->slots[0].offset_bytes = slot[0];
  shared->slots[0].frame_bytes = slot[1];
  shared->slots[0].published = 1;
  tandem::rpc::RingConsumer consumer(shared.get(), arena, arena_bytes);
  if (const auto frame = consumer.Take(); frame.ok()) {
    TANDEM_CHECK(frame->has_value());
    const std::span<const std::byte> bytes = (*frame)->bytes;
    TANDEM_CHECK(bytes.data() >= arena && bytes.data() + bytes.size() <= arena + arena_bytes);
    ReadAsCall(bytes);
    ReadAsAnswer(bytes);
  }
  ::operator delete[](arena, std::align_val_t{kFrameAlign});
  return 0;
}
