/* Tasks over threads, scratch memory, and what a fork needs. The only unit that knows OpenMP. */
#ifndef ATTNX_THREADS_H
#define ATTNX_THREADS_H

#include "attnx.h"

/* Vector multiply-adds that are worth one more thread; see attnx_run. */
enum { ATTNX_WORK_A_THREAD = 4000 };

typedef void attnx_task(void *context, ptrdiff_t task, void *scratch);

/* Calls run(context, task, scratch) for every task in [0, tasks), on at most num_threads threads, the caller among
 * them; scratch is 64-byte aligned and the thread's own. Falls back to fewer threads where the team is busy with
 * another caller or a thread cannot be made. ATTNX_NO_MEMORY: nothing was run. */
enum attnx_status attnx_parallel_for(attnx_task *run, void *context, ptrdiff_t tasks, size_t scratch, int num_threads);

/* Threads that OpenMP would give this thread: what threadpoolctl limits. */
int attnx_openmp_limit(void);

#endif
