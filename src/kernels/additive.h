/* Additive attention: out_i = sum_j softmax_j(score_ij) value_j, score_ij = sum_u w_u tanh(query_iu + key_ju).
 *
 * tanh(q + k) = (P - 1) / (P + 1) with P = e^2q e^2k: the exponentials are taken once for each query and each key, and
 * a pair costs two multiply-adds and half a division where a tanh would be thirty instructions. Two terms share a
 * division: n1 / t1 + n2 / t2 = (n1 t2 + n2 t1) / (t1 t2). w P - w = (w e^2q) B - w with B = e^2k has an error of
 * about eps * |w|, as a tanh near 1 has. That is too much beside plain NumPy where all terms are small; so for a query
 * whose numbers are all small it is taken as (w (e^2q - 1)) B + w (B - 1), in which nothing cancels while k is small.
 * (For other queries something would: e^2q - 1 loses e^2q where q is far below 0.)
 * Sums run in chains of at most 16 terms, a lane each, then over the chains, then over a fixed tree.
 *
 * So that no product overflows, all this is done for queries and keys within +-limit alone; a pair with a larger number
 * (or a NaN) in either gets its score from tanh.h. Which way a pair takes depends on it alone, so rule 8 holds.
 * Scores go where the other kernels have theirs, keys by queries; masks, softmax and values are those of attention.h.
 */
enum {
    K(additive_keys) = 8, /* most keys prepared at a time, and how many numbers they and the queries may take */
    K(additive_group) = 16384,
    K(additive_rows) = 32768,
    K(additive_chain) = 16 * 2 * V(width) /* units of one chain of sums */
};
#if REAL_IS_F64
#define ADDITIVE_LIMIT 80.0 /* 2 * 2^20 * e^(8 * limit) is still finite */
#else
#define ADDITIVE_LIMIT 9.0f
#endif
#define ADDITIVE_SMALL ((real)0.125)
#define ADDITIVE_WEIGHT ((real)1048576)

enum K(additive_way) { K(additive_large), K(additive_medium), K(additive_small) };
enum K(additive_partner) { K(additive_alone), K(additive_power), K(additive_rise) };

/* One block of queries under way, with its prepared rows: e^2x of all units and then their partners: w e^2q of a query,
 * w (e^2q - 1) of a small one; w (e^2k - 1) of a key where there are small queries. `stride` counts the units, rounded up
 * to whole pairs of vectors; those past U weigh 0. */
struct K(additive) {
    const struct attnx_additive *args;
    const struct K(head) *head;
    struct attnx_attention matrix; /* as attention, but its output is the weights */
    struct K(head) matrix_head;
    ptrdiff_t stride, group; /* keys prepared at a time */
    const real *powers;      /* of all keys, prepared by the caller, or NULL */
    int large_weights, some_small;
    enum K(additive_way) way[K(block_queries)];
    real *weights, *queries, *keys; /* (stride), (block_queries, 2 * stride), (group, 2 * stride) */
};

/* Whether all numbers of a row are within +-limit. */
static int K(additive_within)(const void *row, const enum attnx_storage storage, ptrdiff_t units, real limit) {
    const V(v) zero = V(set1)(0), one = V(set1)(1), most = V(set1)(limit);
    V(v) beyond = zero;
    for (ptrdiff_t u = 0; u < units; u += V(width)) {
        const ptrdiff_t n = units - u < V(width) ? units - u : V(width);
        const void *from = storage_at(row, storage, u);
        const V(v) x = storage == REAL_STORAGE ? K(stored)(from, REAL_STORAGE, n) : K(stored)(from, storage, n);
        beyond = V(select)(V(le)(V(abs)(x), most), beyond, one);
    }
    return V(all)(V(eq)(beyond, zero));
}

/* e^y - 1 where |y| <= 2 * small: y (1 + y/2 (1 + y/3 (...))), the first term left out below eps / 4. */
ATTNX_INLINE V(v) K(additive_expm1)(V(v) y) {
    const V(v) one = V(set1)(1);
    V(v) p = one;
    for (int i = REAL_IS_F64 ? 13 : 7; i > 1; i--) p = V(fma)(p, V(mul)(y, V(set1)((real)1 / (real)i)), one);
    return V(mul)(y, p);
}

