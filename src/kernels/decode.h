/* Scores and weighted values for few queries, where the tile would leave most lanes of its vectors empty.
 *
 * A decoding step is bound by reading keys and values, so the arithmetic must hide behind that: keys are transposed in
 * registers, width at a time, so that a vector holds one coordinate of many keys; values are read once for all queries.
 * The sums are the chains of tile.h, term by term, so a decoded token has the bits of the full forward pass. Keys and
 * values are converted from their storage in registers: a bfloat16 cache halves the bytes.
 */
enum { K(few) = V(width) / 2 < 8 ? V(width) / 2 : 8 }; /* from here on the tile is as fast, and has no transposing */

/* Rows asked for before they are read, the whole of a decoding step's speed. In the order in which they lie: a processor
 * follows a stream, and not the eight rows of a transpose or a panel of columns. 32 queries on 8 x 1024 keys of 128 float32,
 * batch of 16, two threads of a Zen 3, whose plain reading reaches 28 GB/s, median of 0.5 s: rows in the order of their use
 * 16 and 16, 32 and 64 or 64 and 64 (keys, values) ahead 13 GB/s; in their own order 8 ahead 16, 16 to 32 ahead 17 to 18;
 * a block of keys ahead 16. 8 KiB ahead 19, 16 KiB 22; into L1 or L2 alike. Values are read
 * `value_part` bytes of rows at a time over all columns (32 rows whatever their length: 40 columns 15 % slower). */
enum {
    K(ahead_by) = 16384,
    K(value_part) = 16384,
    K(bytes_ahead) = 4 * 64 /* at a time: four prefetches for one branch */
};

struct K(ahead) {
    const char *row;
    ptrdiff_t at, bytes, step; /* of the row: what has been asked for, its length, the way to the next */
    ptrdiff_t share, due;      /* bytes a turn, and those that were not asked for yet */
};

/* What lies `ahead_by` bytes past row `first`, a row in `turns` turns. Rows without gaps are one; others are asked for in
 * whole steps of `bytes_ahead`. */
static struct K(ahead)
    K(ahead_of)(const struct attnx_array *array, const void *base, ptrdiff_t first, ptrdiff_t dim, ptrdiff_t turns) {
    const ptrdiff_t size = storage_bytes[array->storage], bytes = dim * size, most = K(bytes_ahead);
    const int stream = array->row == dim;
    const ptrdiff_t rows = bytes ? (K(ahead_by) + bytes - 1) / bytes : 0,
                    asked = stream ? bytes : (bytes + most - 1) / most * most;
    const char *row = storage_at(base, array->storage, (first + rows) * array->row);
    return (struct K(ahead)){
        row, 0, stream ? PTRDIFF_MAX : bytes, array->row * size, turns ? (asked + turns - 1) / turns : 0, 0};
}

/* A turn. Past the last row it asks for what follows in memory: the next head where a caller's arrays hold nothing else,
 * for nothing where a cache has room left. */
ATTNX_INLINE void K(fetch_ahead)(struct K(ahead) *ahead) {
    ahead->due += ahead->share;
    for (; ahead->due >= K(bytes_ahead); ahead->due -= K(bytes_ahead)) {
        ATTNX_UNROLL
        for (int i = 0; i < K(bytes_ahead); i += 64) __builtin_prefetch(ahead->row + ahead->at + i, 0, 2);
        ahead->at += K(bytes_ahead);
        if (ahead->at >= ahead->bytes) ahead->at = 0, ahead->row += ahead->step;
    }
}

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
                                    const int count, const int whole, real *s, struct K(ahead) *next) {
    const ptrdiff_t w = V(width), bytes = storage_bytes[keys.storage];
    struct K(ahead) ahead = *next; /* in registers */
    V(v) acc[8], block[V(width)];
    real lanes[V(width)];
    ptrdiff_t e = 0;
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) acc[r] = V(set1)(0);
    /* Keys past the end are the last one again: their scores go nowhere. */
#define SCORE_FEW_KEY(i) ((const char *)keys.data + ((whole || (i) < n ? (i) : n - 1) * keys.row + e) * bytes)
    for (; e + w <= depth; e += w) {
        K(fetch_ahead)(&ahead);
        ATTNX_UNROLL
        for (ptrdiff_t i = 0; i < w; i++) block[i] = K(stored)(SCORE_FEW_KEY(i), keys.storage, w);
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
    *next = ahead;
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        V(store)(lanes, acc[r]);
        for (ptrdiff_t j = 0; j < n; j++) s[j * K(block_queries) + r] = lanes[j];
    }
}

/* Some of a block's values, of up to four vectors of columns. They are read a few rows at a time over all columns, in the
 * order in which they lie; until the last rows the sums wait in `sums`. */
struct K(few_values) {
    struct attnx_array values;
    ptrdiff_t keys, dim, stride; /* from row to row of sums and out */
    real *sums, *out;
    int first, last, fresh; /* fresh: out has nothing to join */
};

