/* Softmax of a row: y_j = exp(x_j - max x) / sum_k exp(x_k - max x).
 *
 * Element j is summed in lane j % width of accumulator (j / width) % 4, so what follows a row's last visible element
 * changes no bit. Sums of positive terms in 4 * width chains and a fixed tree: relative error about
 * (items / (4 * width) + 7) * eps. Three passes over the row, which stays in a cache near the core. (Stores past the
 * caches were tried: a third slower at 4096 x 512.)
 */
enum { K(softmax_chains) = 4 };
_Static_assert(K(softmax_chains) % EXP_SIDE == 0, "whole groups of chains");

ATTNX_INLINE V(v) K(softmax_load)(const real *x, const uint8_t *mask, ptrdiff_t n) {
    const V(v) hidden = V(set1)(-(real)INFINITY);
    /* A lane index below n, as a real: lanes past the end must not look like a visible 0. */
    const V(v) v = n == V(width) ? V(load)(x) : V(select)(V(lt)(V(iota)(), V(set1)((real)n)), V(load_n)(x, n), hidden);
    return mask ? V(from_bytes)(mask, n, v, hidden) : v;
}

/* BODY(at, c, n) for each vector of a row: element at, chain c, n elements. */
#define SOFTMAX_EACH(BODY)                                                                                      \
    do {                                                                                                        \
        ptrdiff_t j = 0;                                                                                        \
        for (; j + K(softmax_chains) *V(width) <= items; j += K(softmax_chains) *V(width)) {                    \
            ATTNX_UNROLL                                                                                        \
            for (int c = 0; c < K(softmax_chains); c++) BODY(j + c * V(width), c, V(width));                    \
        }                                                                                                       \
        for (int c = 0; j < items; c++, j += V(width)) BODY(j, c, items - j < V(width) ? items - j : V(width)); \
    } while (0)

/* The largest visible element, -inf where there is none. */
ATTNX_INLINE real K(softmax_most)(const real *x, const uint8_t *mask, ptrdiff_t items) {
    V(v) top[K(softmax_chains)];
    for (int c = 0; c < K(softmax_chains); c++) top[c] = V(set1)(-(real)INFINITY);
#define SOFTMAX_MAX(at, c, n) top[c] = V(max)(K(softmax_load)(x + (at), mask ? mask + (at) : NULL, n), top[c])
    SOFTMAX_EACH(SOFTMAX_MAX);
#undef SOFTMAX_MAX
    return V(hmax)(V(max)(V(max)(top[0], top[1]), V(max)(top[2], top[3])));
}

/* A row as the passes take it: contiguous, gathered where it is not. */
struct K(softmax_line) {
    const real *x;
    const uint8_t *mask;
    real *y, *out; /* softmax, and where it belongs */
};

/* y = exp(x - base) of `count` vectors from element `at` on, of n elements each, added to as many chains. */
ATTNX_INLINE void K(softmax_part)(const struct K(softmax_line) *line, ptrdiff_t at, const int masked, const int count,
                                  ptrdiff_t n, V(v) base, V(v) *total) {
    V(v) part[EXP_SIDE];
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) {
        const ptrdiff_t j = at + i * V(width);
        part[i] = V(sub)(K(softmax_load)(line->x + j, masked ? line->mask + j : NULL, n), base);
    }
    K(exps)(part, count);
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) {
        real *to = line->y + at + i * V(width);
        total[i] = V(add)(total[i], part[i]);
        if (n == V(width)) V(store)(to, part[i]);
        else V(store_n)(to, part[i], n);
    }
}

/* y = exp(x - most), and their sum; y may be x. Fetches the row that comes next and where it goes, where that is short: this
 * pass computes and leaves memory idle, the two others wait for it (4096 x 512, two threads: a quarter slower without on a
 * Zen 3, a seventh on a Sapphire Rapids). Longer rows the processor follows itself (32 x 50257: 0.85 of the time without). */
ATTNX_INLINE real K(softmax_exps)(const struct K(softmax_line) *line, const struct K(softmax_line) *next,
                                  ptrdiff_t items, const int masked, real most) {
    enum { LINE = 64 / (int)sizeof(real), TURN = K(softmax_chains) *V(width), SHORT = 16384 / (int)sizeof(real) };
    const V(v) base = V(set1)(most == -(real)INFINITY ? 0 : most);
    V(v) total[K(softmax_chains)], tail[K(softmax_chains)];
    for (int c = 0; c < K(softmax_chains); c++) total[c] = V(set1)(0);
    ptrdiff_t j = 0;
    for (; j + TURN <= items; j += TURN) {
        ATTNX_UNROLL
        for (int at = 0; at < TURN && items < SHORT; at += LINE) {
            __builtin_prefetch(next->x + j + at);
            __builtin_prefetch(next->y + j + at, 1);
        }
        ATTNX_UNROLL
        for (int c = 0; c < K(softmax_chains); c += EXP_SIDE)
            K(softmax_part)(line, j + c * V(width), masked, EXP_SIDE, V(width), base, total + c);
    }
    /* A copy: an array with a variable index lies in memory, and the chains would lie there with it. */
    ATTNX_UNROLL
    for (int c = 0; c < K(softmax_chains); c++) tail[c] = total[c];
    for (int c = 0; j < items; c++, j += V(width)) {
        const ptrdiff_t n = items - j < V(width) ? items - j : V(width);
        K(softmax_part)(line, j, masked, 1, n, base, tail + c);
    }
    return V(sum)(V(add)(V(add)(tail[0], tail[1]), V(add)(tail[2], tail[3])));
}

