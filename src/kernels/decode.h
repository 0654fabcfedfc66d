/* Scores and weighted values for few queries, where the tile would leave most lanes of its vectors empty.
 *
 * A decoding step is bound by reading keys and values, so the arithmetic must hide behind that: keys are transposed in
 * registers, so that a vector holds one coordinate of many keys; values are read once for up to four queries. The sums are
 * the chains of tile.h, term by term, so a decoded token has the bits of the full forward pass. Keys and values are
 * converted from their storage in registers: a bfloat16 cache halves the bytes.
 */
enum { K(few) = V(width) == 1 ? 0 : V(width) < 8 ? V(width) : 8 };

/* Whether so many queries are few. More than half a vector of them go to the tile, which does not transpose, where keys are
 * one block: 12 heads of 8 queries and keys of 64 take 5.5 us there and 6.2 here (one thread of a Zen 3). It fetches nothing
 * ahead: 64 queries on 8 heads of 1024 keys of 128 in memory, batch of 4, take 5.9 ms there and 2.6 here; 8 on 256 keys in L2
 * 17.5 us in both. */
ATTNX_INLINE int K(are_few)(const struct attnx_attention *a, const struct attnx_array *array, ptrdiff_t queries) {
    if (REAL_IS_F64 && array->storage != REAL_STORAGE) return 0;
    return queries <= V(width) / 2 || (queries <= K(few) &&a->key_len > K(block_keys));
}

/* pack_queries for so few that lanes without a query cost more than those with one: 64 x 4 heads of one query on 10 keys of
 * 24 take 0.88 of the time. scores_few reads as many lanes as it has counts compiled for: up to 4 in powers of two. */
static void K(pack_few)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows) {
    const ptrdiff_t w = V(width), depth = a->head_dim, size = storage_bytes[a->query.storage];
    const V(v) scale = V(set1)((real)a->scale);
    for (ptrdiff_t r = 0; r < (rows->count == 3 ? 4 : rows->count); r++) {
        const ptrdiff_t i = r < rows->count ? r : 0, at = rows->head[i] * a->query.head + rows->index[i] * a->query.row;
        const char *row = storage_at(head->query, a->query.storage, at);
        for (ptrdiff_t e = 0; e < depth; e += w) {
            const ptrdiff_t n = depth - e < w ? depth - e : w;
            real lanes[V(width)];
            V(store)(lanes, V(mul)(K(stored)(row + e * size, a->query.storage, n), scale));
            for (ptrdiff_t j = 0; j < n; j++) rows->packed[(e + j) * K(block_queries) + r] = lanes[j];
        }
    }
}

_Static_assert(VALUE_FEW_SUMS % 8 == 0, "bfloat16 values are added in pairs of vectors for up to 4 queries");

/* Rows asked for before they are read are the whole of a decoding step's speed. In the order in which they lie: a processor
 * follows a stream, and not the eight rows of a transpose or a panel of columns. 32 queries on 8 x 1024 keys of 128 float32,
 * batch of 16, two threads of a Zen 3, whose plain reading reaches 28 GB/s, median of 0.5 s: rows in the order of their use
 * 16 and 16, 32 and 64 or 64 and 64 (keys, values) ahead 13 GB/s; in their own order 8 ahead 16, 16 to 32 ahead 17 to 18;
 * a block of keys ahead 16. 8 KiB ahead 19, 16 KiB 22, 24 and 32 KiB 20; into L1 or L2 alike. Values are
 * read `value_part` bytes of rows at a time over all columns (32 rows whatever their length: 40 columns 15 % slower). */
enum { K(ahead_by) = 16384, K(value_part) = 16384 };

/* What lies `ahead_by` bytes past row `first`. */
static struct K(ahead)
    K(ahead_past)(const struct attnx_array *array, const void *base, ptrdiff_t first, ptrdiff_t dim) {
    const ptrdiff_t bytes = dim * storage_bytes[array->storage], rows = bytes ? (K(ahead_by) + bytes - 1) / bytes : 0;
    return K(ahead_of)(array, storage_at(base, array->storage, (first + rows) * array->row), dim);
}

/* Keys are taken half a vector of coordinates at a time, two keys to a vector: half the registers of whole vectors and, with
 * AVX2, two thirds of their shuffles, which leaves room for several vectors of keys. One alone waits for itself, since a sum
 * is one chain: 4 queries times 8 keys of 8 coordinates are 8 multiply-adds one after the other, 32 cycles, and the ports
 * take 16. 256 keys and values of 128 from L2, one thread of a Zen 3, with one vector of whole rows at a time and so: 4
 * queries on float32 15.7 and 10.4 us, on bfloat16 13.1 and 10.2; 1 query 9.7 and 7.4, 8.6 and 6.2. */
