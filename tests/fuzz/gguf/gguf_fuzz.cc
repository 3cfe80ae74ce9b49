// Feeds arbitrary bytes to the GGUF parser, then uses every tensor it accepted as a worker would:
// whatever passes the parser must be safe to read from its first byte to its last.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "lib/base/check.h"
#include "lib/model/gguf_file.h"
#include "lib/tensor/codec.h"

namespace {

// Decodes the first and the last row, long ones in part.
void ReadTensor(const tandem::TensorView& tensor) {
  using tandem::DType;
  const int64_t blocks_max = 64;
  const int64_t cols =
      std::min<int64_t>(tensor.cols(), blocks_max * tandem::InfoOf(tensor.dtype).block_elems);
  std::vector<float> values(cols);
  for (const int64_t row : {int64_t{0}, tensor.rows() - 1}) {
    const std::byte* start = tensor.data + row * tensor.row_bytes();
    (void)tandem::ValidateRow(tensor.dtype, start, tensor.cols());
    if (tensor.dtype != DType::kI32)
      tandem::DequantizeRow(tensor.dtype, start, cols, values.data());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed =
      tandem::ParseGguf({reinterpret_cast<const std::byte*>(data), size}, "fuzz.gguf");
  if (!parsed.ok()) {
    TANDEM_CHECK_EQ(parsed.status().message().find("fuzz.gguf: "),
                    0u);  // every error names the file
    return 0;
  }
  for (const tandem::TensorView& tensor : parsed->tensors) ReadTensor(tensor);
  return 0;
}
