#include "../kernels/region.h"

/* At -O3 GCC 12 turns these loops into SSE2: 138 and not 80 KB of a wheel, and slower: L = S = 256 with a float mask takes
 * 1.35x, decoding 1.38x, without a mask 1.13x. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O2")
#endif

#include "../simd/scalar.h"

#include "../kernels/all.h"

const struct attnx_table attnx_table_scalar = {
    .name = "scalar",
    .kernels =
        {
#define ATTNX_OP(name, text, real) {name##_plan_##real, name##_run_##real},
#include "../ops.inc"
#undef ATTNX_OP
        },
};
