#if defined(__aarch64__)
#include "../kernels/region.h"
#include "../simd/neon.h"

#include "../kernels/all.h"

const struct attnx_table attnx_table_neon = {
    .name = "neon",
    .kernels =
        {
#define ATTNX_OP(name, text, real) {name##_plan_##real, name##_run_##real},
#include "../ops.inc"
#undef ATTNX_OP
        },
};
#endif
