/* One team a process. Its leader is a thread of our own that opens the OpenMP regions; a caller hands it a job and works
 * along. So
 * - OpenMP keeps one pool, not one for each thread that ever called (GCC's keeps a pool a calling thread: 64 callers of
 *   a team of 4 would be 256 threads);
 * - a caller never waits for a thread to wake: a leader that comes late finds the job closed;
 * - a fork is harmless: the leader is joined before it where idle, and a child starts its own (a pool that was warm in
 *   the parent hangs a child's first region in GCC's runtime);
 * - a caller that finds the team busy runs its job alone: work never waits for work.
 */
#include "threads.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "cpu.h"

enum { SPINS_FOR_A_JOB = 10000, SPINS_FOR_A_WORKER = 20000, KEPT_SCRATCH = 8 << 20 };
enum gate { GATE_CLOSED, GATE_OPEN, GATE_ENTERED };

struct job {
    attnx_task *run;
    void *context;
    ptrdiff_t tasks;
    char *scratch;
    size_t scratch_each;
    int workers; /* without the caller */
    _Atomic ptrdiff_t next;
};

static struct {
    _Atomic int busy;     /* a caller owns all that follows */
    _Atomic int gate;     /* whether the leader may still join the job */
    _Atomic int sleeping; /* the leader waits on `wake` */
    int alive;            /* there is a leader */
    int size;             /* its region's threads: one size, since a change rebuilds OpenMP's pool */
    int quit;
    int fork_handler;
    pthread_t leader;
    cpu_set_t anywhere, away; /* guarded by wake_mutex, like `moved` */
    int moved;
    struct job job;
} team;
static pthread_mutex_t wake_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

/* One block of scratch outlives its call, so that a service's calls do not fault the same pages in again and again. */
static struct {
    _Atomic int taken; /* a caller owns what follows */
    void *block;
    size_t size;
} kept;

/* *own: 1 where the block is the kept one. */
static void *scratch_take(size_t size, int *own) {
    int taken = 0;
    size = (size + 4095) / 4096 * 4096;
    *own = atomic_compare_exchange_strong(&kept.taken, &taken, 1);
    if (!*own) return aligned_alloc(64, size);
    if (kept.size >= size) return kept.block;
    void *small = kept.block;
    kept.block = aligned_alloc(64, size);
    free(small);
    kept.size = kept.block ? size : 0;
    if (!kept.block) atomic_store(&kept.taken, 0);
    return kept.block;
}

static void scratch_give(void *block, int own) {
    if (!own) {
        free(block);
        return;
    }
    if (kept.size > KEPT_SCRATCH) {
        free(kept.block);
        kept.block = NULL;
        kept.size = 0;
    }
    atomic_store(&kept.taken, 0);
}

static void work(struct job *job, int worker) {
    char *scratch = job->scratch + (size_t)worker * job->scratch_each;
    for (;;) {
        const ptrdiff_t task = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
        if (task >= job->tasks) return;
        job->run(job->context, task, scratch);
    }
}

/* Sets team.away to the processors that the caller may use but is not on; 0 where there is no other.
 * Under KVM an idle processor looks preempted to the scheduler, which then leaves a woken thread on its waker's
 * processor, behind a caller that does not pause: measured, a second thread did nothing for the first second. So the
 * leader wakes away from its caller, and is free to go anywhere from then on. */
static int away_from_caller(void) {
    if (pthread_getaffinity_np(pthread_self(), sizeof team.anywhere, &team.anywhere) != 0) return 0;
    team.away = team.anywhere;
    const int here = sched_getcpu();
    if (here >= 0 && here < CPU_SETSIZE) CPU_CLR((size_t)here, &team.away);
    team.moved = CPU_COUNT(&team.away) > 0;
    return team.moved;
}

static void go_anywhere(void) {
    if (team.moved) pthread_setaffinity_np(pthread_self(), sizeof team.anywhere, &team.anywhere);
    team.moved = 0;
}

/* Waits until the gate opens; 0 where the leader shall end. Whoever comes too late for a job spins again before it
 * sleeps: a woken thread may be queued behind its busy caller for longer than the job lasts, and would else miss every
 * job of a quick sequence. */
static int leader_wait(void) {
    for (int go_on = 1; go_on;) {
        for (int i = 0; i < SPINS_FOR_A_JOB; i++) {
            if (atomic_load_explicit(&team.gate, memory_order_relaxed) == GATE_OPEN) return 1;
            attnx_cpu_relax();
        }
        pthread_mutex_lock(&wake_mutex);
        atomic_store(&team.sleeping, 1);
        if (atomic_load(&team.gate) != GATE_OPEN && !team.quit) pthread_cond_wait(&wake, &wake_mutex);
        atomic_store(&team.sleeping, 0);
        go_anywhere();
        go_on = !team.quit;
        pthread_mutex_unlock(&wake_mutex);
    }
    return 0;
}

static void *lead(void *unused) {
    attnx_float_mode_enter(); /* the region's threads inherit it */
    pthread_mutex_lock(&wake_mutex);
    go_anywhere();
    pthread_mutex_unlock(&wake_mutex);
    while (leader_wait()) {
        int open = GATE_OPEN;
        if (!atomic_compare_exchange_strong(&team.gate, &open, GATE_ENTERED)) continue;
        struct job *job = &team.job;
#pragma omp parallel num_threads(team.size)
        {
            const int worker = omp_get_thread_num();
            if (worker < job->workers) work(job, worker + 1);
        }
        atomic_store_explicit(&team.gate, GATE_CLOSED, memory_order_release);
    }
    return unused;
}

