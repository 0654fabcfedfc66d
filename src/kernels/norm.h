/* Layer normalisation (Ba, Kiros and Hinton 2016): y = (z - mean) / sqrt(var + eps) * weight + bias, z = x + residual.
 *
 * Two passes over a row that lies in L1, so the variance is that of the centred values and no digits cancel. The first
 * mean is off by the rounding of sums of z, which is many deviations where the mean is far from 0. So the second pass also
 * sums what is left, c = z - mean: with d = mean(c), var = mean(c^2) - d^2 and y = (c - d) / sqrt(var + eps), at the price
 * of an addition. Sums run in four chains a lane and a fixed tree: relative error about (items / (4 * width) + 6) * eps.
 * Rows of 768 around 1e4 with deviation 1: 2e-6 at most, where NumPy in float32 is off by 1e-3.
 */
enum { norm_rows = 16, norm_chains = 4 };

static void layer_norm_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_layer_norm *a = args;
    plan->grain = norm_rows;
    plan->tasks = (a->rows + norm_rows - 1) / norm_rows;
    plan->work = 8.0 / f32_width * (double)a->rows * (double)a->items;
    plan->scratch = 0;
}

/* BODY(at, n, chain) for every vector of a row; whole vectors four at a time, each in a chain of its own. Compile-time n
 * and chain there: loads under a mask for all of a row took three times as long, and a loop over the chains, which leaves
 * them in memory, half as long again. */
#define NORM_EACH(items, BODY)                                                           \
    do {                                                                                 \
        ptrdiff_t norm_j = 0;                                                            \
        for (; norm_j + 4 * f32_width <= (items); norm_j += 4 * f32_width) {             \
            BODY(norm_j, f32_width, 0);                                                  \
            BODY(norm_j + f32_width, f32_width, 1);                                      \
            BODY(norm_j + 2 * f32_width, f32_width, 2);                                  \
            BODY(norm_j + 3 * f32_width, f32_width, 3);                                  \
        }                                                                                \
        for (; norm_j < (items); norm_j += f32_width) BODY(norm_j, (items) - norm_j, 0); \
    } while (0)

/* The mean of all chains and lanes. */
ATTNX_INLINE float norm_mean(const f32_v chain[norm_chains], ptrdiff_t items) {
    return f32_sum(f32_add(f32_add(chain[0], chain[2]), f32_add(chain[1], chain[3]))) / (float)items;
}

ATTNX_INLINE f32_v norm_load(const float *p, ptrdiff_t n) { return n >= f32_width ? f32_load(p) : f32_load_n(p, n); }

ATTNX_INLINE void norm_store(float *p, f32_v v, ptrdiff_t n) {
    if (n >= f32_width) f32_store(p, v);
    else f32_store_n(p, v, n);
}

static void norm_row(const struct attnx_layer_norm *a, ptrdiff_t row) {
    const ptrdiff_t items = a->items;
    const float *x = a->x + row * a->x_row, *residual = a->residual ? a->residual + row * a->residual_row : NULL;
    float *out = a->out + row * a->out_row;
    f32_v sum[norm_chains], rest[norm_chains], squares[norm_chains];
    sum[0] = sum[1] = sum[2] = sum[3] = f32_set1(0);
    rest[0] = rest[1] = rest[2] = rest[3] = f32_set1(0);
    squares[0] = squares[1] = squares[2] = squares[3] = f32_set1(0);
#define NORM_SUM(at, n, chain)                                       \
    do {                                                             \
        f32_v z = norm_load(x + (at), n);                            \
        if (residual) z = f32_add(z, norm_load(residual + (at), n)); \
        norm_store(out + (at), z, n);                                \
        sum[chain] = f32_add(sum[chain], z);                         \
    } while (0)
    NORM_EACH(items, NORM_SUM);
    const f32_v mean = f32_set1(norm_mean(sum, items));
#define NORM_SQUARE(at, n, chain)                                                                                  \
    do {                                                                                                           \
        f32_v centred = f32_sub(norm_load(out + (at), n), mean);                                                   \
        if ((n) < f32_width) centred = f32_select(f32_lt(f32_iota(), f32_set1((float)(n))), centred, f32_set1(0)); \
        rest[chain] = f32_add(rest[chain], centred);                                                               \
        squares[chain] = f32_fma(centred, centred, squares[chain]);                                                \
    } while (0)
    NORM_EACH(items, NORM_SQUARE);
    const float left = norm_mean(rest, items), around = norm_mean(squares, items);
    const float variance = around - left * left; /* NaN where both are infinite, below 0 only by a rounding */
    const float inverse = 1.0f / sqrtf((variance >= 0 ? variance : around) + a->eps);
    const f32_v scale = f32_set1(inverse), shift = f32_set1(-left * inverse);
#define NORM_SCALE(at, n, chain)                                                  \
    do {                                                                          \
        f32_v y = f32_fma(f32_sub(norm_load(out + (at), n), mean), scale, shift); \
        if (a->weight) y = f32_mul(y, norm_load(a->weight + (at), n));            \
        if (a->bias) y = f32_add(y, norm_load(a->bias + (at), n));                \
        norm_store(out + (at), y, n);                                             \
    } while (0)
    NORM_EACH(items, NORM_SCALE);
#undef NORM_EACH
#undef NORM_SUM
#undef NORM_SQUARE
#undef NORM_SCALE
}

static void layer_norm_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_layer_norm *a = args;
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    (void)scratch;
    for (ptrdiff_t row = task * plan->grain; row < end; row++) norm_row(a, row);
}
