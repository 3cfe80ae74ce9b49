// Feeds arbitrary bytes to the safetensors parser, then reads every tensor it accepted from its
// first byte to its last.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "lib/base/check.h"
#include "lib/model/safetensors_file.h"
#include "lib/tensor/codec.h"

namespace {

void ReadTensor(const tandem::TensorView& tensor) {
  const int64_t cols = std::min<int64_t>(tensor.cols(), 4096);
  std::vector<float> values(cols);
  for (const int64_t row : {int64_t{0}, tensor.rows() - 1}) {
    const std::byte* start = tensor.data + row * tensor.row_bytes();
    if (tensor.dtype != tandem::DType::kI32) {
      tandem::DequantizeRow(tensor.dtype, start, cols, values.data());
    }
  }
  volatile std::byte last = tensor.data[tensor.size_bytes - 1];
  (void)last;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto parsed = tandem::ParseSafetensors({reinterpret_cast<const std::byte*>(data), size},
                                               "fuzz.safetensors");
  if (!parsed.ok()) {
    TANDEM_CHECK_EQ(parsed.status().message().find("fuzz.safetensors: "),
                    0u);  // every error names the file
    return 0;
  }
  for (const tandem::TensorView& tensor : parsed->tensors) ReadTensor(tensor);
  return 0;
}
