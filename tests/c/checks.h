/* What the tests of kernels share: numbers of every storage, a comparison that counts, and running a kernel as cut for
 * one thread, for three, and by a team. */
#ifndef ATTNX_CHECKS_H
#define ATTNX_CHECKS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attnx.h"
#include "dispatch.h"

#define COUNT(array) ((ptrdiff_t)(sizeof(array) / sizeof *(array)))

/* Elements of one of four types, read and written as double. */
struct cells {
    enum attnx_storage storage;
    ptrdiff_t count;
    void *data;
};

static const size_t cell_bytes[] = {[ATTNX_F32] = 4, [ATTNX_F64] = 8, [ATTNX_F16] = 2, [ATTNX_BF16] = 2};

static const struct attnx_table *table;
static ptrdiff_t stride = 1; /* 3: every third size, for what is slow */
static long checks, failures;
static double worst; /* largest error so far of the running kernel, in units of its tolerance */

static uint64_t random_state = 88172645463325252u;

static double random_number(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)(random_state >> 11) / 4503599627370496.0 - 1.0;
}

static void *allocate(size_t bytes) {
    void *data = calloc(1, bytes + !bytes);
    if (!data) {
        fprintf(stderr, "kernels_test: no memory\n");
        exit(2);
    }
    return data;
}

static double from_f16(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return fraction ? NAN : bits >> 15 ? -INFINITY : INFINITY;
    const double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return bits >> 15 ? -size : size;
}

/* Rounded somehow: a test reads back what it has put. */
static uint16_t to_f16(double x) {
    int exponent = 0;
    const double fraction = frexp(fabs(x), &exponent);
    const unsigned sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x)) return 0x7e00;
    if (exponent < -13) return (uint16_t)sign;
    return (uint16_t)(sign | ((unsigned)(exponent + 14) << 10) | ((unsigned)(fraction * 2048) & 1023));
}

static double get(const struct cells *c, ptrdiff_t i) {
    if (c->storage == ATTNX_F64) return ((const double *)c->data)[i];
    if (c->storage == ATTNX_F32) return (double)((const float *)c->data)[i];
    const uint16_t half = ((const uint16_t *)c->data)[i];
    if (c->storage == ATTNX_F16) return from_f16(half);
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static void put(const struct cells *c, ptrdiff_t i, double x) {
    if (c->storage == ATTNX_F64) {
        ((double *)c->data)[i] = x;
    } else if (c->storage == ATTNX_F32) {
        ((float *)c->data)[i] = (float)x;
    } else {
        const float narrow = (float)x;
        uint32_t bits;
        memcpy(&bits, &narrow, sizeof bits);
        ((uint16_t *)c->data)[i] = c->storage == ATTNX_F16 ? to_f16(x) : (uint16_t)(bits >> 16);
    }
}

static struct cells make(enum attnx_storage storage, ptrdiff_t count) {
    struct cells c = {storage, count, allocate((size_t)count * cell_bytes[storage])};
    for (ptrdiff_t i = 0; i < count; i++) put(&c, i, 2 * random_number());
    return c;
}

static void expect(const char *what, double got, double wanted, double tolerance) {
    checks++;
    const double error = got == wanted || (isnan(got) && isnan(wanted)) ? 0 : fabs(got - wanted) / tolerance;
    if (error > worst) worst = error;
    if (error <= 1) return;
    if (failures++ < 20) printf("FAIL %s %s: %.9g, expected %.9g\n", table->name, what, got, wanted);
}

static void run_once(enum attnx_op op, const void *args, ptrdiff_t threads) {
    const struct attnx_kernel *kernel = &table->kernels[op];
    struct attnx_plan plan = {.tasks = threads};
    kernel->plan(args, &plan);
    void *scratch = aligned_alloc(64, (plan.scratch + 64) / 64 * 64);
    if (!scratch) exit(2);
    memset(scratch, 0xff, plan.scratch); /* NaN: a kernel may not read what it has not written */
    for (ptrdiff_t task = 0; task < plan.tasks; task++) kernel->run(args, &plan, task, scratch);
    free(scratch);
}

/* Runs the kernel as cut for one thread, for three, and by a team; leaves the result in out. */
static void run(const char *what, enum attnx_op op, const void *args, const struct cells *out) {
    const size_t bytes = (size_t)out->count * cell_bytes[out->storage];
    void *first = allocate(bytes);
    memset(out->data, 0xff, bytes);
    run_once(op, args, 1);
    memcpy(first, out->data, bytes);
    for (int way = 0; way < 2; way++) {
        memset(out->data, 0xff, bytes);
        enum attnx_status status = ATTNX_OK;
        if (way == 0) run_once(op, args, 3);
        else status = attnx_run(op, args, 4);
        checks++;
        if ((status != ATTNX_OK || memcmp(first, out->data, bytes) != 0) && failures++ < 20)
            printf("FAIL %s %s: the bits depend on %s\n", table->name, what, way ? "the team" : "the cut");
    }
    free(first);
}

#endif