static void leader_wake(void) {
    if (!atomic_load(&team.sleeping)) return;
    pthread_mutex_lock(&wake_mutex);
    if (away_from_caller()) pthread_setaffinity_np(team.leader, sizeof team.away, &team.away);
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&wake_mutex);
}

static void leader_retire(void) {
    if (!team.alive) return;
    pthread_mutex_lock(&wake_mutex);
    team.quit = 1;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&wake_mutex);
    pthread_join(team.leader, NULL);
    team.alive = team.quit = 0;
}

/* Before a fork: end an idle leader, so that the child inherits no half of a thread and Python sees one thread less.
 * Where another caller is at work its leader stays, and the child forgets it. */
static void before_fork(void) {
    int idle = 0;
    if (!atomic_compare_exchange_strong(&team.busy, &idle, 1)) return;
    leader_retire();
    atomic_store(&team.busy, 0);
}

static void after_fork_in_child(void) {
    static const pthread_mutex_t fresh_mutex = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t fresh_cond = PTHREAD_COND_INITIALIZER;
    wake_mutex = fresh_mutex;
    wake = fresh_cond;
    team.alive = team.quit = 0;
    atomic_store(&team.gate, GATE_CLOSED);
    atomic_store(&team.sleeping, 0);
    atomic_store(&team.busy, 0);
    if (atomic_load(&kept.taken)) { /* by another thread of the parent: its block is lost to the child */
        kept.block = NULL;
        kept.size = 0;
        atomic_store(&kept.taken, 0);
    }
}

static void *nothing(void *unused) { return unused; }

/* Whether `count` threads can be made now: OpenMP would end the process where one cannot. */
static int threads_can_be_made(int count) {
    pthread_t probes[64];
    int made = 0;
    while (made < count && made < 64 && pthread_create(&probes[made], NULL, nothing, NULL) == 0) made++;
    for (int i = 0; i < made; i++) pthread_join(probes[i], NULL);
    return made == count || made == 64;
}

/* A leader whose region has at least `size` threads; 0 where that cannot be. */
static int leader_ready(int size) {
    if (team.alive && team.size >= size) return 1;
    leader_retire();
    if (!team.fork_handler) {
        if (pthread_atfork(before_fork, NULL, after_fork_in_child) != 0) return 0;
        team.fork_handler = 1;
    }
    if (team.size < size) team.size = size;
    if (!threads_can_be_made(team.size)) return 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (away_from_caller()) pthread_attr_setaffinity_np(&attributes, sizeof team.away, &team.away);
    sigset_t all, before;
    sigfillset(&all); /* signals are the application's: none is delivered to our threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    team.alive = pthread_create(&team.leader, &attributes, lead, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return team.alive;
}

static void run_with_team(struct job *job) {
    team.job.run = job->run;
    team.job.context = job->context;
    team.job.tasks = job->tasks;
    team.job.scratch = job->scratch;
    team.job.scratch_each = job->scratch_each;
    team.job.workers = job->workers;
    atomic_store(&team.job.next, 0);
    atomic_store(&team.gate, GATE_OPEN);
    leader_wake();
    work(&team.job, 0);
    int open = GATE_OPEN;
    if (atomic_compare_exchange_strong(&team.gate, &open, GATE_CLOSED)) return;
    for (int i = 0; atomic_load_explicit(&team.gate, memory_order_acquire) != GATE_CLOSED; i++) {
        if (i < SPINS_FOR_A_WORKER) attnx_cpu_relax();
        else sched_yield();
    }
}

enum attnx_status attnx_parallel_for(attnx_task *run, void *context, ptrdiff_t tasks, size_t scratch, int num_threads) {
    struct job job = {.run = run, .context = context, .tasks = tasks};
    int idle = 0;
    if (tasks <= 0) return ATTNX_OK;
    if (num_threads > tasks) num_threads = (int)tasks;
    const int together = num_threads > 1 && atomic_compare_exchange_strong(&team.busy, &idle, 1);
    if (together && leader_ready(num_threads - 1)) job.workers = num_threads - 1;
    job.scratch_each = (scratch + 63) / 64 * 64;
    int own = 0;
    void *block = NULL;
    if (scratch > SIZE_MAX / 2 / (size_t)(job.workers + 1)) goto no_memory;
    if (scratch) {
        block = scratch_take(job.scratch_each * (size_t)(job.workers + 1), &own);
        if (!block) goto no_memory;
    }
    job.scratch = block;
    const unsigned long mode = attnx_float_mode_enter();
    if (job.workers) run_with_team(&job);
    else work(&job, 0);
    attnx_float_mode_leave(mode);
    if (block) scratch_give(block, own);
    if (together) atomic_store(&team.busy, 0);
    return ATTNX_OK;
no_memory:
    if (together) atomic_store(&team.busy, 0);
    return ATTNX_NO_MEMORY;
}

int attnx_openmp_limit(void) { return omp_get_max_threads(); }
