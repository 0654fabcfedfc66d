#include "../kernels/region.h"
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
