// Every body, in the order they use each other, and the table of this instruction set. Included
// inside its namespace after its lanes.
// Each body uses those before it.
// clang-format off
#include "lib/kernels/body/linear.inl"
#include "lib/kernels/body/block_linear.inl"
#include "lib/kernels/body/activation.inl"
#include "lib/kernels/body/activation_rows.inl"
#include "lib/kernels/body/unpack_small.inl"
#include "lib/kernels/body/unpack_k.inl"
#include "lib/kernels/body/unpack_i.inl"
#include "lib/kernels/body/panel_codes.inl"
#include "lib/kernels/body/denormals.inl"
#include "lib/kernels/body/panel_floats.inl"
#include "lib/kernels/body/tile_codes.inl"
// clang-format on

static void SetUnpackers(KernelTable* table) {
  const auto set = [table](DType type, UnpackRow unpack) {
    table->unpack[static_cast<int>(type)] = unpack;
  };
  set(DType::kQ8_0, &UnpackQ8_0);
  set(DType::kQ4_0, &UnpackQ4_0);
  set(DType::kQ4_1, &UnpackQ4_1);
  set(DType::kQ5_0, &UnpackQ5_0);
  set(DType::kQ5_1, &UnpackQ5_1);
  set(DType::kQ2_K, &UnpackQ2_K);
  set(DType::kQ3_K, &UnpackQ3_K);
  set(DType::kQ4_K, &UnpackQ4_K);
  set(DType::kQ5_K, &UnpackQ5_K);
  set(DType::kQ6_K, &UnpackQ6_K);
  set(DType::kIQ1_S, &UnpackIQ1_S);
  set(DType::kIQ1_M, &UnpackIQ1_M);
  set(DType::kIQ2_XXS, &UnpackIQ2_XXS);
  set(DType::kIQ2_XS, &UnpackIQ2_XS);
  set(DType::kIQ2_S, &UnpackIQ2_S);
  set(DType::kIQ3_XXS, &UnpackIQ3_XXS);
  set(DType::kIQ3_S, &UnpackIQ3_S);
  set(DType::kIQ4_NL, &UnpackIQ4_NL);
  set(DType::kIQ4_XS, &UnpackIQ4_XS);
}

static void SetPanels(KernelTable* table) {
#define TANDEM_SET_PANEL(type)                                                \
  table->panel[static_cast<int>(DType::type)] = &PanelCodesBody<DType::type>; \
  table->panel_tiles[static_cast<int>(DType::type)] = &LaneTilesBody<DType::type>;
  TANDEM_FOR_EACH_PACKED_TYPE(TANDEM_SET_PANEL)
#undef TANDEM_SET_PANEL
  table->panel[static_cast<int>(DType::kBF16)] = &PanelHalfBody<DType::kBF16>;
  table->panel[static_cast<int>(DType::kF16)] = &PanelHalfBody<DType::kF16>;
  table->panel[static_cast<int>(DType::kF8E4M3)] = &PanelHalfBody<DType::kF8E4M3>;
  table->panel_f32 = &PanelF32Body;
  table->unpack_panel = &UnpackPanelBody;
}

static KernelTable MakeTable(const char* isa) {
  KernelTable table;
  table.isa = isa;
  table.linear_bf16 = &LinearBf16Body;
  table.linear_f32 = &LinearF32Body;
  table.dot_f32 = &DotF32Body;
  table.linear_fp8 = &BlockLinearBody<Fp8Format>;
  table.linear_marlin = &BlockLinearBody<MarlinFormat>;
  table.quantize_fp8 = &QuantizeFp8Body;
  table.exp_shifted = &ExpShiftedBody;
  table.swiglu = &SwiGluBody;
  table.sigmoid = &SigmoidBody;
  table.quantize_row = &QuantizeRowBody;
  table.widen_bf16 = &WidenBf16Body;
  table.narrow_bf16 = &NarrowBf16Body;
  table.grid_add = &GridAddBody;
  SetUnpackers(&table);
  SetPanels(&table);
  return table;
}
