#include "dispatch.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "threads.h"

extern const struct attnx_table attnx_table_scalar;
static int always(void) { return 1; }
#if defined(__x86_64__)
extern const struct attnx_table attnx_table_avx2, attnx_table_avx512;
#elif defined(__aarch64__)
extern const struct attnx_table attnx_table_neon;
#endif

/* From plain to best. */
static const struct {
    const struct attnx_table *table;
    int (*runs_here)(void);
} levels[] = {
    {&attnx_table_scalar, always},
#if defined(__x86_64__)
    {&attnx_table_avx2, attnx_cpu_has_avx2},
    {&attnx_table_avx512, attnx_cpu_has_avx512},
#elif defined(__aarch64__)
    {&attnx_table_neon, always},
#endif
};
enum { LEVELS = sizeof levels / sizeof levels[0] };

static _Atomic(const struct attnx_table *) current;

static const struct attnx_table *find(const char *name) {
    const struct attnx_table *found = NULL;
    for (int i = 0; i < LEVELS; i++) {
        if ((!name || strcmp(name, levels[i].table->name) == 0) && levels[i].runs_here()) found = levels[i].table;
    }
    return found;
}

const char *attnx_isa_available(int i) {
    for (int level = 0; level < LEVELS; level++) {
        if (levels[level].runs_here() && i-- == 0) return levels[level].table->name;
    }
    return NULL;
}

const struct attnx_table *attnx_table(void) {
    const struct attnx_table *table = atomic_load_explicit(&current, memory_order_acquire);
    if (table) return table;
    const char *wanted = getenv("ATTNX_ISA");
    table = find(wanted && *wanted ? wanted : NULL);
    atomic_store_explicit(&current, table, memory_order_release);
    return table;
}

enum attnx_status attnx_isa_force(const char *name) {
    const struct attnx_table *table = name ? find(name) : NULL;
    if (name && !table) return ATTNX_NO_SUCH_ISA;
    atomic_store_explicit(&current, table, memory_order_release);
    return ATTNX_OK;
}

const char *attnx_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

const char *attnx_build_flags(void) {
#if defined(ATTNX_BUILD_FLAGS)
    return ATTNX_BUILD_FLAGS;
#else
    return "unknown";
#endif
}

struct job {
    const struct attnx_kernel *kernel;
    const void *args;
    struct attnx_plan plan;
};

static void run_task(void *context, ptrdiff_t task, void *scratch) {
    const struct job *job = context;
    const ptrdiff_t first = task * job->plan.run, rest = job->plan.tasks - first;
    const ptrdiff_t end = first + (rest < job->plan.run ? rest : job->plan.run);
    for (ptrdiff_t t = first; t < end; t++) job->kernel->run(job->args, &job->plan, t, scratch);
}

enum attnx_status attnx_run(enum attnx_op op, const void *args, int num_threads) {
    const struct attnx_table *table = attnx_table();
    if (!table) return ATTNX_NO_SUCH_ISA;
    struct job job = {.kernel = &table->kernels[op], .args = args, .plan = {.tasks = num_threads}};
    job.kernel->plan(args, &job.plan);
    if (job.plan.run < 1) job.plan.run = 1;
    const ptrdiff_t runs = job.plan.tasks / job.plan.run + (job.plan.tasks % job.plan.run > 0);
    /* Another thread has to pay for the 1 to 2 microseconds that it costs to bring it in. */
    const double worth = job.plan.work / ATTNX_WORK_A_THREAD;
    if (worth < num_threads) num_threads = worth < 1 ? 1 : (int)worth;
    if (job.plan.shared_bytes) {
        job.plan.shared = malloc(job.plan.shared_bytes);
        if (!job.plan.shared) return ATTNX_NO_MEMORY;
        memset(job.plan.shared, 0, job.plan.counters * sizeof(ptrdiff_t));
    }
    const enum attnx_status status = attnx_parallel_for(run_task, &job, runs, job.plan.scratch, num_threads);
    free(job.plan.shared);
    return status;
}