ATTNX_INLINE void K(value_few_tile)(const struct K(few_values) *part, const real *s, const int count, V(v) acc[8][4],
                                    struct K(ahead) *next) {
    const ptrdiff_t w = V(width), keys = part->keys, dim = part->dim, vecs = (dim + w - 1) / w;
    const enum attnx_storage storage = part->values.storage;
    const ptrdiff_t bytes = storage_bytes[storage], row = part->values.row * bytes;
    const char *at = part->values.data;
    struct K(ahead) ahead = *next;
#define VALUE_FEW(stored_as, n_vecs, last)                                                  \
    for (ptrdiff_t k = 0; k < keys; k++, at += row) {                                       \
        V(v) v[4];                                                                          \
        K(fetch_ahead)(&ahead);                                                             \
        ATTNX_UNROLL                                                                        \
        for (int c = 0; c < (n_vecs); c++) {                                                \
            v[c] = K(stored)(at + c * w * bytes, stored_as, c + 1 < (n_vecs) ? w : (last)); \
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
    *next = ahead;
}

/* For `count` queries. */
ATTNX_INLINE void K(value_few_columns)(const struct K(few_values) *part, const real *s, const int count,
                                       const real *merge, struct K(ahead) *next) {
    const ptrdiff_t vecs = (part->dim + V(width) - 1) / V(width);
    V(v) acc[8][4];
    for (int r = 0; r < count; r++) {
        const real *sums = part->sums + r * part->stride;
        for (int c = 0; c < 4; c++) acc[r][c] = part->first || c >= vecs ? V(set1)(0) : V(load)(sums + c * V(width));
    }
    K(value_few_tile)(part, s, count, acc, next);
    for (int r = 0; r < count; r++) {
        real *to = (part->last ? part->out : part->sums) + r * part->stride;
        for (int c = 0; c < vecs; c++) {
            real *at = to + c * V(width);
            if (!part->last || part->fresh) {
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
    struct K(ahead) next = K(ahead_of)(&a->key, head->key, first, depth, depth / w);
    next.share *= w; /* a turn is a step of so many keys */
    for (ptrdiff_t k = 0; k < keys; k += w) {
        const ptrdiff_t n = keys - k < w ? keys - k : w;
        real *to = s + k * K(block_queries);
        from.data = storage_at(head->key, from.storage, (first + k) * from.row);
        /* Queries past the last are zeros of the packed block: counts are rounded up to those compiled. */
#define SCORE_FEW_COUNT(whole)                                                                     \
    do {                                                                                           \
        if (count == 1) K(score_few_keys)(from, n, rows->packed, depth, 1, whole, to, &next);      \
        else if (count <= 4) K(score_few_keys)(from, n, rows->packed, depth, 4, whole, to, &next); \
        else if (K(few) > 4) K(score_few_keys)(from, n, rows->packed, depth, 8, whole, to, &next); \
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
                          ptrdiff_t first, ptrdiff_t keys, const real *s, const real *merge, real *sums) {
    enum { COLUMNS = 4 * V(width) };
    const ptrdiff_t sweeps = (a->value_dim + COLUMNS - 1) / COLUMNS, fours = VALUE_FEW_ROWS > 2 ? rows->count / 4 : 0;
    const ptrdiff_t groups = fours + (rows->count - 4 * fours + 1) / 2; /* of 4 rows, then of 2, then of 1 */
    const ptrdiff_t row = a->value_dim * storage_bytes[a->value.storage], fit = row ? K(value_part) / row : keys;
    const ptrdiff_t most = sweeps * groups < 2 ? keys : fit < 8 ? 8 : fit;
    struct K(ahead) next = K(ahead_of)(&a->value, head->value, first, a->value_dim, sweeps * groups);
    struct K(few_values) part = {
        .values = {.row = a->value.row, .storage = a->value.storage}, .stride = rows->stride, .fresh = rows->fresh};
    for (ptrdiff_t k = 0; k < keys; k += most) {
        part.keys = keys - k < most ? keys - k : most;
        part.first = k == 0;
        part.last = k + part.keys == keys;
        for (ptrdiff_t d = 0; d < a->value_dim; d += COLUMNS) {
            part.dim = a->value_dim - d < COLUMNS ? a->value_dim - d : COLUMNS;
            part.values.data = storage_at(head->value, a->value.storage, (first + k) * a->value.row + d);
            for (ptrdiff_t r = 0; r < rows->count;) {
                const ptrdiff_t left = rows->count - r, at = r * rows->stride + d;
                const real *weights = s + k * K(block_queries) + r;
                part.sums = sums + at, part.out = rows->sums + at;
                if (VALUE_FEW_ROWS > 2 && left >= 4) K(value_few_columns)(&part, weights, 4, merge + r, &next);
                else if (left >= 2) K(value_few_columns)(&part, weights, 2, merge + r, &next);
                else K(value_few_columns)(&part, weights, 1, merge + r, &next);
                r += VALUE_FEW_ROWS > 2 && left >= 4 ? 4 : left >= 2 ? 2 : 1;
            }
        }
    }
}