enum { K(half) = V(width) > 1 ? V(width) / 2 : 1 };

typedef V(v) K(few_sums)[4][8]; /* vectors of keys, queries */

/* Coordinate e of key i of n. Keys past the end are the last one again: their scores go nowhere. */
#define FEW_KEY(i) ((const char *)keys.data + (((i) < n ? (i) : n - 1) * keys.row + e) * storage_bytes[keys.storage])

/* The coordinates from e on, fewer than a step takes: one function for all counts and types, which unrolled in each of them
 * was most of the code. */
static void K(score_few_rest)(const struct attnx_array keys, ptrdiff_t n, ptrdiff_t e, const real *packed,
                              ptrdiff_t depth, int count, int side, K(few_sums) acc) {
    V(v) block[V(width)];
    for (int g = 0; g < side; g++) {
        for (ptrdiff_t i = 0; i < V(width); i++)
            block[i] = K(stored)(FEW_KEY(g * V(width) + i), keys.storage, depth - e);
        V(transpose)(block);
        for (ptrdiff_t j = 0; e + j < depth; j++) {
            for (int r = 0; r < count; r++) {
                const V(v) q = V(set1)(packed[(e + j) * K(block_queries) + r]);
                acc[g][r] = V(fma)(block[j], q, acc[g][r]);
            }
        }
    }
}

ATTNX_INLINE void K(score_few_store)(K(few_sums) acc, const ptrdiff_t n, const int count, const int side, real *s) {
    const ptrdiff_t w = V(width);
    ATTNX_UNROLL
    for (int g = 0; g < side; g++, s += w * K(block_queries)) {
        const ptrdiff_t left = n - g * w < w ? n - g * w : w;
        V(v) rows[V(width)];
        if (count >= 4) { /* whole rows of scores */
            ATTNX_UNROLL
            for (ptrdiff_t r = 0; r < w; r++) rows[r] = r < count ? acc[g][r < 8 ? r : 0] : V(set1)(0);
            V(transpose)(rows);
            ATTNX_UNROLL
            for (ptrdiff_t j = 0; j < w; j++) {
                if (j < left) V(store)(s + j * K(block_queries), rows[j]);
            }
            continue;
        }
        ATTNX_UNROLL
        for (int r = 0; r < count; r++) {
            real lanes[V(width)];
            V(store)(lanes, acc[g][r]);
            for (ptrdiff_t j = 0; j < left; j++) s[j * K(block_queries) + r] = lanes[j];
        }
    }
}

/* Scores of n keys, `row` elements apart, at most `side` vectors of them. */
ATTNX_INLINE void K(score_few_keys)(const struct attnx_array keys, const ptrdiff_t n, const real *packed,
                                    ptrdiff_t depth, const int count, const int side, real *s, struct K(ahead) *next) {
    const ptrdiff_t w = V(width), half = K(half);
    const int pairs = keys.storage == ATTNX_BF16; /* taken as 32 bits until they are multiplied */
    const int both = side < 2 ? side : 2;
    const ptrdiff_t step = pairs ? 2 * half : half, turns = depth / step;
    const ptrdiff_t share = turns ? (side * w * next->asked + turns - 1) / turns : 0;
    struct K(ahead) ahead = *next; /* in registers */
    V(v) block[2][V(width)], key[2];
    K(few_sums) acc, rest;
    ptrdiff_t e = 0;
    ATTNX_UNROLL
    for (int g = 0; g < side; g++) {
        ATTNX_UNROLL
        for (int r = 0; r < count; r++) acc[g][r] = V(set1)(0);
    }
    for (; e + step <= depth; e += step) {
        K(fetch_ahead)(&ahead, share);
        ATTNX_UNROLL
        for (int at = 0; at < side; at += both) { /* a broadcast for two vectors of keys */
            ATTNX_UNROLL
            for (int g = 0; g < both; g++) {
                ATTNX_UNROLL
                for (ptrdiff_t i = 0, first = (at + g) * w; i < half; i++)
                    block[g][i] = K(stored_halves)(FEW_KEY(first + i), FEW_KEY(first + i + half), keys.storage);
                V(transpose_halves)(block[g]);
            }
            ATTNX_UNROLL
            for (int j = 0; j < step; j++) {
                ATTNX_UNROLL
                for (int g = 0; g < both; g++) key[g] = pairs ? K(stored_pair)(block[g][j / 2], j % 2) : block[g][j];
                ATTNX_UNROLL
                for (int r = 0; r < count; r++) {
                    const V(v) q = V(set1)(packed[(e + j) * K(block_queries) + r]);
                    ATTNX_UNROLL
                    for (int g = 0; g < both; g++) acc[at + g][r] = V(fma)(key[g], q, acc[at + g][r]);
                }
            }
        }
    }
    *next = ahead;
    if (e < depth) {
        /* A copy: an array that a function is given lies in memory, and the sums would lie there with it. */
        memcpy(rest, acc, sizeof rest);
        K(score_few_rest)(keys, n, e, packed, depth, count, side, rest);
        memcpy(acc, rest, sizeof rest);
    }
    K(score_few_store)(acc, n, count, side, s);
}
#undef FEW_KEY

