/* Opening and closing a region for an instruction set, and the few words that differ between compilers.
 *
 * A region (a pragma) rather than flags for a file keeps setup.py at plain extensions: flags per file fail at
 * `build_ext --inplace`. Everything inside a region is static: a shared inline function compiled for AVX-512 could be
 * the copy that the linker keeps for all.
 */
#ifndef ATTNX_TARGET_H
#define ATTNX_TARGET_H

#define ATTNX_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ATTNX_TARGET_BEGIN(features) \
    ATTNX_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define ATTNX_TARGET_END ATTNX_PRAGMA(clang attribute pop)
#else
#define ATTNX_TARGET_BEGIN(features) ATTNX_PRAGMA(GCC push_options) ATTNX_PRAGMA(GCC target(features))
#define ATTNX_TARGET_END ATTNX_PRAGMA(GCC pop_options)
#endif

/* Kernels take compile-time sizes as arguments of functions that must vanish into their callers. */
#define ATTNX_INLINE static inline __attribute__((always_inline, unused))
/* Whole loops over a tile's rows or vectors, so that the accumulators live in registers. */
#define ATTNX_UNROLL ATTNX_PRAGMA(GCC unroll 16)
#define ATTNX_UNROLL_4 ATTNX_PRAGMA(GCC unroll 4)

#endif
