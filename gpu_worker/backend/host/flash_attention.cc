#include <algorithm>
#include <vector>

#include "gpu_worker/backend/host/attention.h"
#include "gpu_worker/backend/host/bf16.h"
#include "gpu_worker/backend/host/flash_block.h"

namespace tandem::gpu_worker {
namespace {

// Rows that are absorbed, attended and projected together, so that scratch stays small whatever the
// step: 64 rows x 128 heads x 576 values are 19 MB.
constexpr int64_t kGroupRows = 64;

// (row, head) pairs whose scores against one page are computed at once; a page is unpacked once for
// all of them. 128 covers one row of the largest model and eight rows of a 16-head one.
constexpr int64_t kTilePairs = 128;

// Bytes that block states of a decode wave may take together; more pages than fit are merged in
// several waves.
constexpr int64_t kWaveBytes = 16 << 20;

// One row of a step and the page table it reads.
struct Row {
  int64_t id = 0;  // in the step
  int64_t position = 0;
  std::span<const uint32_t> pages;

  int64_t page_count() const { return position / kPageTokens + 1; }
  // Keys of `page` that this row may see.
  int64_t Visible(int64_t page) const {
    return std::clamp<int64_t>(position + 1 - page * kPageTokens, 0, kPageTokens);
  }
};

std::vector<Row> RowsOf(const Segment& segment) {
  std::vector<Row> rows;
  for (int64_t r = 0; r < segment.rows; ++r) {
    rows.push_back({segment.row_begin + r, segment.start_position + r, segment.pages});
  }
  return rows;
}

// `cols` values of each row, from row.id * stride on, packed together in the form linear layers
// take.
struct PackedRows {
  std::vector<uint16_t> bf16;
  std::vector<float> f32;

  const void* Pack(Precision precision, const float* x, int64_t stride, std::span<const Row> rows,
                   int64_t cols) {
    const size_t size = rows.size() * cols;
    if (precision == Precision::kBf16) {
      bf16.resize(size);
      for (size_t r = 0; r < rows.size(); ++r) {
        PackBf16(x + rows[r].id * stride, stride, 1, cols, bf16.data() + r * cols);
      }
      return bf16.data();
    }
    f32.resize(size);
    for (size_t r = 0; r < rows.size(); ++r) {
      std::copy_n(x + rows[r].id * stride, cols, f32.data() + r * cols);
    }
    return f32.data();
  }
};

// The queries of `rows` in latent space, and their growing softmax states.
struct Group {
  std::span<const Row> rows;
  std::vector<float> latent_q;  // [rows, heads, key]: W_k^T q_nope of each head, then q_rope
  FlashState total;             // [rows, heads]
};

Group Absorb(const AttentionArgs& args, std::span<const Row> rows) {
  const AttentionShape& s = *args.shape;
  const int64_t count = static_cast<int64_t>(rows.size());
  Group group{rows, std::vector<float>(count * s.heads * s.key()),
              FlashState(count * s.heads, s.latent)};
  args.pool->ParallelFor(s.heads, 1, [&](int64_t begin, int64_t end) {
    PackedRows packed;
    for (int64_t head = begin; head < end; ++head) {
      const float* q = args.q + head * s.qk();
      float* out = group.latent_q.data() + head * s.key();
      const void* x = packed.Pack(args.precision, q, s.heads * s.qk(), rows, s.nope);
      args.heads->keys[head].ApplyRange(x, s.nope, count, 0, s.latent, true, out,
                                        s.heads * s.key());
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(q + rows[r].id * s.heads * s.qk() + s.nope, s.rope,
                    out + r * s.heads * s.key() + s.latent);
      }
    }
  });
  return group;
}

// attended = W_v (mean / sum) of each row and head.
void ProjectValues(const AttentionArgs& args, Group& group) {
  const AttentionShape& s = *args.shape;
  const int64_t count = static_cast<int64_t>(group.rows.size());
  for (int64_t pair = 0; pair < count * s.heads; ++pair) {
    float* mean = group.total.mean.data() + pair * s.latent;
    for (int64_t c = 0; c < s.latent; ++c) mean[c] /= group.total.sum[pair];
  }
  std::vector<Row> local(count);  // rows numbered within the group
  for (int64_t r = 0; r < count; ++r) local[r].id = r;
  args.pool->ParallelFor(s.heads, 1, [&](int64_t begin, int64_t end) {
    PackedRows packed;
    std::vector<float> out(count * s.v);
    for (int64_t head = begin; head < end; ++head) {
      const void* x = packed.Pack(args.precision, group.total.mean.data() + head * s.latent,
                                  s.heads * s.latent, local, s.latent);
      args.heads->values[head].ApplyRange(x, s.latent, count, 0, s.v, true, out.data(), s.v);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(out.data() + r * s.v, s.v,
                    args.attended + (group.rows[r].id * s.heads + head) * s.v);
      }
    }
  });
}

