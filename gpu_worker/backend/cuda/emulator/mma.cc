#include "gpu_worker/backend/cuda/simt/mma.h"

#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda::emulator {
namespace {

struct MmaArguments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

float Half(uint32_t word, int half) { return FromBf16(static_cast<Bf16>(word >> (16 * half))); }

// A[row][k] and B[k][column] from the fragments of all lanes.
float OfA(MmaArguments* const* lanes, int row, int k) {
  const int lane = row % 8 * 4 + k % 8 / 2;
  return Half(lanes[lane]->a[k / 8 * 2 + row / 8], k % 2);
}
float OfB(MmaArguments* const* lanes, int k, int column) {
  return Half(lanes[column * 4 + k % 8 / 2]->b[k / 8], k % 2);
}

struct IntegerMmaArguments {
  int32_t* d;
  const uint32_t* a;
  const uint32_t* b;
  int depth;
};

struct LoadArguments {
  uint32_t* registers;
  int matrices;
  bool transposed;
  const unsigned char* row;
};

}  // namespace

void MmaBf16(float* d, const uint32_t* a, const uint32_t* b) {
  MmaArguments mine{d, a, b};
  WarpCollective(0xffffffffu, mine, [](MmaArguments* const* lanes, uint32_t) {
    float left[16][16], right[8][16];
    for (int row = 0; row < 16; ++row) {
      for (int k = 0; k < 16; ++k) left[row][k] = OfA(lanes, row, k);
    }
    for (int column = 0; column < 8; ++column) {
      for (int k = 0; k < 16; ++k) right[column][k] = OfB(lanes, k, column);
    }
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        float& sum = lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[column][k];
      }
    }
  });
}

void MmaU8S8(int32_t* d, const uint32_t* a, const uint32_t* b, int depth) {
  IntegerMmaArguments mine{d, a, b, depth};
  WarpCollective(0xffffffffu, mine, [](IntegerMmaArguments* const* lanes, uint32_t) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int32_t& sum = lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2];
        for (int k = 0; k < lanes[0]->depth; ++k) {
          const int t = k % 16 / 4, shift = 8 * (k % 4);
          const uint32_t left = lanes[row % 8 * 4 + t]->a[k / 16 * 2 + row / 8];
          const uint32_t right = lanes[column * 4 + t]->b[k / 16];
          sum += static_cast<uint8_t>(left >> shift) * static_cast<int8_t>(right >> shift);
        }
      }
    }
  });
}

void LoadMatrix(uint32_t* registers, int matrices, bool transposed, const void* row) {
  LoadArguments mine{registers, matrices, transposed, nullptr};
  if (Lane() < 8 * matrices) mine.row = SharedPointer(SharedAddress(row), 16);
  if (SharedAddress(row) % 16 != 0) Fail("ldmatrix of a row that is not aligned to 16 bytes");
  WarpCollective(0xffffffffu, mine, [](LoadArguments* const* lanes, uint32_t) {
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int m = 0; m < lanes[lane]->matrices; ++m) {
        uint32_t& to = lanes[lane]->registers[m];
        if (!lanes[lane]->transposed) {
          std::memcpy(&to, lanes[8 * m + g]->row + 4 * t, 4);
        } else {
          uint16_t low, high;
          std::memcpy(&low, lanes[8 * m + 2 * t]->row + 2 * g, 2);
          std::memcpy(&high, lanes[8 * m + 2 * t + 1]->row + 2 * g, 2);
          to = static_cast<uint32_t>(high) << 16 | low;
        }
      }
    }
  });
}

}  // namespace tandem::gpu_worker::cuda::emulator
