#include "lib/model/model_weights_writer.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"

namespace tandem {
namespace {

std::string PartialPath(const std::string& path) { return path + ".partial"; }

absl::Status CheckRoom(const std::string& path, int64_t needed_bytes) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  struct statvfs fs {};
  if (statvfs(folder.empty() ? "." : folder.c_str(), &fs) != 0)
    return absl::NotFoundError(absl::StrCat("folder of ", path, ": ", std::strerror(errno)));
  const uint64_t free_bytes = static_cast<uint64_t>(fs.f_bavail) * fs.f_frsize;
  if (static_cast<uint64_t>(needed_bytes) <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(path, " needs ", base::HumanBytes(needed_bytes),
                                                   ", but the file system has ",
                                                   base::HumanBytes(free_bytes), " free"));
}

}  // namespace

WeightFileWriter::WeightFileWriter(std::string path, FileLayout layout, int fd)
    : path_(std::move(path)), layout_(std::move(layout)), fd_(fd) {}

WeightFileWriter::WeightFileWriter(WeightFileWriter&& other) noexcept
    : path_(std::move(other.path_)),
      layout_(std::move(other.layout_)),
      fd_(std::exchange(other.fd_, -1)),
      tensor_(other.tensor_),
      written_of_tensor_(other.written_of_tensor_) {}

WeightFileWriter::~WeightFileWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(PartialPath(path_).c_str());
}

absl::StatusOr<WeightFileWriter> WeightFileWriter::Create(const std::string& path,
                                                          FileLayout layout, bool overwrite) {
  if (!overwrite && std::filesystem::exists(path))
    return absl::AlreadyExistsError(absl::StrCat(path, " exists already"));
  TANDEM_RETURN_IF_ERROR(CheckRoom(path, layout.file_bytes));
  const int fd = open(PartialPath(path).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0)
    return absl::PermissionDeniedError(absl::StrCat(PartialPath(path), ": ", std::strerror(errno)));
  WeightFileWriter writer(path, std::move(layout), fd);
  const std::string& header = writer.layout_.header;
  TANDEM_RETURN_IF_ERROR(writer.WriteAll(std::as_bytes(std::span(header.data(), header.size()))));
  return writer;
}

absl::Status WeightFileWriter::WriteAll(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = write(fd_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0)
      return absl::DataLossError(absl::StrCat(PartialPath(path_), ": ", std::strerror(errno)));
    bytes = bytes.subspan(done);
  }
  return absl::OkStatus();
}

absl::Status WeightFileWriter::Append(std::span<const std::byte> bytes) {
  TANDEM_CHECK_LT(tensor_, layout_.tensor_bytes.size());
  written_of_tensor_ += static_cast<int64_t>(bytes.size());
  TANDEM_CHECK_LE(written_of_tensor_, layout_.tensor_bytes[tensor_]);
  TANDEM_RETURN_IF_ERROR(WriteAll(bytes));
  return written_of_tensor_ == layout_.tensor_bytes[tensor_] ? CloseTensor() : absl::OkStatus();
}

absl::Status WeightFileWriter::CloseTensor() {
  const int64_t over = written_of_tensor_ % layout_.alignment_bytes;
  written_of_tensor_ = 0;
  ++tensor_;
  if (over == 0) return absl::OkStatus();
  const std::vector<std::byte> zeros(layout_.alignment_bytes - over);
  return WriteAll(zeros);
}

absl::Status WeightFileWriter::Finish() {
  TANDEM_CHECK_EQ(tensor_, layout_.tensor_bytes.size());
  const int fd = std::exchange(fd_, -1);
  const bool closed = close(fd) == 0;
  if (closed && rename(PartialPath(path_).c_str(), path_.c_str()) == 0) return absl::OkStatus();
  const absl::Status status = absl::DataLossError(absl::StrCat(path_, ": ", std::strerror(errno)));
  unlink(PartialPath(path_).c_str());
  return status;
}

}  // namespace tandem