/* e^2x, and 2x itself; what is beyond the limit gives something finite that is not used. */
ATTNX_INLINE V(v) K(additive_exp)(V(v) x, V(v) *twice) {
    const V(v) near = V(min)(V(max)(x, V(set1)(-ADDITIVE_LIMIT)), V(set1)(ADDITIVE_LIMIT));
    *twice = V(add)(near, near);
    return K(exp)(*twice);
}

/* Prepares one row; what is beyond the limit is not used. The partner is none, w e^2x or w (e^2x - 1). */
ATTNX_INLINE void K(additive_prepare)(const struct K(additive) *t, const void *row, const enum attnx_storage storage,
                                      enum K(additive_partner) partner, real *to) {
    const ptrdiff_t w = V(width), units = t->args->attention.head_dim;
    const V(v) small = V(set1)(2 * ADDITIVE_SMALL), one = V(set1)(1);
    for (ptrdiff_t u = 0; u < t->stride; u += w) {
        const ptrdiff_t left = units - u, n = left < 0 ? 0 : left < w ? left : w;
        const void *from = storage_at(row, storage, n ? u : 0);
        const V(v) x = n == w ? K(stored)(from, storage, w) : K(stored)(from, storage, n);
        V(v) twice;
        const V(v) power = K(additive_exp)(x, &twice);
        V(v) second = power;
        V(store)(to + u, power);
        if (partner == K(additive_alone)) continue;
        if (partner == K(additive_rise))
            second = V(select)(V(le)(V(abs)(twice), small), K(additive_expm1)(twice), V(sub)(power, one));
        V(store)(to + t->stride + u, V(mul)(V(load)(t->weights + u), second));
    }
}

static void K(additive_row)(const struct K(additive) *t, const struct attnx_array *array, const void *row,
                            enum K(additive_partner) partner, real *to) {
    if (array->storage == REAL_STORAGE) K(additive_prepare)(t, row, REAL_STORAGE, partner, to);
    else K(additive_prepare)(t, row, array->storage, partner, to);
}

static void K(additive_queries)(struct K(additive) *t, const struct K(rows) *rows) {
    const struct attnx_attention *a = &t->args->attention;
    const ptrdiff_t units = a->head_dim;
    for (ptrdiff_t u = 0; u < t->stride; u++) t->weights[u] = u < units ? ((const real *)t->args->score_weight)[u] : 0;
    t->large_weights = !K(additive_within)(t->args->score_weight, REAL_STORAGE, units, ADDITIVE_WEIGHT);
    t->some_small = 0;
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        const void *row = storage_at(t->head->query, a->query.storage, rows->index[r] * a->query.row);
        const int small = K(additive_within)(row, a->query.storage, units, ADDITIVE_SMALL);
        const int medium = K(additive_within)(row, a->query.storage, units, ADDITIVE_LIMIT);
        t->way[r] = small ? K(additive_small) : medium ? K(additive_medium) : K(additive_large);
        t->some_small |= small;
        K(additive_row)(t, &a->query, row, small ? K(additive_rise) : K(additive_power),
                        t->queries + r * 2 * t->stride);
    }
}

