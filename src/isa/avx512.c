#if defined(__x86_64__)
#include "../kernels/region.h"
ATTNX_TARGET_BEGIN("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi,bmi2")
#include "../simd/avx512.h"

#include "../kernels/all.h"

const struct attnx_table attnx_table_avx512 = {
    .name = "avx512",
    .kernels =
        {
#define ATTNX_OP(name, text, real) {name##_plan_##real, name##_run_##real},
#include "../ops.inc"
#undef ATTNX_OP
        },
};
ATTNX_TARGET_END
#endif
