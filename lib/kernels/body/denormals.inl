// The switch of denormal numbers. Included inside an instruction set's namespace.

// Denormal numbers count as zero, before and after an operation, as the tile unit has it. Where the
// processor has no such switch they stay, and tiny results differ from x86's.
#if defined(__x86_64__)
constexpr unsigned kFlushBits = 0x8040;  // MXCSR: flush to zero, denormals are zeros
TANDEM_LANE unsigned FlushDenormals() {
  const unsigned saved = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(saved | kFlushBits);
  return saved;
}
TANDEM_LANE void RestoreDenormals(unsigned saved) { __builtin_ia32_ldmxcsr(saved); }
#else
TANDEM_LANE unsigned FlushDenormals() { return 0; }
TANDEM_LANE void RestoreDenormals(unsigned) {}
#endif
