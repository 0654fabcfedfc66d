/*
 * The machine's own limits, for the share-of-the-limit column: how many multiply-adds and how many
 * bytes a second simple loops reach on one or several threads. Compiled by limit.py with
 * -O3 -march=native, so that the vectors are as wide as this processor's.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

/* CHAINS independent chains hide the multiply-add's latency (4 cycles, up to 4 pipes) and still
 * fit the registers beside the two operands: 16 registers with AVX2, 32 elsewhere. */
#if defined(__AVX512F__)
#define WIDTH 64
#define CHAINS 16
#elif defined(__AVX2__)
#define WIDTH 32
#define CHAINS 12
#else
#define WIDTH 16
#define CHAINS 16
#endif

#define MAX_THREADS 256
#define CHUNK 20000 /* multiply-adds a chain between two looks at the clock: tens of microseconds */

typedef float floats __attribute__((vector_size(WIDTH)));
typedef double doubles __attribute__((vector_size(WIDTH)));

struct job {
    void (*work)(struct job *);
    const char *data;   /* reads only: this thread's part */
    size_t size;
    double seconds;     /* how long to run */
    double rate;        /* out: operations or bytes a second */
    double sink;        /* out: keeps the arithmetic alive */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* x = x * a + b in CHAINS chains; a and b are volatile reads, so nothing folds at compile time. */
#define MULTIPLY_ADD(name, vector, scalar)                                        \
    static void name(struct job *job)                                             \
    {                                                                             \
        volatile scalar factor = (scalar)0.999, term = (scalar)0.001;             \
        vector a, b, chain[CHAINS];                                               \
        a = (vector){0} + factor;                                                 \
        b = (vector){0} + term;                                                   \
        for (int c = 0; c < CHAINS; c++)                                          \
            chain[c] = b * (scalar)(c + 1);                                       \
        double begin = now(), end = begin, count = 0;                             \
        while (end - begin < job->seconds) {                                      \
            for (int i = 0; i < CHUNK; i++)                                       \
                for (int c = 0; c < CHAINS; c++)                                  \
                    chain[c] = chain[c] * a + b;                                  \
            count += 2.0 * CHUNK * CHAINS * (WIDTH / sizeof(scalar));             \
            end = now();                                                          \
        }                                                                         \
        for (int c = 0; c < CHAINS; c++)                                          \
            job->sink += (double)chain[c][0];                                     \
        job->rate = count / (end - begin);                                        \
    }

MULTIPLY_ADD(multiply_add_float32, floats, float)
MULTIPLY_ADD(multiply_add_float64, doubles, double)

static void read_memory(struct job *job)
{
    floats sum[8] = {{0}};
    double begin = now(), end = begin, count = 0;
    const size_t step = 8 * WIDTH;
    while (end - begin < job->seconds) {
        size_t left = job->size;
        while (left >= step) { /* at most 1 MiB between two looks at the clock */
            size_t part = left < (1u << 20) ? left / step * step : (1u << 20);
            const char *p = job->data + (job->size - left);
            for (size_t at = 0; at < part; at += step)
                for (int c = 0; c < 8; c++) {
                    floats v;
                    memcpy(&v, p + at + (size_t)c * WIDTH, WIDTH);
                    sum[c] += v;
                }
            count += (double)part;
            left -= part;
            end = now();
            if (end - begin >= job->seconds)
                break;
        }
    }
    for (int c = 0; c < 8; c++)
        job->sink += (double)sum[c][0];
    job->rate = count / (end - begin);
}

static void *start(void *job)
{
    ((struct job *)job)->work(job);
    return NULL;
}

static double run(struct job job, int threads)
{
    struct job jobs[MAX_THREADS];
    pthread_t ids[MAX_THREADS];
    double rate = 0;
    if (threads < 1 || threads > MAX_THREADS)
        return 0;
    size_t part = job.size / (size_t)threads / 4096 * 4096;
    for (int t = 0; t < threads; t++) {
        jobs[t] = job;
        jobs[t].data = job.data ? job.data + (size_t)t * part : NULL;
        jobs[t].size = part;
    }
    int started = 1;
    while (started < threads && !pthread_create(&ids[started], NULL, start, &jobs[started]))
        started++;
    start(&jobs[0]);
    for (int t = 1; t < started; t++)
        pthread_join(ids[t], NULL);
    for (int t = 0; t < started; t++)
        rate += jobs[t].rate;
    return rate;
}

/* Floating-point operations a second; width is 4 (float32) or 8 (float64). */
double limit_arithmetic(int width, int threads, double seconds)
{
    struct job job = {multiply_add_float32, NULL, 0, seconds, 0, 0};
    if (width == 8)
        job.work = multiply_add_float64;
    return run(job, threads);
}

/* Bytes read a second, every thread its own part of data; size of at least 16 KiB a thread. */
double limit_read(const void *data, size_t size, int threads, double seconds)
{
    struct job job = {read_memory, data, size, seconds, 0, 0};
    return run(job, threads);
}