/* Scores of one query and `count` keys, all prepared; sums start anew every `additive_chain` units. */
ATTNX_INLINE void K(additive_tile)(const struct K(additive) *t, const real *query, const real *keys, ptrdiff_t key_row,
                                   const int small, const int count, real *s) {
    const ptrdiff_t w = V(width), stride = t->stride;
    const V(v) one = V(set1)(1);
    V(v) total[4], acc[4];
    for (int k = 0; k < count; k++) total[k] = V(set1)(0);
    for (ptrdiff_t u = 0; u < stride;) {
        const ptrdiff_t end = stride - u < K(additive_chain) ? stride : u + K(additive_chain);
        ATTNX_UNROLL
        for (int k = 0; k < count; k++) acc[k] = V(set1)(0);
        for (; u < end; u += 2 * w) {
            const V(v) q0 = V(load)(query + u), q1 = V(load)(query + u + w);
            const V(v) x0 = V(load)(query + stride + u), x1 = V(load)(query + stride + u + w);
            const V(v) w0 = V(load)(t->weights + u), w1 = V(load)(t->weights + u + w);
            ATTNX_UNROLL
            for (int k = 0; k < count; k++) {
                const real *key = keys + k * key_row + u;
                const V(v) k0 = V(load)(key), k1 = V(load)(key + w);
                const V(v) t0 = V(fma)(q0, k0, one), t1 = V(fma)(q1, k1, one);
                const V(v) n0 = small ? V(fma)(x0, k0, V(load)(key + stride)) : V(fms)(x0, k0, w0);
                const V(v) n1 = small ? V(fma)(x1, k1, V(load)(key + stride + w)) : V(fms)(x1, k1, w1);
                const V(v) both = V(fma)(n0, t1, V(mul)(n1, t0));
                acc[k] = V(add)(acc[k], V(div)(both, V(mul)(t0, t1)));
            }
        }
        for (int k = 0; k < count; k++) total[k] = V(add)(total[k], acc[k]);
    }
    for (int k = 0; k < count; k++) s[k * K(block_queries)] = V(sum)(total[k]);
}

/* The score of a pair with large numbers. */
static real K(additive_exact)(const struct K(additive) *t, ptrdiff_t i, ptrdiff_t j) {
    const struct attnx_attention *a = &t->args->attention;
    const real *weight = t->args->score_weight;
    const void *query = storage_at(t->head->query, a->query.storage, i * a->query.row);
    const void *key = storage_at(t->head->key, a->key.storage, j * a->key.row);
    V(v) total = V(set1)(0), acc = V(set1)(0);
    for (ptrdiff_t u = 0; u < a->head_dim; u += V(width)) {
        const ptrdiff_t n = a->head_dim - u < V(width) ? a->head_dim - u : V(width);
        const V(v) q = K(stored)(storage_at(query, a->query.storage, u), a->query.storage, n);
        const V(v) k = K(stored)(storage_at(key, a->key.storage, u), a->key.storage, n);
        if (u % K(additive_chain) == 0) total = V(add)(total, acc), acc = V(set1)(0);
        acc = V(fma)(V(load_n)(weight + u, n), K(tanh)(V(add)(q, k)), acc);
    }
    return V(sum)(V(add)(total, acc));
}

/* Prepares n keys, or finds them prepared: they are *row apart; large[j]: key j must do without. */
static const real *K(additive_group_of_keys)(const struct K(additive) *t, ptrdiff_t first, ptrdiff_t n, ptrdiff_t *row,
                                             int *large) {
    const struct attnx_array *key = &t->args->attention.key;
    const ptrdiff_t units = t->args->attention.head_dim;
    if (t->powers && !t->some_small) {
        const real *powers = t->powers + first * t->args->powers.row;
        *row = t->args->powers.row;
        for (ptrdiff_t j = 0; j < n; j++) large[j] = t->large_weights || powers[j * *row] < 0;
        return powers;
    }
    *row = 2 * t->stride;
    for (ptrdiff_t j = 0; j < n; j++) {
        const void *from = storage_at(t->head->key, key->storage, (first + j) * key->row);
        large[j] = t->large_weights || !K(additive_within)(from, key->storage, units, ADDITIVE_LIMIT);
        K(additive_row)(t, key, from, t->some_small ? K(additive_rise) : K(additive_alone), t->keys + j * *row);
    }
    return t->keys;
}

