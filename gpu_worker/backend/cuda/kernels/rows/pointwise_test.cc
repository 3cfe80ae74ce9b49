// Pointwise operations and copies of rows: bit for bit what the host does.
#include <gtest/gtest.h>

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/rows/rows_test_support.h"
#include "lib/kernels/activation.h"
#include "lib/kernels/expert_grid.h"
#include "lib/kernels/kernel_table.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kCounts[] = {1, 8, 9, 2047, 2048, 2049, 5000};

TestRows Flat(Storage storage, int64_t count, int64_t offset, std::mt19937& random,
              int spread = 12) {
  return RandomRows(storage, 1, count, count, offset, random, spread);
}

TEST(Add, RoundsOnce) {
  std::mt19937 random(1);
  for (const Storage storage : kStorages) {
    for (const int64_t count : kCounts) {
      for (const int64_t offset : {0, 1}) {  // aligned to 16 bytes or not
        const TestRows x = Flat(storage, count, offset, random);
        const TestRows delta = Flat(storage, count, 0, random);
        DeviceForTest device;
        void* const to = UploadRows(device, x);
        Add(storage, UploadRows(device, delta), count, to, device.stream());
        std::vector<float> expected;
        for (int64_t i = 0; i < count; ++i) {
          expected.push_back(InStorage(storage, x.values[i] + delta.values[i]));
        }
        ExpectSameBits(DownloadRows(device, x, to), expected);
      }
    }
  }
}

TEST(AddMoe, AddsRoutedAndSharedFirst) {
  std::mt19937 random(2);
  for (const Storage storage : kStorages) {
    for (const int64_t count : kCounts) {
      const TestRows x = Flat(storage, count, 0, random);
      const TestRows shared = Flat(storage, count, 2, random);
      const TestRows routed = Flat(Storage::kF32, count, 1, random);
      DeviceForTest device;
      void* const to = UploadRows(device, x);
      AddMoe(storage, UploadRows(device, shared),
             static_cast<const float*>(UploadRows(device, routed)), count, to, device.stream());
      std::vector<float> expected;
      for (int64_t i = 0; i < count; ++i) {
        expected.push_back(InStorage(storage, x.values[i] + (routed.values[i] + shared.values[i])));
      }
      ExpectSameBits(DownloadRows(device, x, to), expected);
    }
  }
}

std::vector<float> HostSwiGlu(Storage storage, std::vector<float> gate,
                              const std::vector<float>& up) {
  kernels::SwiGlu(gate.data(), up.data(), gate.data(), static_cast<int64_t>(gate.size()));
  for (float& v : gate) v = InStorage(storage, v);
  return gate;
}

TEST(SwiGlu, IsTheHosts) {
  std::mt19937 random(3);
  for (const Storage storage : kStorages) {
    for (const int64_t count : kCounts) {
      const TestRows gate = Flat(storage, count, 0, random), up = Flat(storage, count, 0, random);
      TestRows out = gate;
      out.offset = 3;
      DeviceForTest device;
      void* const from = UploadRows(device, gate);
      void* const apart = AllocateRows(device, out);
      const void* const factors = UploadRows(device, up);
      SwiGluArgs args{storage, from, factors, count, count, 1, apart, count};
      SwiGlu(args, device.stream());
      args.out = from;
      SwiGlu(args, device.stream());
      const std::vector<float> expected = HostSwiGlu(storage, gate.values, up.values);
      ExpectSameBits(DownloadRows(device, out, apart), expected);
      ExpectSameBits(DownloadRows(device, gate, from), expected);
    }
  }
}

// Gate and up side by side, as one product leaves them, into rows of another width.
TEST(SwiGlu, OfRowsThatAreApart) {
  std::mt19937 random(4);
  for (const Storage storage : kStorages) {
    for (const int64_t cols : {1, 8, 129, 2056}) {
      const TestRows gate = RandomRows(storage, 3, cols, 2 * cols + 5, 0, random);
      const TestRows up = RandomRows(storage, 3, cols, 2 * cols + 5, 0, random);
      TestRows both{storage, 3, 2 * cols, 2 * cols + 5};
      for (int64_t r = 0; r < 3; ++r) {
        both.values.insert(both.values.end(), gate.row(r), gate.row(r) + cols);
        both.values.insert(both.values.end(), up.row(r), up.row(r) + cols);
      }
      const TestRows out{storage, 3, cols, cols + 3};
      DeviceForTest device;
      auto* const from = static_cast<std::byte*>(UploadRows(device, both));
      SwiGluArgs args{storage, from, from + cols * BytesOf(storage), both.stride, cols, 3};
      args.out = AllocateRows(device, out);
      args.out_stride = out.stride;
      SwiGlu(args, device.stream());
      const std::vector<float> expected = HostSwiGlu(storage, gate.values, up.values);
      ExpectSameBits(DownloadRows(device, out, args.out), expected);
    }
  }
}

