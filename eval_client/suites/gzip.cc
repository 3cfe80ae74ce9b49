#include "eval_client/suites/gzip.h"

#include <zlib.h>

#include "absl/strings/str_format.h"

namespace tandem::eval {
namespace {

constexpr int kGzipOnly = 16 + MAX_WBITS;  // zlib's way to say: no other format
constexpr size_t kStep = size_t{64} << 10;

class Inflater {
 public:
  explicit Inflater(std::string_view bytes) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream_.avail_in = static_cast<uInt>(bytes.size());
    started_ = inflateInit2(&stream_, kGzipOnly) == Z_OK;
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;
  ~Inflater() {
    if (started_) inflateEnd(&stream_);
  }

  absl::StatusOr<std::string> All(size_t bytes_max) {
    std::string out;
    int code = started_ ? Z_OK : Z_MEM_ERROR;
    while (code == Z_OK && out.size() <= bytes_max) {
      code = Step(&out);
      // Members may follow one another; each is a stream of its own.
      if (code == Z_STREAM_END && stream_.avail_in > 0) code = inflateReset(&stream_);
    }
    if (out.size() > bytes_max) {
      return absl::InvalidArgumentError(
          absl::StrFormat("expected gzip of at most %d bytes, found more", bytes_max));
    }
    if (code != Z_STREAM_END) return absl::InvalidArgumentError("expected whole gzip data");
    return out;
  }

 private:
  int Step(std::string* out) {
    const size_t before = out->size();
    out->resize(before + kStep);
    stream_.next_out = reinterpret_cast<Bytef*>(out->data() + before);
    stream_.avail_out = static_cast<uInt>(kStep);
    const int code = inflate(&stream_, Z_NO_FLUSH);
    out->resize(before + kStep - stream_.avail_out);
    // Nothing more to read and not at the end: cut off.
    return code == Z_OK && stream_.avail_in == 0 && stream_.avail_out > 0 ? Z_DATA_ERROR : code;
  }

  z_stream stream_ = {};
  bool started_ = false;
};

}  // namespace

absl::StatusOr<std::string> Gunzip(std::string_view bytes, size_t bytes_max) {
  if (bytes.size() > UINT32_MAX) {
    return absl::InvalidArgumentError("expected gzip of less than 4 GiB");
  }
  return Inflater(bytes).All(bytes_max);
}

}  // namespace tandem::eval