/* s = scores of keys [first, first + keys) */
static void K(additive_scores)(const struct K(additive) *t, const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys,
                               real *s) {
    int large[K(additive_keys)];
    for (ptrdiff_t k = 0; k < keys; k += t->group) {
        const ptrdiff_t n = keys - k < t->group ? keys - k : t->group;
        ptrdiff_t row;
        const real *key = K(additive_group_of_keys)(t, first + k, n, &row, large);
        for (ptrdiff_t r = 0; r < rows->count; r++) {
            const real *query = t->queries + r * 2 * t->stride;
            real *to = s + k * K(block_queries) + r;
#define ADDITIVE_MEDIUM(j, n) K(additive_tile)(t, query, key + (j) * row, row, 0, n, to + (j) * K(block_queries))
#define ADDITIVE_SMALLS(j, n) K(additive_tile)(t, query, key + (j) * row, row, 1, n, to + (j) * K(block_queries))
            if (t->way[r] == K(additive_medium)) ATTNX_TILE_ROWS(n, 4, ADDITIVE_MEDIUM);
            else if (t->way[r] == K(additive_small)) ATTNX_TILE_ROWS(n, 4, ADDITIVE_SMALLS);
#undef ADDITIVE_MEDIUM
#undef ADDITIVE_SMALLS
            for (ptrdiff_t j = 0; j < n; j++)
                if (large[j] || t->way[r] == K(additive_large))
                    to[j * K(block_queries)] = K(additive_exact)(t, rows->index[r], first + k + j);
        }
    }
}

/* One block of keys for the block of queries; attend_block of attention.h with these scores. */
static void K(additive_block)(const struct K(additive) *t, struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys,
                              int careful, struct K(scratch) *scratch) {
    const struct attnx_attention *a = &t->args->attention;
    real *s = scratch->s;
    const enum K(mask_state) state = K(mask_survey)(a, t->head, rows, first, keys);
    if (state == K(mask_hides_all)) {
        for (ptrdiff_t i = 0; i < keys * K(block_queries); i++) s[i] = -(real)INFINITY;
    } else {
        K(additive_scores)(t, rows, first, keys, s);
        if (state == K(mask_mixed)) K(mask_block)(a, t->head, rows, first, keys, s, 0);
    }
    if (t->args->weights.data) K(store_scores)(&t->matrix, &t->matrix_head, rows, first, keys, s);
    if (state == K(mask_hides_all)) return;
    K(join_block)(a, t->head, rows, first, keys, careful && state == K(mask_mixed), scratch);
}

static void K(additive_blocks)(const struct K(additive) *t, struct K(rows) *rows, int careful,
                               struct K(scratch) *scratch) {
    K(start_sums)(rows);
    scratch->values_of = -1;
    for (ptrdiff_t k = 0; k < t->head->keys; k += K(block_keys)) {
        const ptrdiff_t left = t->head->keys - k;
        K(additive_block)(t, rows, k, left < K(block_keys) ? left : K(block_keys), careful, scratch);
    }
}

ATTNX_INLINE ptrdiff_t K(additive_stride)(const struct attnx_attention *a) {
    return (a->head_dim + 2 * V(width) - 1) / (2 * V(width))*(2 * V(width));
}

ATTNX_INLINE ptrdiff_t K(additive_keys_at_a_time)(ptrdiff_t stride) {
    const ptrdiff_t fit = stride ? K(additive_group) / (2 * stride) : K(additive_keys);
    return fit < 1 ? 1 : fit > K(additive_keys) ? K(additive_keys) : fit;
}

static void K(additive_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_additive *additive = args;
    const struct attnx_attention *a = &additive->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), stride = K(additive_stride)(a), threads = plan->tasks;
    const ptrdiff_t sums = (a->value_dim + w - 1) / w * w;
    ptrdiff_t rows = stride ? K(additive_rows) / (2 * stride) : q;
    rows = rows < 1 ? 1 : rows > q ? q : rows;
    if (rows > a->query_len) rows = a->query_len;
    /* A key is prepared once a task, for about the work of three queries: tasks of fewer than 8 would feel it. */
    while (rows > 8 && a->batch * ((a->query_len + rows - 1) / rows) < 2 * threads) rows = (rows + 1) / 2;
    plan->grain = rows;
    plan->tasks = a->batch * ((a->query_len + rows - 1) / rows);
    plan->work = (double)plan->tasks * (double)a->key_len / (double)w *
                 ((double)(rows * 5 + 15) * (double)stride + (double)(rows * a->value_dim));
    plan->scratch = sizeof(real) * (size_t)((K(block_keys) + 4) * q + rows * (2 * stride + sums) +
                                            (1 + 2 * K(additive_keys_at_a_time)(stride)) * stride);
    plan->scratch += sizeof(real) * (size_t)(K(block_keys) *sums);
}

