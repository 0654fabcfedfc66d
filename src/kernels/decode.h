/* Scores and weighted values for few queries, where the tile would leave most lanes of its vectors empty.
 *
 * A decoding step is bound by reading keys and values, so the arithmetic must hide behind that: keys are transposed in
 * registers, width at a time, so that a vector holds one coordinate of many keys; values are read once for all queries.
 * The sums are the chains of tile.h, term by term, so a decoded token has the bits of the full forward pass. Keys and
 * values are converted from their storage in registers: a bfloat16 cache halves the bytes and so nearly the time.
 */
enum { K(few) = V(width) / 2 < 8 ? V(width) / 2 : 8 }; /* from here on the tile is as fast, and has no transposing */

/* Rows fetched ahead into L2 (locality 2), the whole of a decoding step's speed: 32 queries on 8 x 4096 keys of 128
 * float32, two threads, median of 0.6 s: into L1 16 and 8 rows ahead 17 GB/s, 32 and 64 ahead 10; into L2 32 and 64
 * ahead 40, 48 and 64 ahead 31, 64 and 96 ahead 32. */
enum { K(key_ahead) = 32, K(value_ahead) = 64, K(ahead_to) = 2 };

/* acc[r] += sum_e key[lane, e] * q[e, r] over the coordinates [e, e + n), n = width where `whole` */
ATTNX_INLINE void K(score_few_step)(const V(v) *block, const real *q, const int count, const ptrdiff_t n, V(v) *acc) {
    ATTNX_UNROLL
    for (ptrdiff_t j = 0; j < n; j++) {
        ATTNX_UNROLL
        for (int r = 0; r < count; r++) acc[r] = V(fma)(block[j], V(set1)(q[j * K(block_queries) + r]), acc[r]);
    }
}

/* Scores of one vector of keys (n of them, `row` elements apart); `whole`: n is the width. Whole steps have a loop of their
 * own, without a branch: with one on n and on the last step in it, accumulators and block were in memory. */
ATTNX_INLINE void K(score_few_keys)(const struct attnx_array keys, ptrdiff_t n, const real *packed, ptrdiff_t depth,
                                    const int count, const int whole, real *s) {
    const ptrdiff_t w = V(width), bytes = storage_bytes[keys.storage], ahead = K(key_ahead) *keys.row * bytes;
    V(v) acc[8], block[V(width)];
    real lanes[V(width)];
    ptrdiff_t e = 0;
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) acc[r] = V(set1)(0);
    /* Keys past the end are the last one again: their scores go nowhere. */
#define SCORE_FEW_KEY(i) ((const char *)keys.data + ((whole || (i) < n ? (i) : n - 1) * keys.row + e) * bytes)
    for (; e + w <= depth; e += w) {
        const int line = e * bytes % 64 == 0;
        ATTNX_UNROLL
        for (ptrdiff_t i = 0; i < w; i++) {
            block[i] = K(stored)(SCORE_FEW_KEY(i), keys.storage, w);
            if (line) __builtin_prefetch(SCORE_FEW_KEY(i) + ahead, 0, K(ahead_to));
        }
        V(transpose)(block);
        K(score_few_step)(block, packed + e * K(block_queries), count, w, acc);
    }
    if (e < depth) {
        ATTNX_UNROLL
        for (ptrdiff_t i = 0; i < w; i++) block[i] = K(stored)(SCORE_FEW_KEY(i), keys.storage, depth - e);
        V(transpose)(block);
        K(score_few_step)(block, packed + e * K(block_queries), count, depth - e, acc);
    }
#undef SCORE_FEW_KEY
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        V(store)(lanes, acc[r]);
        for (ptrdiff_t j = 0; j < n; j++) s[j * K(block_queries) + r] = lanes[j];
    }
}

