// Makes ThreadSanitizer see absl::Mutex. Debian's Abseil is built without it, so everything a Mutex
// protects would be reported as a race. The functions below stand before those of the shared
// library, call them, and tell the sanitizer which thread handed over to which. Linked into every
// executable of a build with SANITIZE=thread, and into no other.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdio>
#include <cstdlib>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);

namespace {

// Abseil evaluates the conditions of waiting threads in whichever thread unlocks: reads that the
// sanitizer cannot place.
class IgnoredReads {
 public:
  IgnoredReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoredReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

// The library's function of this (mangled) name.
template <typename Function>
Function* Original(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) {
    std::fprintf(stderr, "tests/tsan: expected %s in libabsl_synchronization, found nothing\n",
                 name);
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

// Debian puts its Abseil into the inline namespace debian3.
#define TANDEM_ORIGINAL(type, name) \
  static auto* const original = Original<type>("_ZN4absl7debian3" name)
#define TANDEM_ORIGINAL_CONST(type, name) \
  static auto* const original = Original<type>("_ZNK4absl7debian3" name)

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  TANDEM_ORIGINAL(void(Mutex*), "5Mutex4LockEv");
  original(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  TANDEM_ORIGINAL(void(Mutex*), "5Mutex6UnlockEv");
  __tsan_release(this);
  IgnoredReads ignored;
  original(this);
}

bool Mutex::TryLock() {
  TANDEM_ORIGINAL(bool(Mutex*), "5Mutex7TryLockEv");
  const bool locked = original(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  TANDEM_ORIGINAL(void(Mutex*), "5Mutex10ReaderLockEv");
  original(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  TANDEM_ORIGINAL(void(Mutex*), "5Mutex12ReaderUnlockEv");
  __tsan_release(this);
  IgnoredReads ignored;
  original(this);
}

void Mutex::Await(const Condition& condition) {
  TANDEM_ORIGINAL(void(Mutex*, const Condition&), "5Mutex5AwaitERKNS0_9ConditionE");
  __tsan_release(this);
  IgnoredReads ignored;
  original(this, condition);
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration wait_max) {
  TANDEM_ORIGINAL(bool(Mutex*, const Condition&, Duration),
                  "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  __tsan_release(this);
  IgnoredReads ignored;
  const bool met = original(this, condition, wait_max);
  __tsan_acquire(this);
  return met;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  TANDEM_ORIGINAL(bool(Mutex*, const Condition&, Time),
                  "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  __tsan_release(this);
  IgnoredReads ignored;
  const bool met = original(this, condition, deadline);
  __tsan_acquire(this);
  return met;
}

void Mutex::LockWhen(const Condition& condition) {
  TANDEM_ORIGINAL(void(Mutex*, const Condition&), "5Mutex8LockWhenERKNS0_9ConditionE");
  IgnoredReads ignored;
  original(this, condition);
  __tsan_acquire(this);
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration wait_max) {
  TANDEM_ORIGINAL(bool(Mutex*, const Condition&, Duration),
                  "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  IgnoredReads ignored;
  const bool met = original(this, condition, wait_max);
  __tsan_acquire(this);
  return met;
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  TANDEM_ORIGINAL(bool(Mutex*, const Condition&, Time),
                  "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  IgnoredReads ignored;
  const bool met = original(this, condition, deadline);
  __tsan_acquire(this);
  return met;
}

void CondVar::Wait(Mutex* mutex) {
  TANDEM_ORIGINAL(void(CondVar*, Mutex*), "7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  original(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration wait_max) {
  TANDEM_ORIGINAL(bool(CondVar*, Mutex*, Duration),
                  "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool timed_out = original(this, mutex, wait_max);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  TANDEM_ORIGINAL(bool(CondVar*, Mutex*, Time),
                  "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool timed_out = original(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

void Notification::Notify() {
  TANDEM_ORIGINAL(void(Notification*), "12Notification6NotifyEv");
  __tsan_release(this);
  original(this);
}

void Notification::WaitForNotification() const {
  TANDEM_ORIGINAL_CONST(void(const Notification*), "12Notification19WaitForNotificationEv");
  original(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration wait_max) const {
  TANDEM_ORIGINAL_CONST(bool(const Notification*, Duration),
                        "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = original(this, wait_max);
  __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
