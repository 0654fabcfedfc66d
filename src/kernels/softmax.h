/* Softmax of a row: y_j = exp(x_j - max x) / sum_k exp(x_k - max x).
 *
 * Element j is summed in lane j % width of accumulator (j / width) % 4, so what follows a row's last visible element
 * changes no bit. Sums of positive terms in 4 * width chains and a fixed tree: relative error about
 * (items / (4 * width) + 7) * eps. Three passes over the row, which stays in a cache near the
 * core. (Stores past the caches were tried: a third slower at 4096 x 512.)
 */
enum { K(softmax_chains) = 4 };

ATTNX_INLINE V(v) K(softmax_load)(const real *x, const uint8_t *mask, ptrdiff_t n) {
    const V(v) hidden = V(set1)(-(real)INFINITY);
    /* A lane index below n, as a real: lanes past the end must not look like a visible 0. */
    const V(v) v = n == V(width) ? V(load)(x) : V(select)(V(lt)(V(iota)(), V(set1)((real)n)), V(load_n)(x, n), hidden);
    return mask ? V(from_bytes)(mask, n, v, hidden) : v;
}

/* Writes softmax(x) to y, the exponentials to e on the way; any of the three may be one array. `empty`: the scale where
 * nothing weighs. */
ATTNX_INLINE void K(softmax_row)(const real *x, const uint8_t *mask, real *e, real *y, ptrdiff_t items, real empty,
                                 const real *sink) {
    const ptrdiff_t w = V(width);
    V(v) top[K(softmax_chains)], total[K(softmax_chains)];
    for (int c = 0; c < K(softmax_chains); c++) {
        top[c] = V(set1)(-(real)INFINITY);
        total[c] = V(set1)(0);
    }
#define SOFTMAX_EACH(BODY)                                                                 \
    do {                                                                                   \
        ptrdiff_t j = 0;                                                                   \
        for (; j + K(softmax_chains) *w <= items; j += K(softmax_chains) *w) {             \
            ATTNX_UNROLL                                                                   \
            for (int c = 0; c < K(softmax_chains); c++) BODY(j + c * w, c, w);             \
        }                                                                                  \
        for (int c = 0; j < items; c++, j += w) BODY(j, c, items - j < w ? items - j : w); \
    } while (0)
#define SOFTMAX_MAX(at, c, n) top[c] = V(max)(K(softmax_load)(x + (at), mask ? mask + (at) : NULL, n), top[c])
    SOFTMAX_EACH(SOFTMAX_MAX);
    real most = V(hmax)(V(max)(V(max)(top[0], top[1]), V(max)(top[2], top[3])));
    if (sink && *sink > most) most = *sink;
    const V(v) base = V(set1)(most == -(real)INFINITY ? 0 : most);
#define SOFTMAX_EXP(at, c, n)                                                                            \
    do {                                                                                                 \
        const V(v) part = K(exp)(V(sub)(K(softmax_load)(x + (at), mask ? mask + (at) : NULL, n), base)); \
        total[c] = V(add)(total[c], part);                                                               \
        if ((n) == w) V(store)(e + (at), part);                                                          \
        else V(store_n)(e + (at), part, n);                                                              \
    } while (0)
    SOFTMAX_EACH(SOFTMAX_EXP);
    real sum = V(sum)(V(add)(V(add)(total[0], total[1]), V(add)(total[2], total[3])));
    if (sink) {
        real lanes[V(width)];
        V(store)(lanes, K(exp)(V(sub)(V(set1)(*sink), base)));
        sum += lanes[0];
    }
    const V(v) scale = V(set1)(sum == 0 ? empty : 1 / sum);
#define SOFTMAX_SCALE(at, c, n)                                              \
    do {                                                                     \
        if ((n) == w) V(store)(y + (at), V(mul)(V(load)(e + (at)), scale));  \
        else V(store_n)(y + (at), V(mul)(V(load_n)(e + (at), n), scale), n); \
        (void)(c);                                                           \
    } while (0)
    SOFTMAX_EACH(SOFTMAX_SCALE);
#undef SOFTMAX_EACH
#undef SOFTMAX_MAX
#undef SOFTMAX_EXP
#undef SOFTMAX_SCALE
}

/* The public softmax: any strides. A row that is not contiguous is gathered into scratch and scattered back. */
enum { K(softmax_grain_items) = 16384 };

static void K(softmax_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_softmax *a = args;
    const ptrdiff_t most = a->items > 0 ? (K(softmax_grain_items) + a->items - 1) / a->items : 1;
    const ptrdiff_t share = (a->rows + 4 * plan->tasks - 1) / (4 * plan->tasks);
    plan->grain = share < most ? most : share;
    plan->tasks = (a->rows + plan->grain - 1) / plan->grain;
    plan->work = 24.0 / V(width) *(double)a->rows * (double)a->items;
    plan->scratch = (size_t)a->items * (2 * sizeof(real) + 1) + 64;
}

static void K(softmax_line)(const struct attnx_softmax *a, ptrdiff_t row, void *scratch) {
    ptrdiff_t x_at = 0, mask_at = 0, out_at = 0, rest = row;
    for (ptrdiff_t i = a->axes - 1; i >= 0; i--) {
        const ptrdiff_t index = i ? rest % a->shape[i] : rest; /* a division less for each row of a matrix */
        if (i) rest /= a->shape[i];
        x_at += index * a->x_strides[i];
        out_at += index * a->out_strides[i];
        if (a->mask) mask_at += index * a->mask_strides[i];
    }
    const ptrdiff_t n = a->items;
    const real *x = (const real *)a->x + x_at;
    const uint8_t *mask = a->mask ? a->mask + mask_at : NULL;
    real *out = (real *)a->out + out_at, *gathered = scratch, *e = gathered + n, *y = a->out_item == 1 ? out : e;
    if (a->x_item != 1) {
        for (ptrdiff_t j = 0; j < n; j++) gathered[j] = x[j * a->x_item];
        x = gathered;
    }
    if (mask && a->mask_item != 1) {
        uint8_t *bytes = (uint8_t *)(gathered + 2 * n);
        for (ptrdiff_t j = 0; j < n; j++) bytes[j] = mask[j * a->mask_item];
        mask = bytes;
    }
    /* A row of visible -inf is 0/0 as in NumPy; a row with nothing visible is 0. */
    if (mask) K(softmax_row)(x, mask, e, y, n, (real)INFINITY, NULL);
    else K(softmax_row)(x, NULL, e, y, n, (real)INFINITY, NULL);
    for (ptrdiff_t j = 0; mask && j < n; j++) y[j] = mask[j] ? y[j] : 0;
    if (a->out_item != 1) {
        for (ptrdiff_t j = 0; j < n; j++) out[j * a->out_item] = y[j];
    }
}

static void K(softmax_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_softmax *a = args;
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    for (ptrdiff_t row = task * plan->grain; row < end; row++) K(softmax_line)(a, row, scratch);
}