static void K(scores_few)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, real *s) {
    enum { W = V(width) };
    const ptrdiff_t count = rows->count;
    if (!K(few)) return; /* no code where there are none */
    struct attnx_array from = {.row = a->key.row, .storage = a->key.storage};
    struct K(ahead) next = K(ahead_past)(&a->key, head->key, first, a->head_dim);
    /* Rows a power of two apart share sets of L1, and a line is read in several steps: no more rows side by side than 8 ways
     * of 4 KiB hold. */
    const ptrdiff_t row = from.row * storage_bytes[from.storage], low = row & -row,
                    shared = low && low < 4096 ? low : 4096;
    /* Counts are rounded up to those compiled; scores of what is packed past the last query go nowhere. */
#define SCORE_FEW_COUNT(stored_as, queries)                                                                        \
    for (ptrdiff_t k = 0, n; k < keys; k += n) {                                                                   \
        enum { SIDE = SCORE_FEW_SUMS / (queries) < 4 ? SCORE_FEW_SUMS / (queries) : 4 };                           \
        real *to = s + k * K(block_queries);                                                                       \
        from.storage = stored_as;                                                                                  \
        from.data = storage_at(head->key, stored_as, (first + k) * from.row);                                      \
        n = keys - k < W ? keys - k : keys - k < SIDE * W || SIDE * W * shared > 32768 ? W : SIDE * W;             \
        if (n == SIDE * W) K(score_few_keys)(from, SIDE * W, rows->packed, a->head_dim, queries, SIDE, to, &next); \
        else K(score_few_keys)(from, n, rows->packed, a->head_dim, queries, 1, to, &next);                         \
    }
#define SCORE_FEW(stored_as)                                             \
    do {                                                                 \
        if (count == 1) SCORE_FEW_COUNT(stored_as, 1)                    \
        else if (K(few) > 1 && count == 2) SCORE_FEW_COUNT(stored_as, 2) \
        else if (K(few) > 2 && count <= 4) SCORE_FEW_COUNT(stored_as, 4) \
        else if (K(few) > 4) SCORE_FEW_COUNT(stored_as, 8)               \
    } while (0)
    if (REAL_IS_F64 || from.storage == REAL_STORAGE) SCORE_FEW(REAL_STORAGE);
    else if (from.storage == ATTNX_BF16) SCORE_FEW(ATTNX_BF16);
    else SCORE_FEW(ATTNX_F16);
#undef SCORE_FEW
#undef SCORE_FEW_COUNT
}

/* Some of a block's values. They are read a few rows at a time over all columns, in the order in which they lie; until the
 * last rows the sums wait in `sums`. */
struct K(few_values) {
    const void *values;
    ptrdiff_t row, keys, stride; /* from row to row of values, and of sums and out */
    const real *weights, *merge;
    real *sums, *out;
    int first, last, fresh; /* fresh: out has nothing to join */
};

/* For `count` queries, `vecs` vectors of columns from `d` on, the last one of n. */
ATTNX_INLINE void K(value_few_tile)(const struct K(few_values) *part, const enum attnx_storage storage, ptrdiff_t d,
                                    const int count, const int vecs, const ptrdiff_t n, ptrdiff_t share,
                                    struct K(ahead) *next) {
    const ptrdiff_t w = V(width), bytes = storage_bytes[storage], row = part->row * bytes;
    const int pairs = storage == ATTNX_BF16 && vecs > 1; /* sums of even and of odd columns until the end */
    const char *at = storage_at(part->values, storage, d);
    const real *weights = part->weights;
    struct K(ahead) ahead = *next;
    V(v) acc[4][8];
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        const real *sums = part->sums + r * part->stride + d;
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) acc[r][c] = part->first ? V(set1)(0) : V(load)(sums + c * w);
        ATTNX_UNROLL
        for (int c = 0; pairs && c < vecs; c += 2) V(unzip)(&acc[r][c]);
    }
    for (ptrdiff_t k = 0; k < part->keys; k++, at += row, weights += K(block_queries)) {
        V(v) v[8];
        K(fetch_ahead)(&ahead, share);
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            if (!pairs) v[c] = K(stored)(at + c * w * bytes, storage, c + 1 < vecs ? w : n);
            else if (c % 2) v[c] = K(stored_pair)(v[c - 1], 1), v[c - 1] = K(stored_pair)(v[c - 1], 0);
            else v[c] = V(load)((const void *)(at + c * w * bytes));
        }
        ATTNX_UNROLL
        for (int r = 0; r < count; r++) {
            const V(v) x = V(set1)(weights[r]);
            ATTNX_UNROLL
            for (int c = 0; c < vecs; c++) acc[r][c] = V(fma)(x, v[c], acc[r][c]);
        }
    }
    *next = ahead;
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        real *to = (part->last ? part->out : part->sums) + r * part->stride + d;
        ATTNX_UNROLL
        for (int c = 0; pairs && c < vecs; c += 2) V(zip)(&acc[r][c]);
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            real *sum = to + c * w;
            if (!part->last || part->fresh) {
                V(store)(sum, acc[r][c]);
                continue;
            }
            const V(v) old_scale = V(set1)(part->merge[r]), new_scale = V(set1)(part->merge[r + K(block_queries)]);
            V(store)(sum, V(fma)(acc[r][c], new_scale, V(mul)(V(load)(sum), old_scale)));
        }
    }
}