// All pages of rows [first, first + count) of a group, in order, on one thread. The rows share a
// page table.
void PrefillTile(const AttentionArgs& args, Group& group, int64_t first, int64_t count) {
  const AttentionShape& s = *args.shape;
  const std::span<const Row> rows = group.rows.subspan(first, count);
  FlashScratch scratch;
  FlashState block;
  std::vector<int64_t> visible(count);
  for (int64_t page = 0; page < rows.back().page_count(); ++page) {
    for (int64_t r = 0; r < count; ++r) visible[r] = rows[r].Visible(page);
    LoadBlock(args, rows[0].pages[page], visible.back(), scratch);
    BlockState(args, group.latent_q.data() + first * s.heads * s.key(), count, visible.data(),
               scratch, block);
    for (int64_t i = 0; i < count * s.heads; ++i) {
      MergePair(s.latent, block, i, group.total, first * s.heads + i);
    }
  }
}

// One page of one row of a group.
struct DecodeJob {
  int64_t row = 0;   // in the group
  int64_t page = 0;  // in the row's page table
};

// Jobs in parallel, then their states merged in the order of the jobs, heads in parallel.
void DecodeWave(const AttentionArgs& args, std::span<const DecodeJob> jobs, Group& group) {
  const AttentionShape& s = *args.shape;
  const int64_t count = static_cast<int64_t>(jobs.size());
  std::vector<FlashState> blocks(count);
  args.pool->ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
    FlashScratch scratch;
    for (int64_t j = begin; j < end; ++j) {
      const Row& row = group.rows[jobs[j].row];
      const int64_t visible = row.Visible(jobs[j].page);
      LoadBlock(args, row.pages[jobs[j].page], visible, scratch);
      BlockState(args, group.latent_q.data() + jobs[j].row * s.heads * s.key(), 1, &visible,
                 scratch, blocks[j]);
    }
  });
  args.pool->ParallelFor(s.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t head = begin; head < end; ++head) {
        MergePair(s.latent, blocks[j], head, group.total, jobs[j].row * s.heads + head);
      }
    }
  });
}

// Calls body on consecutive parts of `rows` of at most kGroupRows.
template <typename Body>
void ForGroups(std::span<const Row> rows, const Body& body) {
  for (size_t begin = 0; begin < rows.size(); begin += kGroupRows) {
    body(rows.subspan(begin, std::min<size_t>(kGroupRows, rows.size() - begin)));
  }
}

}  // namespace

void FlashPrefill(const AttentionArgs& args, const Segment& segment) {
  const std::vector<Row> rows = RowsOf(segment);
  const int64_t tile_rows = std::max<int64_t>(1, kTilePairs / args.shape->heads);
  ForGroups(rows, [&](std::span<const Row> part) {
    Group group = Absorb(args, part);
    const int64_t count = static_cast<int64_t>(part.size());
    args.pool->ParallelFor((count + tile_rows - 1) / tile_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        PrefillTile(args, group, t * tile_rows, std::min(tile_rows, count - t * tile_rows));
      }
    });
    ProjectValues(args, group);
  });
}

void FlashDecode(const AttentionArgs& args, std::span<const Segment> segments) {
  std::vector<Row> rows;
  for (const Segment& segment : segments) {
    const std::vector<Row> more = RowsOf(segment);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  const int64_t state_bytes =
      args.shape->heads * args.shape->latent * static_cast<int64_t>(sizeof(float));
  const size_t wave_jobs = std::max<int64_t>(1, kWaveBytes / state_bytes);
  ForGroups(rows, [&](std::span<const Row> part) {
    Group group = Absorb(args, part);
    std::vector<DecodeJob> jobs;
    for (size_t r = 0; r < part.size(); ++r) {
      for (int64_t page = 0; page < part[r].page_count(); ++page) {
        jobs.push_back({static_cast<int64_t>(r), page});
      }
    }
    for (size_t begin = 0; begin < jobs.size(); begin += wave_jobs) {
      DecodeWave(args, std::span(jobs).subspan(begin, std::min(wave_jobs, jobs.size() - begin)),
                 group);
    }
    ProjectValues(args, group);
  });
}

}  // namespace tandem::gpu_worker