// Every 30011th f32, with all that is not finite, and the ends of exp's range.
TEST(SwiGlu, OverTheWholeRangeOfF32) {
  TestRows gate{Storage::kF32, 1, 0, 0};
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 30011) {
    gate.values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float v : {88.7f, 88.69999f, 88.70001f, 87.3f, 87.29999f, 87.30001f, 0.0f, infinity}) {
    gate.values.push_back(v);
    gate.values.push_back(-v);
  }
  gate.values.push_back(kNan);
  gate.cols = gate.stride = static_cast<int64_t>(gate.values.size());
  TestRows up = gate;
  std::fill(up.values.begin(), up.values.end(), 1.0f);
  DeviceForTest device;
  void* const memory = UploadRows(device, gate);
  const int64_t count = gate.cols;
  SwiGlu({Storage::kF32, memory, UploadRows(device, up), count, count, 1, memory, count},
         device.stream());
  ExpectSameBits(DownloadRows(device, gate, memory),
                 HostSwiGlu(Storage::kF32, gate.values, up.values));
}

TEST(Pointwise, NothingIsNoWork) {
  DeviceForTest device;
  for (const Storage storage : kStorages) {
    Add(storage, nullptr, 0, nullptr, device.stream());
    AddMoe(storage, nullptr, nullptr, 0, nullptr, device.stream());
    SwiGlu({storage}, device.stream());
    Embed(storage, nullptr, nullptr, 64, 0, nullptr, device.stream());
  }
  ScatterAddRows({}, device.stream());
}

TEST(Embed, CopiesRowsOfTheTable) {
  std::mt19937 random(4);
  for (const Storage storage : kStorages) {
    for (const int64_t hidden : {1, 40, 63, 2048, 2304}) {
      const TestRows table = RandomRows(storage, 11, hidden, hidden, 0, random);
      const std::vector<uint32_t> ids = {10, 0, 3, 3};
      const TestRows shape{storage, 4, hidden, hidden};
      DeviceForTest device;
      void* const x = AllocateRows(device, shape);
      Embed(storage, device.Upload(ids), UploadRows(device, table), hidden, 4, x, device.stream());
      std::vector<float> expected;
      for (const uint32_t id : ids) {
        expected.insert(expected.end(), table.row(id), table.row(id) + hidden);
      }
      ExpectSameBits(DownloadRows(device, shape, x), expected);
    }
  }
}

TEST(GatherRows, LeavesOutRowsThatAreNone) {
  std::mt19937 random(5);
  for (const Storage storage : kStorages) {
    for (const int64_t cols : {17, 256, 2056}) {
      const TestRows x = RandomRows(storage, 5, cols, cols + 3, 1, random);
      const TestRows shape{storage, 4, cols, cols};
      DeviceForTest device;
      void* const out = AllocateRows(device, shape);
      GatherRows(storage, UploadRows(device, x), x.stride,
                 device.Upload(std::vector<uint32_t>{4, kNoRow, 1, 4}), cols, 4, out,
                 device.stream());
      std::vector<float> expected(4 * cols, 0.0f);
      std::copy_n(x.row(4), cols, expected.begin());
      std::copy_n(x.row(1), cols, expected.begin() + 2 * cols);
      std::copy_n(x.row(4), cols, expected.begin() + 3 * cols);
      ExpectSameBits(DownloadRows(device, shape, out), expected);
    }
  }
}

struct Scatter {
  std::vector<uint32_t> starts, entries;
  std::vector<float> weights;
};

std::vector<float> RunScatter(const TestRows& y, const Scatter& s, bool weighted) {
  DeviceForTest device;
  ScatterAddArgs args;
  args.storage = y.storage;
  args.y = UploadRows(device, y);
  args.y_stride = y.stride;
  args.starts = device.Upload(s.starts);
  args.entries = device.Upload(s.entries);
  if (weighted) args.weights = device.Upload(s.weights);
  args.rows = static_cast<int64_t>(s.starts.size()) - 1;
  args.cols = y.cols;
  args.out = device.Allocate<float>(args.rows * y.cols);
  ScatterAddRows(args, device.stream());
  return device.Download(args.out, args.rows * y.cols);
}

