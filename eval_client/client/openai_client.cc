#include "eval_client/client/openai_client.h"

#include <curl/curl.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "eval_client/client/openai_json.h"
#include "eval_client/client/retry.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

// Far above any answer; a server that sends more is not answering a question.
constexpr size_t kReplyBytesMax = size_t{64} << 20;
constexpr long kConnectTimeoutMs = 10'000;

struct Reply {
  long http_code = 0;
  std::string body;
  std::string retry_after;
};

size_t TakeBody(char* data, size_t size, size_t count, void* to) {
  std::string& body = static_cast<Reply*>(to)->body;
  if (body.size() + size * count > kReplyBytesMax) return 0;  // curl ends the transfer
  body.append(data, size * count);
  return size * count;
}

size_t TakeHeader(char* data, size_t size, size_t count, void* to) {
  const absl::string_view line(data, size * count);
  if (absl::StartsWithIgnoreCase(line, "retry-after:")) {
    const absl::string_view value = line.substr(line.find(':') + 1);
    static_cast<Reply*>(to)->retry_after = std::string(absl::StripAsciiWhitespace(value));
  }
  return size * count;
}

int StopWhenCancelled(void* cancelled, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return static_cast<std::atomic<bool>*>(cancelled)->load() ? 1 : 0;
}

absl::Status StatusOfCurl(CURLcode code, const std::string& url) {
  const std::string message = absl::StrCat(url, ": ", curl_easy_strerror(code));
  switch (code) {
    case CURLE_OK:
      return absl::OkStatus();
    case CURLE_OPERATION_TIMEDOUT:
      return absl::DeadlineExceededError(message);
    case CURLE_ABORTED_BY_CALLBACK:
      return absl::CancelledError("stopped");
    case CURLE_WRITE_ERROR:
      return absl::InternalError(absl::StrCat(url, ": the reply is longer than an answer can be"));
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_PEER_FAILED_VERIFICATION:
      return absl::FailedPreconditionError(message);
    default:
      return absl::UnavailableError(message);
  }
}

struct HeadersDeleter {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct EasyDeleter {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
using Headers = std::unique_ptr<curl_slist, HeadersDeleter>;
using Easy = std::unique_ptr<CURL, EasyDeleter>;

}  // namespace

struct OpenAiClient::Impl {
  explicit Impl(const EndpointOptions& options)
      : base_url(absl::StripSuffix(options.address, "/")),
        wanted_model(options.model),
        api_key(options.api_key),
        request_interval(options.requests_per_minute > 0
                             ? absl::Minutes(1) / options.requests_per_minute
                             : absl::ZeroDuration()) {
    TANDEM_CHECK_EQ(static_cast<int>(curl_global_init(CURL_GLOBAL_DEFAULT)), 0);
    if (!wanted_model.empty()) model = wanted_model;
  }

  // Handles keep their connections open, so they are used again.
  Easy TakeHandle() {
    absl::MutexLock lock(&mutex);
    if (handles.empty()) return Easy(curl_easy_init());
    Easy handle = std::move(handles.back());
    handles.pop_back();
    return handle;
  }

  void GiveBack(Easy handle) {
    absl::MutexLock lock(&mutex);
    handles.push_back(std::move(handle));
  }

  Headers RequestHeaders() const {
    curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
    if (!api_key.empty()) {
      list = curl_slist_append(list, absl::StrCat("Authorization: Bearer ", api_key).c_str());
    }
    return Headers(list);
  }

