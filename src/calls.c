#include "dispatch.h"
#include "threads.h"

struct parts {
    const struct attnx_table *table;
    const struct attnx_call *calls;
    ptrdiff_t count, parts;
    const ptrdiff_t *starts;
};

/* The calls of a part, each with all its tasks, on the thread that this is. */
static void run_part(void *context, ptrdiff_t part, void *scratch) {
    const struct parts *parts = context;
    const ptrdiff_t end = part + 1 < parts->parts ? parts->starts[part + 1] : parts->count;
    for (ptrdiff_t i = parts->starts[part]; i < end; i++) {
        const struct attnx_kernel *kernel = &parts->table->kernels[parts->calls[i].op];
        struct attnx_plan plan = {.tasks = 1};
        kernel->plan(parts->calls[i].args, &plan);
        for (ptrdiff_t task = 0; task < plan.tasks; task++) kernel->run(parts->calls[i].args, &plan, task, scratch);
    }
}

static size_t most_scratch(const struct attnx_table *table, const struct attnx_call *calls, ptrdiff_t count) {
    size_t most = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        struct attnx_plan plan = {.tasks = 1};
        table->kernels[calls[i].op].plan(calls[i].args, &plan);
        if (plan.scratch > most) most = plan.scratch;
    }
    return most;
}

enum attnx_status attnx_run_calls(const struct attnx_call *calls, ptrdiff_t count, const ptrdiff_t *starts,
                                  ptrdiff_t parts, int num_threads) {
    struct parts all = {attnx_table(), calls, count, parts, starts};
    if (!all.table) return ATTNX_NO_SUCH_ISA;
    if (parts > 1) {
        const size_t scratch = most_scratch(all.table, calls, count);
        return attnx_parallel_for(run_part, &all, parts, scratch, num_threads);
    }
    for (ptrdiff_t i = 0; i < count; i++) {
        const enum attnx_status status = attnx_run(calls[i].op, calls[i].args, num_threads);
        if (status != ATTNX_OK) return status;
    }
    return ATTNX_OK;
}
