// Every body, in the order they use each other, and the table of this instruction set. Included inside its namespace after its
// lanes.
#include "lib/kernels/body/linear.inl"
#include "lib/kernels/body/activation.inl"

static KernelTable MakeTable(const char* isa) {
  KernelTable table;
  table.isa = isa;
  table.linear_bf16 = &LinearBf16Body;
  table.linear_f32 = &LinearF32Body;
  table.dot_f32 = &DotF32Body;
  table.exp_shifted = &ExpShiftedBody;
  table.swiglu = &SwiGluBody;
  table.sigmoid = &SigmoidBody;
  return table;
}