/* The rows of the matrix: from masked scores to weights. */
static void K(additive_weights)(const struct K(additive) *t, const struct K(rows) *rows) {
    const ptrdiff_t keys = t->head->keys;
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        real *row = K(weights_row)(&t->matrix, &t->matrix_head, 0, rows->index[r]);
        K(softmax_row)(row, keys, NULL);
        for (ptrdiff_t j = keys; j < t->matrix.key_len; j++) row[j] = 0;
    }
}

static void K(additive_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_additive *additive = args;
    const struct attnx_attention *a = &additive->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), chunks = (a->query_len + plan->grain - 1) / plan->grain;
    const ptrdiff_t first = task % chunks * plan->grain, left = a->query_len - first;
    const struct K(head) head = K(head_at)(a, task / chunks, 0);
    struct K(additive) t = {.args = additive, .head = &head, .matrix = *a, .matrix_head = head};
    struct K(rows) rows = {.count = left < plan->grain ? left : plan->grain};
    t.matrix.out = additive->weights;
    t.matrix_head.out = K(array_at)(a, &additive->weights, task / chunks, 0, 0);
    t.powers = K(array_at)(a, &additive->powers, task / chunks, 0, 0);
    t.stride = K(additive_stride)(a);
    t.group = K(additive_keys_at_a_time)(t.stride);
    rows.stride = (a->value_dim + w - 1) / w * w;
    real *s = scratch; /* first, since it is aligned */
    rows.most = s + (K(block_keys) + 2) * q;
    rows.total = rows.most + q;
    t.weights = rows.total + q;
    t.queries = t.weights + t.stride;
    t.keys = t.queries + plan->grain * 2 * t.stride;
    rows.sums = t.keys + t.group * 2 * t.stride;
    struct K(scratch) block = {.s = s, .merge = s + K(block_keys) *q, .values = rows.sums + plan->grain * rows.stride};
    K(take_rows)(a, &head, first, &rows);
    K(additive_queries)(&t, &rows);
    K(additive_blocks)(&t, &rows, 0, &block);
    if (!K(finish_rows)(a, &head, &rows) && head.mask) {
        K(additive_blocks)(&t, &rows, 1, &block);
        K(finish_rows)(a, &head, &rows);
    }
    if (additive->weights.data) K(additive_weights)(&t, &rows);
}

/* Keys prepared for many calls; what additive_row writes for them, bit for bit. */
static void K(additive_powers_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_additive_powers *a = args;
    plan->grain = 16;
    plan->tasks = (a->rows + plan->grain - 1) / plan->grain;
    plan->work = 16.0 / V(width) *(double)a->rows * (double)a->units;
    plan->scratch = 0;
}

static void K(additive_powers_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_additive_powers *a = args;
    const ptrdiff_t first = task * plan->grain, w = V(width);
    const ptrdiff_t end = first + plan->grain < a->rows ? first + plan->grain : a->rows;
    (void)scratch;
    for (ptrdiff_t r = first; r < end; r++) {
        const real *x = (const real *)a->x + r * a->x_row;
        real *out = (real *)a->out + r * a->out_row;
        for (ptrdiff_t u = 0; u < a->out_row; u += w) {
            const ptrdiff_t left = a->units - u, n = left < 0 ? 0 : left < w ? left : w;
            V(v) twice;
            V(store)(out + u, K(additive_exp)(V(load_n)(n ? x + u : x, n), &twice));
        }
        if (!K(additive_within)(x, REAL_STORAGE, a->units, ADDITIVE_LIMIT)) out[0] = -1;
    }
}
#undef ADDITIVE_LIMIT
#undef ADDITIVE_SMALL
#undef ADDITIVE_WEIGHT
