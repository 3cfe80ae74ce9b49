#include "coordinator/api/openai_defaults.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace tandem::coordinator {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kFileBytesMax = 1 << 20;  // such files have some hundred bytes

}  // namespace

absl::StatusOr<SamplingDefaults> ParseSamplingDefaults(const std::string& json_text,
                                                       const std::string& source) {
  const std::variant<InputJson, ApiError> json = ParseJsonObject(json_text);
  if (const auto* error = std::get_if<ApiError>(&json))
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", error->message));
  FieldReader fields(&std::get<InputJson>(json));
  SamplingDefaults out;
  out.temperature = static_cast<float>(fields.Number("temperature", out.temperature, 0, 2));
  out.top_p = static_cast<float>(fields.Number("top_p", out.top_p, 0, 1));
  out.top_k = static_cast<uint32_t>(fields.Integer("top_k", out.top_k, 0, INT32_MAX));
  out.min_p = static_cast<float>(fields.Number("min_p", out.min_p, 0, 1));
  out.repetition_penalty =
      static_cast<float>(fields.Number("repetition_penalty", out.repetition_penalty, 0.01, 100));
  if (!fields.Bool("do_sample", true)) out.temperature = 0;
  if (fields.error())
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", fields.error()->message));
  return out;
}

absl::StatusOr<SamplingDefaults> ReadSamplingDefaults(const std::string& model_path) {
  if (!fs::is_directory(model_path)) return SamplingDefaults{};
  const std::string path = fs::path(model_path) / "generation_config.json";
  std::error_code error;
  if (!fs::exists(path, error)) return SamplingDefaults{};
  const uintmax_t size_bytes = fs::file_size(path, error);
  if (error || size_bytes > kFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected ", path, " to be a file of at most ", kFileBytesMax, " bytes"));
  }
  std::ifstream file(path, std::ios::binary);
  return ParseSamplingDefaults(std::string{std::istreambuf_iterator<char>(file), {}}, path);
}

}  // namespace tandem::coordinator
