#include "gpu_worker/experts/dispatch.h"

#include <gtest/gtest.h>

#include "gpu_worker/experts/combine.h"
#include "lib/kernels/expert_grid.h"
#include "lib/rpc/tensor_frame.h"

namespace tandem::gpu_worker {
namespace {

using experts::v1::ExpertRows;

ExpertRows BuildRows(const RoutedLayer& layer, const Frame& frame, uint64_t epoch,
                     const std::string& digest, experts::v1::ReplyForm form) {
  FrameCall call;
  BuildCall(layer, frame, epoch, digest, form, &call);
  return rpc::ToMessage(call.call);
}

// Three workers; expert e of layer 4 on worker e % 3, then on (e + 1) % 3. Expert 5 has no owner.
membership::v1::Placement TestPlacement() {
  membership::v1::Placement placement;
  placement.set_epoch(9);
  for (const char* address : {"a:1", "b:1", "c:1"}) {
    auto* worker = placement.add_workers();
    worker->set_address(address);
    worker->set_ready(true);
  }
  auto* layer = placement.add_layers();
  layer->set_layer(4);
  for (uint32_t e = 0; e < 6; ++e) {
    auto* expert = layer->add_experts();
    if (e == 5) continue;
    expert->add_workers(e % 3);
    expert->add_workers((e + 1) % 3);
  }
  return placement;
}

// Two rows of two values, two experts each: row 0 to experts 0 and 1, row 1 to experts 3 and
// `last`.
struct TwoRows {
  explicit TwoRows(uint32_t last = 2) : x(8) {
    choice = {2, {0, 1, 3, last}, {0.5f, 0.25f, 0.75f, 1.0f}};
    layer = {.layer = 4,
             .hidden = 2,
             .choice = &choice,
             .dtype = tensor::v1::WIRE_DTYPE_BF16,
             .x = x,
             .grid_exponents = {-10, -12}};
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::byte>(i);
  }
  std::vector<std::byte> x;
  RouterChoice choice;
  RoutedLayer layer;
  const std::vector<Term> terms = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
};

TEST(DispatchTest, OneFramePerWorkerWithItsRowsOnce) {
  const TwoRows two;
  const Dispatch dispatch = PlanDispatch(PlacementTable(TestPlacement()), two.layer, two.terms, {});
  EXPECT_TRUE(dispatch.orphans.empty());
  ASSERT_EQ(dispatch.frames.size(), 3u);
  EXPECT_EQ(dispatch.frames[0].address, "a:1");  // experts 0 and 3
  const ExpertRows rows =
      BuildRows(two.layer, dispatch.frames[0], 9, "digest", experts::v1::REPLY_FORM_GRID_SUM);
  EXPECT_EQ(rows.epoch(), 9u);
  EXPECT_EQ(rows.layer(), 4u);
  EXPECT_EQ(rows.x().rows(), 2u);
  EXPECT_EQ(rows.x().data(), std::string("\0\1\2\3\4\5\6\7", 8));
  ASSERT_EQ(rows.expert_ids_size(), 2);
  EXPECT_EQ(rows.expert_ids(1), 3u);
  EXPECT_EQ(rows.expert_weights(1), 0.75f);
  EXPECT_EQ(rows.experts_per_row(0), 1u);
  EXPECT_EQ(rows.grid_exponents(1), -12);
  const ExpertRows c =
      BuildRows(two.layer, dispatch.frames[2], 9, "digest", experts::v1::REPLY_FORM_PER_EXPERT_F32);
  EXPECT_EQ(c.x().data(), std::string("\4\5\6\7", 4));
  EXPECT_EQ(c.grid_exponents_size(), 0);
}

TEST(DispatchTest, ReplicasAndOrphans) {
  const TwoRows two(5);
  membership::v1::Placement placement = TestPlacement();
  Dispatch dispatch = PlanDispatch(PlacementTable(placement), two.layer, two.terms, {"a:1"});
  ASSERT_EQ(dispatch.orphans.size(), 1u);  // expert 5
  EXPECT_EQ(dispatch.orphans[0].row, 1);
  ASSERT_EQ(dispatch.frames.size(), 1u);  // 0, 1 and 3 all on b
  EXPECT_EQ(dispatch.frames[0].address, "b:1");
  EXPECT_EQ(dispatch.frames[0].terms.size(), 3u);
  placement.mutable_workers(1)->set_ready(false);
  dispatch = PlanDispatch(PlacementTable(placement), two.layer, two.terms, {"a:1"});
  EXPECT_EQ(dispatch.orphans.size(), 3u);  // expert 1 goes on to c
}

TEST(DispatchTest, TablesThatLieAreHarmless) {
  membership::v1::Placement placement = TestPlacement();
  placement.mutable_layers(0)->mutable_experts(0)->set_workers(0, 77);
  const PlacementTable table(placement);
  EXPECT_EQ(table.Replicas(4, 0).size(), 1u);
  EXPECT_TRUE(table.Replicas(4, 6).empty());
  EXPECT_TRUE(table.Replicas(3, 0).empty());
}

rpc::Answer AnswerWith(tensor::v1::WireDType dtype, const void* values, uint32_t rows,
                       const std::string& flags) {
  experts::v1::ExpertSums sums;
  sums.set_row_flags(flags);
  rpc::WritePayload(dtype, rows, 2, values, sums.mutable_sums());
  return rpc::AnswerOf(std::move(sums), "a:1").value();
}

rpc::Answer GridAnswer(std::vector<int32_t> values, uint32_t rows, std::string flags = "") {
  return AnswerWith(tensor::v1::WIRE_DTYPE_I32, values.data(), rows, flags);
}

TEST(CombineTest, AnyGroupingGivesTheSameSum) {
  const TwoRows two;
  Combine one(two.layer), three(two.layer);
  ASSERT_TRUE(one.AddGridSums({"a:1", two.terms}, GridAnswer({11, 22, 33, 44}, 2)).ok());
  ASSERT_TRUE(three.AddGridSums({"b:1", {{1, 1}}}, GridAnswer({30, 40}, 1)).ok());
  ASSERT_TRUE(three.AddGridSums({"a:1", {{0, 0}, {1, 0}}}, GridAnswer({1, 2, 3, 4}, 2)).ok());
  ASSERT_TRUE(three.AddGridSums({"c:1", {{0, 1}}}, GridAnswer({10, 20}, 1)).ok());
  std::vector<float> a(4), b(4);
  one.Finish(a);
  three.Finish(b);
  EXPECT_EQ(a, b);
  EXPECT_EQ(a[0], 11 * kernels::GridStep(-10));
  EXPECT_EQ(a[3], 44 * kernels::GridStep(-12));
}

TEST(CombineTest, PerExpertTermsReplaceAFlaggedRow) {
  const TwoRows two;
  Combine combine(two.layer);
  ASSERT_TRUE(
      combine.AddGridSums({"a:1", two.terms}, GridAnswer({1, 2, 99, 99}, 2, std::string("\0\1", 2)))
          .ok());
  EXPECT_EQ(combine.FlaggedRows(), (std::vector<int64_t>{1}));
  const float terms[] = {1e8f, 2, 1, 3};
  const rpc::Answer answer = AnswerWith(tensor::v1::WIRE_DTYPE_F32, terms, 2, "");
  ASSERT_TRUE(combine.AddPerExpert({"a:1", {{1, 0}, {1, 1}}}, answer).ok());
  std::vector<float> out(4);
  combine.Finish(out);
  EXPECT_EQ(out[1], 2 * kernels::GridStep(-10));
  EXPECT_EQ(out[2], 1e8f + 1);
  EXPECT_EQ(out[3], 5.0f);
}

TEST(CombineTest, WrongAnswersAreRefused) {
  const TwoRows two;
  Combine combine(two.layer);
  const Frame frame{"a:1", two.terms};
  EXPECT_FALSE(combine.AddGridSums(frame, GridAnswer({1, 2}, 1)).ok());
  EXPECT_FALSE(combine.AddGridSums(frame, GridAnswer({1, 2, 3, 4}, 2, "x")).ok());
  EXPECT_FALSE(combine.AddPerExpert(frame, GridAnswer({1, 2, 3, 4}, 2)).ok());
  experts::v1::ExpertSums lying;
  const int32_t values[] = {1, 2, 3, 4};
  rpc::WritePayload(tensor::v1::WIRE_DTYPE_I32, 2, 2, values, lying.mutable_sums());
  lying.mutable_sums()->mutable_data()->resize(3);
  EXPECT_EQ(rpc::AnswerOf(lying, "a:1").status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tandem::gpu_worker
