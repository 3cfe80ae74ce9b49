#include "lib/kernels/kernel_table.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/kernels/isa/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tandem::kernels {
namespace {

// `table` may be called on a processor that supports it only: even filling it in may use wide
// registers.
struct Candidate {
  const char* isa;
  const KernelTable* (*table)();
  bool supported;
};

#if defined(__x86_64__)
// CPUID leaf 1, ECX bit 29; clang 14's __builtin_cpu_supports does not know the name. That the
// system saves the wide registers is part of its answer for avx2, and F16C needs no more.
bool HasF16C() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}

// CPUID leaf 7, subleaf 1, EAX bit 4.
bool HasAvxVnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

// CPUID leaf 7, EDX bits 22, 24, 25 (bf16, tile, int8), and the kernel's leave to use the tile
// registers, which a process must ask for once (Documentation/arch/x86/xstate.rst).
bool HasAmx() {
  constexpr unsigned kBits = (1u << 22) | (1u << 24) | (1u << 25);
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kBits) != kBits) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

// Every table of this build, slowest first.
std::vector<Candidate> Candidates() {
  std::vector<Candidate> all = {{"scalar", &ScalarTable, true}};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16C();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  all.push_back({"avx2", &Avx2Table, avx2});
  const bool avx512_vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  all.push_back({"avx_vnni", &AvxVnniTable, avx2 && HasAvxVnni()});
  all.push_back({"avx512", &Avx512Table, avx512});
  all.push_back({"avx512_vnni", &Avx512VnniTable, avx512_vnni});
  all.push_back({"amx", &AmxTable, avx512_vnni && HasAmx()});
#endif
  return all;
}

std::string IsaOfEnvironment() {
  const char* isa = std::getenv("TANDEM_ISA");
  return isa == nullptr ? "" : isa;
}

}  // namespace

std::span<const KernelTable* const> SupportedTables() {
  static const std::vector<const KernelTable*> tables = [] {
    std::vector<const KernelTable*> supported;
    for (const Candidate& candidate : Candidates()) {
      if (candidate.supported) supported.push_back(candidate.table());
    }
    return supported;
  }();
  return tables;
}

absl::StatusOr<const KernelTable*> FindTable(std::string_view isa) {
  if (isa.empty()) return SupportedTables().back();
  std::string known;
  for (const Candidate& candidate : Candidates()) {
    if (isa == candidate.isa) {
      if (candidate.supported) return candidate.table();
      return absl::FailedPreconditionError(absl::StrCat("instruction set \"", candidate.isa,
                                                        "\" is not supported by this processor"));
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", candidate.isa);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown instruction set \"", std::string(isa), "\", expected one of: ", known));
}

absl::Status CheckIsa() {
  const absl::StatusOr<const KernelTable*> table = FindTable(IsaOfEnvironment());
  if (table.ok()) return absl::OkStatus();
  return absl::Status(table.status().code(),
                      absl::StrCat("TANDEM_ISA: ", std::string(table.status().message())));
}

const KernelTable& ActiveTable() {
  static const KernelTable* const active = [] {
    const absl::Status status = CheckIsa();
    if (!status.ok()) {
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      std::exit(2);
    }
    return *FindTable(IsaOfEnvironment());
  }();
  return *active;
}

}  // namespace tandem::kernels