  // POST of `body`, or GET when that is null. Any reply is OK.
  absl::StatusOr<Reply> Send(const std::string& path, const std::string* body,
                             absl::Time deadline) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("out of time");
    const std::string url = absl::StrCat(base_url, path);
    Easy easy = TakeHandle();
    if (easy == nullptr) return absl::ResourceExhaustedError("no memory for a request");
    const Headers headers = RequestHeaders();
    Reply reply;
    curl_easy_reset(easy.get());
    const auto set = [&](CURLoption option, auto value) {
      TANDEM_CHECK_EQ(static_cast<int>(curl_easy_setopt(easy.get(), option, value)), 0);
    };
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_HTTPHEADER, headers.get());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_TIMEOUT_MS, std::max<long>(1, absl::ToInt64Milliseconds(left)));
    set(CURLOPT_CONNECTTIMEOUT_MS, kConnectTimeoutMs);
    set(CURLOPT_WRITEFUNCTION, TakeBody);
    set(CURLOPT_WRITEDATA, static_cast<void*>(&reply));
    set(CURLOPT_HEADERFUNCTION, TakeHeader);
    set(CURLOPT_HEADERDATA, static_cast<void*>(&reply));
    set(CURLOPT_NOPROGRESS, 0L);
    set(CURLOPT_XFERINFOFUNCTION, StopWhenCancelled);
    set(CURLOPT_XFERINFODATA, static_cast<void*>(&cancelled));
    if (body != nullptr) {
      set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body->size()));
      set(CURLOPT_POSTFIELDS, body->c_str());
    }
    const absl::Status status = StatusOfCurl(curl_easy_perform(easy.get()), url);
    curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &reply.http_code);
    GiveBack(std::move(easy));
    if (!status.ok()) return status;
    return reply;
  }

  // The name to put into requests; asks the server once when the user named none.
  absl::StatusOr<std::string> ModelName(absl::Time deadline) {
    {
      absl::MutexLock lock(&mutex);
      if (!model.empty()) return model;
    }
    TANDEM_ASSIGN_OR_RETURN(const std::string name, AskModel(deadline));
    absl::MutexLock lock(&mutex);
    return model = name;
  }

  absl::StatusOr<std::string> AskModel(absl::Time deadline) {
    TANDEM_ASSIGN_OR_RETURN(const Reply reply, Send("/models", nullptr, deadline));
    if (reply.http_code != 200) return OpenAiRefusal(reply.http_code, reply.body, "").status;
    return OpenAiModel(reply.body, wanted_model);
  }

  // Waits until the rate allows one more request. False: it never will in time, or a stop came.
  bool AwaitTurn(absl::Time deadline) {
    if (request_interval == absl::ZeroDuration()) return true;
    absl::Time turn;
    {
      absl::MutexLock lock(&mutex);
      turn = std::max(next_turn, absl::Now());
      if (turn >= deadline) return false;
      next_turn = turn + request_interval;
    }
    return !SleepUnlessCancelled(turn - absl::Now());
  }

  Answer AskOnce(const std::string& prompt, uint64_t seed, const AskOptions& options,
                 absl::Time deadline) {
    Answer answer;
    const absl::StatusOr<std::string> name = ModelName(deadline);
    if (!name.ok()) {
      answer.status = name.status();
      return answer;
    }
    if (!AwaitTurn(deadline)) {
      answer.status = cancelled ? absl::CancelledError("stopped")
                                : absl::DeadlineExceededError("the allowed rate left no turn");
      return answer;
    }
    const std::string body = OpenAiRequestBody(*name, prompt, seed, options);
    const absl::Duration started = base::RealClock().Monotonic();
    const absl::StatusOr<Reply> reply =
        Send(options.continue_text ? "/completions" : "/chat/completions", &body, deadline);
    if (!reply.ok()) {
      answer.status = reply.status();
      return answer;
    }
    if (reply->http_code != 200) {
      return OpenAiRefusal(reply->http_code, reply->body, reply->retry_after);
    }
    answer = OpenAiAnswer(reply->body, options);
    answer.total_us =
        static_cast<uint64_t>(absl::ToInt64Microseconds(base::RealClock().Monotonic() - started));
    return answer;
  }

  bool SleepUnlessCancelled(absl::Duration wait) {
    absl::MutexLock lock(&mutex);
    const auto stopped = [this] { return cancelled.load(); };
    return mutex.AwaitWithTimeout(absl::Condition(&stopped), wait);
  }

  const std::string base_url;
  const std::string wanted_model;
  const std::string api_key;
  const absl::Duration request_interval;
  std::atomic<bool> cancelled = false;
  absl::Mutex mutex;
  std::string model ABSL_GUARDED_BY(mutex);
  std::vector<Easy> handles ABSL_GUARDED_BY(mutex);
  absl::Time next_turn ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
};

OpenAiClient::OpenAiClient(const EndpointOptions& options)
    : impl_(std::make_unique<Impl>(options)) {}
OpenAiClient::~OpenAiClient() = default;

absl::StatusOr<inference::v1::ModelInfo> OpenAiClient::GetModelInfo(absl::Duration timeout) {
  TANDEM_ASSIGN_OR_RETURN(const std::string name, impl_->AskModel(absl::Now() + timeout));
  inference::v1::ModelInfo info;
  info.set_name(name);
  info.set_ready(true);
  return info;
}

Answer OpenAiClient::Ask(const std::string& request_id, const std::string& prompt, uint64_t seed,
                         const AskOptions& options) {
  return AskWithRetries(
      options, seed,
      {.once = [&](absl::Time deadline) { return impl_->AskOnce(prompt, seed, options, deadline); },
       .sleep_unless_cancelled =
           [this](absl::Duration wait) { return impl_->SleepUnlessCancelled(wait); }});
}

void OpenAiClient::CancelAll() {
  absl::MutexLock lock(&impl_->mutex);  // waiting threads look again when it is released
  impl_->cancelled = true;
}

}  // namespace tandem::eval