ATTNX_INLINE void K(softmax_scale)(real *y, ptrdiff_t items, real by) {
    const V(v) scale = V(set1)(by);
#define SOFTMAX_SCALE(at, c, n)                                                    \
    do {                                                                           \
        if ((n) == V(width)) V(store)(y + (at), V(mul)(V(load)(y + (at)), scale)); \
        else V(store_n)(y + (at), V(mul)(V(load_n)(y + (at), n), scale), n);       \
        (void)(c);                                                                 \
    } while (0)
    SOFTMAX_EACH(SOFTMAX_SCALE);
#undef SOFTMAX_SCALE
}
#undef SOFTMAX_EACH

/* Softmax of a row in place, with a sink: a logit without an element. 0 where nothing weighs. */
ATTNX_INLINE void K(softmax_row)(real *x, ptrdiff_t items, const real *sink) {
    real most = K(softmax_most)(x, NULL, items);
    if (sink && *sink > most) most = *sink;
    const struct K(softmax_line) line = {.x = x, .y = x};
    real sum = K(softmax_exps)(&line, &line, items, 0, most);
    if (sink) {
        real lanes[V(width)];
        V(store)(lanes, K(exp)(V(set1)(*sink - (most == -(real)INFINITY ? 0 : most))));
        sum += lanes[0];
    }
    K(softmax_scale)(x, items, sum == 0 ? 0 : 1 / sum);
}

/* The public softmax: any strides. A row that is not contiguous is gathered into scratch and scattered back. */
enum { K(softmax_grain_items) = 16384 };

/* Scratch of one gathered row, in elements: x, its softmax, its mask. */
static ptrdiff_t K(softmax_slot)(const struct attnx_softmax *a) {
    return 2 * a->items + a->items / (ptrdiff_t)sizeof(real) + 1;
}

static void K(softmax_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_softmax *a = args;
    const ptrdiff_t most = a->items > 0 ? (K(softmax_grain_items) + a->items - 1) / a->items : 1;
    const ptrdiff_t share = (a->rows + 4 * plan->tasks - 1) / (4 * plan->tasks);
    plan->grain = share < most ? most : share;
    plan->tasks = (a->rows + plan->grain - 1) / plan->grain;
    plan->work = 24.0 / V(width) *(double)a->rows * (double)a->items;
    if (a->x_item == 1 && a->out_item == 1 && (!a->mask || a->mask_item == 1)) return;
    plan->scratch = 2 * (size_t)K(softmax_slot)(a) * sizeof(real);
}

static struct K(softmax_line) K(softmax_line_at)(const struct attnx_softmax *a, ptrdiff_t row, real *scratch) {
    ptrdiff_t x_at = 0, mask_at = 0, out_at = 0, rest = row;
    for (ptrdiff_t i = a->axes - 1; i >= 0; i--) {
        const ptrdiff_t index = i ? rest % a->shape[i] : rest; /* a division less for each row of a matrix */
        if (i) rest /= a->shape[i];
        x_at += index * a->x_strides[i];
        out_at += index * a->out_strides[i];
        if (a->mask) mask_at += index * a->mask_strides[i];
    }
    const ptrdiff_t n = a->items;
    struct K(softmax_line) line = {
        .x = (const real *)a->x + x_at, .mask = a->mask ? a->mask + mask_at : NULL, .out = (real *)a->out + out_at};
    line.y = a->out_item == 1 ? line.out : scratch + n;
    if (a->x_item != 1) {
        for (ptrdiff_t j = 0; j < n; j++) scratch[j] = line.x[j * a->x_item];
        line.x = scratch;
    }
    if (line.mask && a->mask_item != 1) {
        uint8_t *bytes = (uint8_t *)(scratch + 2 * n);
        for (ptrdiff_t j = 0; j < n; j++) bytes[j] = line.mask[j * a->mask_item];
        line.mask = bytes;
    }
    return line;
}

/* A row's maximum is taken before the row above is scaled: the two chains that a row waits for, its maximum and the
 * sum of the row above, then run side by side. */
ATTNX_INLINE void K(softmax_rows)(const struct attnx_softmax *a, ptrdiff_t row, ptrdiff_t end, const int masked,
                                  real *scratch) {
    const ptrdiff_t n = a->items, slot = scratch ? K(softmax_slot)(a) : 0;
    real *other = scratch + slot;
    struct K(softmax_line) line = K(softmax_line_at)(a, row, scratch);
    real most = K(softmax_most)(line.x, masked ? line.mask : NULL, n);
    for (; row < end; row++) {
        struct K(softmax_line) next = line;
        if (row + 1 < end) next = K(softmax_line_at)(a, row + 1, other);
        const real sum = K(softmax_exps)(&line, &next, n, masked, most);
        most = K(softmax_most)(next.x, masked ? next.mask : NULL, n);
        /* A row of visible -inf is 0/0 as in NumPy; a row with nothing visible is 0. */
        K(softmax_scale)(line.y, n, sum == 0 ? (real)INFINITY : 1 / sum);
        for (ptrdiff_t j = 0; masked && j < n; j++) line.y[j] = line.mask[j] ? line.y[j] : 0;
        if (a->out_item != 1) {
            for (ptrdiff_t j = 0; j < n; j++) line.out[j * a->out_item] = line.y[j];
        }
        line = next;
        real *const free_slot = scratch;
        scratch = other;
        other = free_slot;
    }
}

static void K(softmax_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_softmax *a = args;
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    if (a->mask) K(softmax_rows)(a, task * plan->grain, end, 1, scratch);
    else K(softmax_rows)(a, task * plan->grain, end, 0, scratch);
}
