#include "attnx.h"

enum attnx_status attnx_run_steps(const struct attnx_recurrent_steps *args, int num_threads) {
    ptrdiff_t row = args->backwards ? args->rows : 0;
    for (ptrdiff_t i = 0; i < args->steps; i++) {
        struct attnx_linear maps;
        struct attnx_recurrent step;
        attnx_step_at(args, i, &row, &maps, &step);
        enum attnx_status status = attnx_run(ATTNX_linear_f32, &maps, num_threads);
        if (status == ATTNX_OK) status = attnx_run(ATTNX_recurrent_f32, &step, num_threads);
        if (status != ATTNX_OK) return status;
    }
    return ATTNX_OK;
}