/* For `count` queries, all columns; `asked`: bytes ahead to ask for in the time of a row. */
ATTNX_INLINE void K(value_few_rows)(const struct K(few_values) *part, const enum attnx_storage storage, ptrdiff_t dim,
                                    const int count, ptrdiff_t asked, struct K(ahead) *next) {
    enum { W = V(width) };
    const int most = VALUE_FEW_SUMS / count < 8 ? VALUE_FEW_SUMS / count : 8;
    ptrdiff_t d = 0;
#define VALUE_FEW(vecs, n)                                                                                     \
    do {                                                                                                       \
        K(value_few_tile)(part, storage, d, count, vecs, n, asked * (((vecs) - 1) * W + (n)) / dim + 1, next); \
        d += (vecs) * W;                                                                                       \
    } while (0)
    while (dim - d >= most * W) VALUE_FEW(most, W);
    if (most > 4 && dim - d >= 4 * W) VALUE_FEW(4, W);
    if (storage != ATTNX_BF16) { /* which takes whole pairs */
        if (most > 2 && dim - d > 2 * W && dim - d <= 3 * W) VALUE_FEW(3, dim - d - 2 * W);
        if (most > 1 && dim - d > W && dim - d <= 2 * W) VALUE_FEW(2, dim - d - W);
    }
    if (most > 2 && dim - d >= 2 * W) VALUE_FEW(2, W);
    if (most > 1 && dim - d >= W) VALUE_FEW(1, W);
    if (d < dim) VALUE_FEW(1, dim - d);
#undef VALUE_FEW
}

static void K(values_few)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, const real *s, const real *merge, real *sums) {
    if (!K(few)) return;
    const ptrdiff_t dim = a->value_dim, row = dim * storage_bytes[a->value.storage],
                    fit = row ? K(value_part) / row : keys;
    const ptrdiff_t groups = rows->count / 4 + rows->count % 4 / 2 + rows->count % 2;
    const ptrdiff_t once = VALUE_FEW_SUMS / 4 * V(width); /* columns of one tile, for 4 queries too */
    const ptrdiff_t most = groups < 2 && dim <= once ? keys : fit < 8 ? 8 : fit;
    struct K(ahead) next = K(ahead_past)(&a->value, head->value, first, dim);
    struct K(few_values) part = {.row = a->value.row, .stride = rows->stride, .fresh = rows->fresh};
    for (ptrdiff_t k = 0; k < keys; k += most) {
        part.keys = keys - k < most ? keys - k : most;
        part.first = k == 0;
        part.last = k + part.keys == keys;
        part.values = storage_at(head->value, a->value.storage, (first + k) * a->value.row);
        for (ptrdiff_t r = 0, count; r < rows->count; r += count) {
            const ptrdiff_t left = rows->count - r, asked = next.asked / groups;
            count = left >= 4 ? 4 : left >= 2 ? 2 : 1;
            part.weights = s + k * K(block_queries) + r;
            part.merge = merge + r;
            part.sums = sums + r * rows->stride;
            part.out = rows->sums + r * rows->stride;
#define VALUE_FEW_COUNT(stored_as)                                                      \
    do {                                                                                \
        if (count == 4) K(value_few_rows)(&part, stored_as, dim, 4, asked, &next);      \
        else if (count == 2) K(value_few_rows)(&part, stored_as, dim, 2, asked, &next); \
        else K(value_few_rows)(&part, stored_as, dim, 1, asked, &next);                 \
    } while (0)
            if (REAL_IS_F64 || a->value.storage == REAL_STORAGE) VALUE_FEW_COUNT(REAL_STORAGE);
            else if (a->value.storage == ATTNX_BF16) VALUE_FEW_COUNT(ATTNX_BF16);
            else VALUE_FEW_COUNT(ATTNX_F16);
#undef VALUE_FEW_COUNT
        }
    }
}