ATTNX_INLINE void K(value_few_tile)(const struct attnx_array *values, const void *base, ptrdiff_t keys, ptrdiff_t dim,
                                    const real *s, const int count, V(v) acc[8][4]) {
    const ptrdiff_t w = V(width), vecs = (dim + w - 1) / w;
    const enum attnx_storage storage = values->storage;
    const char *at = base;
    const ptrdiff_t bytes = storage_bytes[storage], row = values->row * bytes;
    for (int r = 0; r < count; r++) {
        for (int c = 0; c < 4; c++) acc[r][c] = V(set1)(0);
    }
#define VALUE_FEW(stored_as, n_vecs, last)                                                  \
    for (ptrdiff_t k = 0; k < keys; k++, at += row) {                                       \
        V(v) v[4];                                                                          \
        ATTNX_UNROLL                                                                        \
        for (int c = 0; c < (n_vecs); c++) {                                                \
            v[c] = K(stored)(at + c * w * bytes, stored_as, c + 1 < (n_vecs) ? w : (last)); \
            __builtin_prefetch(at + c * w * bytes + K(value_ahead) *row, 0, K(ahead_to));   \
        }                                                                                   \
        ATTNX_UNROLL                                                                        \
        for (int r = 0; r < count; r++) {                                                   \
            const V(v) x = V(set1)(s[k * K(block_queries) + r]);                            \
            ATTNX_UNROLL                                                                    \
            for (int c = 0; c < (n_vecs); c++) acc[r][c] = V(fma)(x, v[c], acc[r][c]);      \
        }                                                                                   \
    }
    if (dim == 4 * w && storage == REAL_STORAGE) {
        VALUE_FEW(REAL_STORAGE, 4, w)
    } else if (dim == 4 * w && storage == ATTNX_BF16) {
        VALUE_FEW(ATTNX_BF16, 4, w)
    } else if (dim == 4 * w) {
        VALUE_FEW(ATTNX_F16, 4, w)
    } else if (vecs == 4) {
        VALUE_FEW(storage, 4, dim - 3 * w)
    } else if (vecs == 3) {
        VALUE_FEW(storage, 3, dim - 2 * w)
    } else if (vecs == 2) {
        VALUE_FEW(storage, 2, dim - w)
    } else {
        VALUE_FEW(storage, 1, dim)
    }
#undef VALUE_FEW
}

/* Values of up to four vectors of columns for `count` queries from row r on */
ATTNX_INLINE void K(value_few_columns)(const struct attnx_array *values, const void *base, ptrdiff_t keys,
                                       ptrdiff_t dim, const real *s, const int count, const real *merge,
                                       const struct K(rows) *out) {
    V(v) acc[8][4];
    K(value_few_tile)(values, base, keys, dim, s, count, acc);
    for (int r = 0; r < count; r++) {
        for (int c = 0; c * V(width) < dim; c++) {
            real *at = out->sums + r * out->stride + c * V(width);
            if (out->fresh) {
                V(store)(at, acc[r][c]);
                continue;
            }
            const V(v) old_scale = V(set1)(merge[r]), new_scale = V(set1)(merge[r + K(block_queries)]);
            V(store)(at, V(fma)(acc[r][c], new_scale, V(mul)(V(load)(at), old_scale)));
        }
    }
}

static void K(scores_few)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, real *s) {
    const ptrdiff_t w = V(width), depth = a->head_dim, count = rows->count;
    struct attnx_array from = {.row = a->key.row, .storage = a->key.storage};
    for (ptrdiff_t k = 0; k < keys; k += w) {
        const ptrdiff_t n = keys - k < w ? keys - k : w;
        real *to = s + k * K(block_queries);
        from.data = storage_at(head->key, from.storage, (first + k) * from.row);
        /* Queries past the last are zeros of the packed block: counts are rounded up to those compiled. */
#define SCORE_FEW_COUNT(whole)                                                              \
    do {                                                                                    \
        if (count == 1) K(score_few_keys)(from, n, rows->packed, depth, 1, whole, to);      \
        else if (count <= 4) K(score_few_keys)(from, n, rows->packed, depth, 4, whole, to); \
        else if (K(few) > 4) K(score_few_keys)(from, n, rows->packed, depth, 8, whole, to); \
    } while (0)
#define SCORE_FEW(stored_as)            \
    do {                                \
        from.storage = stored_as;       \
        if (n == w) SCORE_FEW_COUNT(1); \
        else SCORE_FEW_COUNT(0);        \
    } while (0)
        if (from.storage == REAL_STORAGE) SCORE_FEW(REAL_STORAGE);
        else if (from.storage == ATTNX_BF16) SCORE_FEW(ATTNX_BF16);
        else SCORE_FEW(ATTNX_F16);
#undef SCORE_FEW
#undef SCORE_FEW_COUNT
    }
}

static void K(values_few)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, const real *s, const real *merge) {
    const ptrdiff_t most = 4 * V(width);
    for (ptrdiff_t d = 0; d < a->value_dim; d += most) {
        const ptrdiff_t dim = a->value_dim - d < most ? a->value_dim - d : most;
        const void *base = storage_at(head->value, a->value.storage, first * a->value.row + d);
        struct K(rows) to = {.sums = rows->sums + d, .stride = rows->stride, .fresh = rows->fresh};
        for (ptrdiff_t r = 0; r < rows->count;) {
            const ptrdiff_t left = rows->count - r;
            to.sums = rows->sums + r * rows->stride + d;
            if (VALUE_FEW_ROWS > 2 && left >= 4)
                K(value_few_columns)(&a->value, base, keys, dim, s + r, 4, merge + r, &to);
            else if (left >= 2) K(value_few_columns)(&a->value, base, keys, dim, s + r, 2, merge + r, &to);
            else K(value_few_columns)(&a->value, base, keys, dim, s + r, 1, merge + r, &to);
            r += VALUE_FEW_ROWS > 2 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
        }
    }
}
