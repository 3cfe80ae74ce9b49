// Closes the region that isa/target_begin.h opened. No include guard: included once per region.
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#undef TANDEM_PRAGMA
#undef TANDEM_PRAGMA_OF
#undef TANDEM_TARGET