TEST(ScatterAddRows, AddsInTheOrderOfTheList) {
  std::mt19937 random(6);
  const Scatter s = {
      {0, 3, 3, 4, 8}, {5, 0, 2, 1, 4, 4, 3, 0}, {.1f, .7f, -.3f, 1, .2f, 3, .9f, 5}};
  for (const Storage storage : kStorages) {
    for (const int64_t cols : {9, 256, 2056}) {
      for (const bool weighted : {false, true}) {
        const TestRows y = RandomRows(storage, 6, cols, cols + 1, 1, random);
        std::vector<float> expected(4 * cols, 0.0f);
        for (int64_t r = 0; r < 4; ++r) {
          for (uint32_t e = s.starts[r]; e < s.starts[r + 1]; ++e) {
            for (int64_t c = 0; c < cols; ++c) {
              const float term = (weighted ? s.weights[e] : 1.0f) * y.at(s.entries[e], c);
              expected[r * cols + c] += term;
            }
          }
        }
        const std::vector<float> all = RunScatter(y, s, weighted);
        ExpectSameBits(all, expected);
        // The last row alone.
        const Scatter last = {{4, 8}, s.entries, s.weights};
        ExpectSameBits(RunScatter(y, last, weighted), {all.begin() + 3 * cols, all.end()});
      }
    }
  }
}

struct GridSums {
  std::vector<int32_t> steps;
  std::vector<uint8_t> flags;
};

// The steps of a CPU worker, row by row; of a flagged row they mean nothing.
GridSums HostGrid(const TestRows& y, const Scatter& s, const std::vector<float>& inverse_steps,
                  float limit) {
  const size_t rows = s.starts.size() - 1;
  GridSums sums{std::vector<int32_t>(rows * y.cols, 0), std::vector<uint8_t>(rows, 0)};
  for (size_t r = 0; r < rows; ++r) {
    for (uint32_t e = s.starts[r]; e < s.starts[r + 1]; ++e) {
      const bool inside = kernels::ActiveTable().grid_add({y.row(s.entries[e]), y.cols,
                                                           s.weights[e], inverse_steps[r], limit,
                                                           sums.steps.data() + r * y.cols});
      if (!inside) sums.flags[r] = 1;
    }
  }
  return sums;
}

TEST(ScatterAddGrid, HasTheStepsOfACpuWorker) {
  std::mt19937 random(7);
  const Scatter s = {
      {0, 3, 3, 4, 8}, {5, 0, 2, 1, 4, 4, 3, 0}, {.1f, .7f, -.3f, 1, .2f, 3, .9f, 5}};
  constexpr int kTopK = 8;
  const auto limit = static_cast<float>(kernels::GridLimit(kTopK));
  for (const Storage storage : kStorages) {
    for (const int64_t cols : {9, 256, 2056}) {
      TestRows y = RandomRows(storage, 6, cols, cols + 1, 1, random, 6);
      // Row 2's grid ends at 256: the first power of two from 64 * 3 on.
      for (const float bad : {0.0f, 256.0f, 300.0f, kNan}) {
        if (bad != 0.0f) y.values[1 * cols + cols / 2] = InStorage(storage, bad);  // of row 2 alone
        std::vector<float> inverse_steps;
        for (int r = 0; r < 4; ++r) {
          inverse_steps.push_back(
              kernels::GridStep(-kernels::GridExponent(static_cast<float>(r + 1), 1.0f, kTopK)));
        }
        const GridSums expected = HostGrid(y, s, inverse_steps, limit);
        EXPECT_EQ(expected.flags, (std::vector<uint8_t>{0, 0, !(bad <= 256.0f), 0}));
        DeviceForTest device;
        ScatterGridArgs args;
        args.rows.storage = storage;
        args.rows.y = UploadRows(device, y);
        args.rows.y_stride = y.stride;
        args.rows.starts = device.Upload(s.starts);
        args.rows.entries = device.Upload(s.entries);
        args.rows.weights = device.Upload(s.weights);
        args.rows.rows = 4;
        args.rows.cols = cols;
        args.inverse_steps = device.Upload(inverse_steps);
        args.limit = limit;
        args.steps = device.Allocate<int32_t>(4 * cols);
        args.flags = device.Allocate<uint8_t>(4);
        ScatterAddGrid(args, device.stream());
        EXPECT_EQ(device.Download(args.steps, 4 * cols), expected.steps);
        EXPECT_EQ(device.Download(args.flags, 4), expected.flags);
      }
    }
  }
}

TEST(Pointwise, AGraphDoesItAgain) {
  std::mt19937 random(8);
  const TestRows x = Flat(Storage::kBf16, 500, 0, random),
                 delta = Flat(Storage::kBf16, 500, 0, random);
  DeviceForTest device;
  void* const to = UploadRows(device, x);
  const void* const from = UploadRows(device, delta);
  BeginCapture(device.stream());
  Add(Storage::kBf16, from, 500, to, device.stream());
  const ExecutableGraph graph = EndCapture(device.stream());
  LaunchGraph(graph, device.stream());
  LaunchGraph(graph, device.stream());
  std::vector<float> expected = x.values;
  for (int64_t i = 0; i < 500; ++i) {
    for (int launch = 0; launch < 2; ++launch) {
      expected[i] = InStorage(Storage::kBf16, expected[i] + delta.values[i]);
    }
  }
  ExpectSameBits(DownloadRows(device, x, to), expected);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
