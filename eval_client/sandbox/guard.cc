// A shared library that the sandbox preloads into the Python interpreter. It does two things that
// cannot be done from outside nor, safely, in Python.
//
// It takes rights away once the interpreter is loaded: resource limits, and a system call filter
// without which a fork bomb would have to be counted instead of refused.
//
// It proves that the program ran to its end. It stands around the interpreter's main(), which
// returns 0 only then: os._exit and sys.exit leave the process without returning from it, and an
// uncaught exception makes it return something else. The proof is a random token that lives in the
// memory of this library alone. Code under test has no way to that memory: it has no ctypes, no
// /proc and no second process, and a token it cannot read it cannot report. What remains is an
// attack on the interpreter itself, by bytecode made to break it; its prize would be a better score
// and still no way out.
//
// Depends on libc only, so that it loads into any interpreter.
#include <dlfcn.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "eval_client/sandbox/guard_orders.h"

namespace tandem::eval {
namespace {

using MainFunction = int (*)(int, char**, char**);
using StartFunction = int (*)(MainFunction, int, char**, void (*)(), void (*)(), void (*)(), void*);

MainFunction interpreter_main = nullptr;

[[noreturn]] void Fail() { _exit(kGuardFailed); }

void ReadOrders(GuardOrders* orders) {
  auto* bytes = reinterpret_cast<char*>(orders);
  size_t done = 0;
  while (done < sizeof(*orders)) {
    const ssize_t got = read(kOrdersFd, bytes + done, sizeof(*orders) - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) Fail();
    done += static_cast<size_t>(got);
  }
  close(kOrdersFd);
}

void Limit(int resource, uint64_t soft, uint64_t hard) {
  const rlimit limit = {.rlim_cur = soft, .rlim_max = hard};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) Fail();
}

void SetLimits(const GuardOrders& orders) {
  Limit(RLIMIT_CPU, orders.cpu_s, orders.cpu_s + 1);  // SIGXCPU, then SIGKILL
  Limit(RLIMIT_AS, orders.address_bytes, orders.address_bytes);
  Limit(RLIMIT_FSIZE, orders.file_bytes, orders.file_bytes);
  Limit(RLIMIT_NOFILE, orders.open_files, orders.open_files);
  Limit(RLIMIT_CORE, 0, 0);
}

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "expected x86-64 or arm64: the system call filter knows no other"
#endif

// Refused with EPERM: making processes, reaching others, and every larger part of the kernel that
// pure Python has no use for.
constexpr int kRefused[] = {
#if defined(__x86_64__)
    SYS_fork,
    SYS_vfork,
    SYS_ioperm,
    SYS_iopl,
    SYS_modify_ldt,
    SYS_uselib,
    SYS_ustat,
#endif
    SYS_execve,
    SYS_execveat,
    SYS_kill,
    SYS_pidfd_open,
    SYS_pidfd_send_signal,
    SYS_pidfd_getfd,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_unshare,
    SYS_setns,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_socket,
    SYS_socketpair,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_memfd_create,
    SYS_shmget,
    SYS_msgget,
    SYS_semget,
    SYS_mq_open,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_quotactl,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_adjtimex,
    SYS_clock_adjtime,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_personality,
    SYS_fanotify_init,
    SYS_lookup_dcookie,
    SYS_seccomp,
    SYS_prlimit64,
    SYS_setrlimit,
};
constexpr size_t kRefusedCount = sizeof(kRefused) / sizeof(kRefused[0]);

constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;

sock_filter Load(size_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
}
sock_filter Return(uint32_t action) { return BPF_STMT(BPF_RET | BPF_K, action); }
// Skips the next instruction unless the loaded word is `value`.
sock_filter IfEqual(uint32_t value) { return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1); }

void InstallFilter() {
  sock_filter code[2 * kRefusedCount + 16];
  unsigned short size = 0;
  code[size++] = Load(offsetof(seccomp_data, arch));
  code[size++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
  code[size++] = Return(SECCOMP_RET_KILL_PROCESS);
  code[size++] = Load(offsetof(seccomp_data, nr));
#if defined(__x86_64__)
  // The x32 numbers: the same calls once more behind bit 30.
  code[size++] = BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1);
  code[size++] = Return(SECCOMP_RET_KILL_PROCESS);
#endif
  for (const int number : kRefused) {
    code[size++] = IfEqual(static_cast<uint32_t>(number));
    code[size++] = Return(kRefuse);
  }
  // Its flags are in memory, where a filter cannot look; libc then falls back to clone.
  code[size++] = IfEqual(SYS_clone3);
  code[size++] = Return(SECCOMP_RET_ERRNO | ENOSYS);
  // Threads may be made, processes not.
  code[size++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0);
  code[size++] = Return(SECCOMP_RET_ALLOW);
  code[size++] = Load(offsetof(seccomp_data, args[0]));
  code[size++] = BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0);
  code[size++] = Return(kRefuse);
  code[size++] = Return(SECCOMP_RET_ALLOW);
  const sock_fprog program = {.len = size, .filter = code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail();
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) Fail();
}

int GuardedMain(int argc, char** argv, char** environment) {
  GuardOrders orders;
  ReadOrders(&orders);
  SetLimits(orders);
  InstallFilter();
  const int code = interpreter_main(argc, argv, environment);
  if (code == 0 && write(kReportFd, orders.token, kTokenBytes) != kTokenBytes) Fail();
  return code;
}

}  // namespace
}  // namespace tandem::eval

// The loader finds this one before libc's; libc's is called with our main in place of the
// program's.
extern "C" __attribute__((visibility("default"))) int __libc_start_main(
    tandem::eval::MainFunction main, int argc, char** argv, void (*init)(), void (*fini)(),
    void (*loader_fini)(), void* stack_end) {
  auto* start =
      reinterpret_cast<tandem::eval::StartFunction>(dlsym(RTLD_NEXT, "__libc_start_main"));
  if (start == nullptr) _exit(tandem::eval::kGuardFailed);
  tandem::eval::interpreter_main = main;
  return start(tandem::eval::GuardedMain, argc, argv, init, fini, loader_fini, stack_end);
}
