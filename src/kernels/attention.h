/* Fused attention: out_i = sum_j w_ij value_j, w_i = softmax_j(scale * query_i . key_j + mask_ij).
 *
 * Online softmax (Milakov and Gimelshein 2018, FlashAttention, Dao et al. 2022) in the form that keeps rule 8: keys come
 * in blocks of a fixed size at fixed positions; a block gives its maximum, its sum and its weighted values from fresh
 * accumulators, relative to its own maximum; blocks are merged one after the other:
 *     m' = max(m, m_b); sums' = sums * exp(m - m') + sums_b * exp(m_b - m')
 * in the store of the value tile. A block that a row does not see scales its state by exactly 1 and adds exactly 0, so
 * which blocks are visited changes no bit. Fresh accumulators also keep the error at that of 128 terms plus one rounding
 * a block.
 *
 * A NaN or inf in an invisible value would still reach a sum as 0 * NaN. That costs nothing until it happens: where a
 * finished row is not finite and something was masked, the rows are done again with invisible weights marked and skipped.
 */

/* Joins the maximum and sum of a block to those so far, for the queries of one vector; see `merge` below. */
ATTNX_INLINE void K(join)(const struct K(rows) *rows, int c, V(v) most, V(v) total, real *merge) {
    const V(v) lowest = V(set1)(-(real)INFINITY), zero = V(set1)(0);
    real *m = rows->most + c * V(width), *l = rows->total + c * V(width);
    if (rows->fresh) { /* merged with nothing: scales of 0 and 1 */
        V(store)(m, most);
        V(store)(l, total);
        return;
    }
    const V(v) old = V(load)(m), both = V(max)(most, old);
    const V(v) top = V(select)(V(eq)(both, lowest), zero, both);
    const V(v) old_scale = K(exp)(V(sub)(old, top)), new_scale = K(exp)(V(sub)(most, top));
    V(store)(m, both);
    V(store)(l, V(fma)(total, new_scale, V(mul)(V(load)(l), old_scale)));
    V(store)(merge + c * V(width), old_scale);
    V(store)(merge + K(block_queries) + c * V(width), new_scale);
}

/* Weights of a block in place of its scores, and its part of the running maximum and sum. `merge` tells how the block
 * joins what came before, for each query: exp(m - m'), and from block_queries on exp(m_b - m'). */
ATTNX_INLINE void K(weigh)(const struct K(rows) *rows, ptrdiff_t keys, const int vecs, real *s, real *merge) {
    const V(v) lowest = V(set1)(-(real)INFINITY), zero = V(set1)(0);
    V(v) most[K(tile_vecs)], base[K(tile_vecs)], total[K(tile_vecs)];
    ATTNX_UNROLL
    for (int c = 0; c < vecs; c++) most[c] = lowest, total[c] = zero;
    for (ptrdiff_t k = 0; k < keys; k++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) most[c] = V(max)(V(load)(s + k * K(block_queries) + c * V(width)), most[c]);
    }
    ATTNX_UNROLL
    for (int c = 0; c < vecs; c++) base[c] = V(select)(V(eq)(most[c], lowest), zero, most[c]);
    for (ptrdiff_t k = 0; k < keys; k++) {
        real *at = s + k * K(block_queries);
        V(v) weight[K(tile_vecs)];
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) weight[c] = V(sub)(V(load)(at + c * V(width)), base[c]);
        K(exps)(weight, vecs);
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            total[c] = V(add)(total[c], weight[c]);
            V(store)(at + c * V(width), weight[c]);
        }
    }
    for (int c = 0; c < vecs; c++) K(join)(rows, c, most[c], total[c], merge);
}

/* A block of value rows as the tiles read them: panels of VALUE_VECS vectors of columns, the rest of the last vector 0.
 *
 * In place, every second load of 32 bytes would cross a cache line (NumPy aligns arrays to 16 bytes), rows a power of two
 * apart share few sets of L1, and the rows of packed projections lie on a page each: the copy, one for all queries of a
 * pass, takes 2 % of a block's time; without it values ran at 84 % (head dim 64) and 65 % (128) of the rate with it. */
ATTNX_INLINE void K(pack_rows)(const char *from, ptrdiff_t row, const enum attnx_storage storage, ptrdiff_t keys,
                               ptrdiff_t dim, real *to) {
    const ptrdiff_t w = V(width), panel = VALUE_VECS * w, bytes = storage_bytes[storage];
    const ptrdiff_t whole = dim / panel * panel, rest = (dim - whole + w - 1) / w * w;
    for (ptrdiff_t k = 0; k < keys; k++, from += row) {
        for (ptrdiff_t d = 0; d < whole; d += panel) {
            ATTNX_UNROLL
            for (int c = 0; c < VALUE_VECS; c++)
                V(store)(to + d * K(block_keys) + k * panel + c * w, K(stored)(from + (d + c * w) * bytes, storage, w));
        }
        for (ptrdiff_t d = whole; d < dim; d += w) {
            const V(v) v = K(stored)(from + d * bytes, storage, dim - d < w ? dim - d : w);
            V(store)(to + whole * K(block_keys) + k * rest + d - whole, v);
        }
    }
}

/* Packs the block of keys that key `first` is in. */
static void K(pack_values)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t first, real *to) {
    const ptrdiff_t start = first / K(block_keys) *K(block_keys), left = head->keys - start;
    const ptrdiff_t keys = left < K(block_keys) ? left : K(block_keys);
    const ptrdiff_t row = a->value.row * storage_bytes[a->value.storage];
    const char *from = storage_at(head->value, a->value.storage, start * a->value.row);
    if (a->value.storage == REAL_STORAGE) K(pack_rows)(from, row, REAL_STORAGE, keys, a->value_dim, to);
    else K(pack_rows)(from, row, a->value.storage, keys, a->value_dim, to);
}

ATTNX_INLINE void K(value_tile)(const real *weights, const real *values, ptrdiff_t keys, const int count,
                                const int vecs, const struct K(rows) *rows, real *sums, const real *merge) {
    const ptrdiff_t stride = rows->stride;
    K(tile) acc;
    K(tile_sum)((struct K(broadcast)){weights, 1, K(block_queries)},
                (struct K(vectors)){values, vecs * V(width), vecs, 0, 0}, keys, count, vecs, acc);
    if (rows->fresh) {
        ATTNX_UNROLL
        for (int r = 0; r < count; r++) {
            ATTNX_UNROLL
            for (int c = 0; c < vecs; c++) V(store)(sums + r * stride + c * V(width), acc[r][c]);
        }
        return;
    }
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            real *at = sums + r * stride + c * V(width);
            const V(v) old_scale = V(set1)(merge[r]), new_scale = V(set1)(merge[r + K(block_queries)]);
            V(store)(at, V(fma)(acc[r][c], new_scale, V(mul)(V(load)(at), old_scale)));
        }
    }
}

/* What no row of a tile sees by position would add zeros. */
ATTNX_INLINE void K(value_columns)(const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys, const real *values,
                                   const int vecs, const real *weights, real *sums, const real *merge) {
    const int part = K(seen_in_part)(rows, first, keys);
#define VALUE_TILE(r, n)                                                                                               \
    do {                                                                                                               \
        const struct K(interval) k = part ? K(seen)(rows, r, n, first, keys) : (struct K(interval)){0, keys};          \
        K(value_tile)(weights + (r) + k.begin * K(block_queries), values + k.begin * vecs * V(width), k.end - k.begin, \
                      n, vecs, rows, sums + (r) * rows->stride, merge + (r));                                          \
    } while (0)
    /* One vector of 6 rows is 6 chains of sums, and multiply-adds wait for each other. */
    ATTNX_TILE_ROWS(rows->count, vecs == 1 ? 8 : VALUE_ROWS, VALUE_TILE);
#undef VALUE_TILE
}

/* sums = sums * old_scale + (weights of keys [first, first + keys)) x values * new_scale; `packed` is their block. */
static void K(values)(const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys, const real *s, const real *merge,
                      const real *packed) {
    const ptrdiff_t w = V(width), skipped = first % K(block_keys);
    ptrdiff_t d = 0;
#define VALUE_COLUMNS(n)                                                                                          \
    do {                                                                                                          \
        K(value_columns)(rows, first, keys, packed + d * K(block_keys) + skipped * (n) * w, n, s, rows->sums + d, \
                         merge);                                                                                  \
        d += (n) * w;                                                                                             \
    } while (0)
    while (rows->stride - d >= VALUE_VECS * w) VALUE_COLUMNS(VALUE_VECS);
    if (VALUE_VECS > 3 && rows->stride - d >= 3 * w) VALUE_COLUMNS(3);
    else if (VALUE_VECS > 2 && rows->stride - d >= 2 * w) VALUE_COLUMNS(2);
    else if (rows->stride - d >= w) VALUE_COLUMNS(1);
#undef VALUE_COLUMNS
}

/* The same sums with invisible weights marked by -1 and their values not touched. */
static void K(values_marked)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                             ptrdiff_t first, ptrdiff_t keys, const real *s, const real *merge) {
    const ptrdiff_t w = V(width);
    const enum attnx_storage storage = a->value.storage;
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        const V(v) old_scale = V(set1)(merge[r]), new_scale = V(set1)(merge[r + K(block_queries)]);
        for (ptrdiff_t d = 0; d < a->value_dim; d += w) {
            const ptrdiff_t n = a->value_dim - d < w ? a->value_dim - d : w;
            V(v) acc = V(set1)(0);
            for (ptrdiff_t k = 0; k < keys; k++) {
                const real weight = s[k * K(block_queries) + r];
                if (weight < 0) continue;
                const void *value = storage_at(head->value, storage, (first + k) * a->value.row + d);
                acc = V(fma)(V(set1)(weight), K(stored)(value, storage, n), acc);
            }
            real *at = rows->sums + r * rows->stride + d;
            V(store)(at, V(fma)(acc, new_scale, V(mul)(V(load)(at), old_scale)));
        }
    }
}

static void K(zero_sums)(struct K(rows) *rows) {
    for (ptrdiff_t i = 0; i < rows->count * rows->stride; i++) rows->sums[i] = 0;
    rows->fresh = 0;
}

/* Joins the values of a block of keys by their weights. `marks`: something masks, and invisible values must not be
 * touched. */
static void K(join_values)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows,
                           ptrdiff_t first, ptrdiff_t keys, int marks, struct K(scratch) *scratch) {
    real *s = scratch->s, *merge = scratch->merge;
    if (marks) {
        K(mask_block)(a, head, rows, first, keys, s, 1);
        K(values_marked)(a, head, rows, first, keys, s, merge);
    } else if (K(are_few)(a, &a->value, rows->count)) {
        scratch->values_of = -1; /* its sums take the place of packed values */
        K(values_few)(a, head, rows, first, keys, s, merge, scratch->values);
    } else {
        if (scratch->values_of != first / K(block_keys)) {
            scratch->values_of = first / K(block_keys);
            K(pack_values)(a, head, first, scratch->values);
        }
        K(values)(rows, first, keys, s, merge, scratch->values);
    }
    rows->fresh = 0;
}

/* Joins a block of keys by its scores. */
static void K(join_block)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, int marks, struct K(scratch) *scratch) {
    if (marks && rows->fresh) K(zero_sums)(rows);
    if (rows->vecs == 1) K(weigh)(rows, keys, 1, scratch->s, scratch->merge);
    else if (rows->vecs == 2) K(weigh)(rows, keys, 2, scratch->s, scratch->merge);
    else K(weigh)(rows, keys, 3, scratch->s, scratch->merge);
    K(join_values)(a, head, rows, first, keys, marks, scratch);
}

/* What the scores of a block of keys leave time to ask for. */
static void K(fetch_during)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                            ptrdiff_t first, ptrdiff_t keys, struct K(scratch) *scratch) {
    const ptrdiff_t turns = (keys + K(tile_rows) - 1) / K(tile_rows);
    struct K(fetches) *fetches = scratch->fetches;
    fetches->count = fetches->lasting;
    K(mask_ahead)(&a->bias, head->bias, rows, first, keys, fetches);
    K(mask_ahead)(&a->mask, head->mask, rows, first, keys, fetches);
    if (!scratch->far || first + keys < rows->end) return;
    const ptrdiff_t row = rows->head[0] * a->out.head + rows->index[0] * a->out.row;
    K(fetch_within)(fetches, &a->out, storage_at(head->out, a->out.storage, row), a->value_dim, rows->count, turns);
}

/* Scores of a block of keys with biases, and -inf where they are hidden; 0 where all are, 2 where none is and there was no
 * bias. */
static int K(block_scores)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                           ptrdiff_t first, ptrdiff_t keys, struct K(scratch) *scratch) {
    const enum K(mask_state) state = K(mask_survey)(a, head, rows, first, keys);
    const int whole = state == K(mask_hides_none) &&!K(seen_in_part)(rows, first, keys);
    const int plain = whole && !head->bias && !a->slopes && !a->relative;
    const int few = K(are_few)(a, &a->key, rows->count);
    if (state == K(mask_hides_all)) return 0;
    if (few) {
        K(scores_few)(a, head, rows, first, keys, scratch->s);
    } else {
        if (scratch->fetches) K(fetch_during)(a, head, rows, first, keys, scratch);
        K(scores)(a, head, rows, first, keys, 0, scratch);
    }
    if (a->softcap > 0) K(softcap)(a, rows, keys, scratch->s);
    if (!plain) K(mask_block)(a, head, rows, first, keys, scratch->s, 0);
    return plain ? 2 : 1;
}

/* One block of keys for one block of queries. */
static void K(attend_block)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows,
                            ptrdiff_t first, ptrdiff_t keys, int careful, struct K(scratch) *scratch) {
    const int seen = K(block_scores)(a, head, rows, first, keys, scratch);
    if (seen) K(join_block)(a, head, rows, first, keys, careful && seen == 1, scratch);
}

static void K(start_sums)(struct K(rows) *rows) {
    for (ptrdiff_t i = 0; i < K(block_queries); i++) rows->most[i] = -(real)INFINITY, rows->total[i] = 0;
    rows->fresh = 1;
}

static void K(start_rows)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows) {
    if (rows->count <= 4 && K(are_few)(a, &a->key, rows->count)) K(pack_few)(a, head, rows);
    else K(pack_queries)(a, head, rows);
    K(start_sums)(rows);
}

/* Puts a row's sink, a logit without a key, into its maximum and sum; returns what the weighted values scale with. */
static real K(add_sink)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                        ptrdiff_t r) {
    const real sink = ((const real *)a->sinks)[head->first_head + rows->head[r]], most = rows->most[r];
    const real top = sink > most ? sink : most;
    real scale[V(width)], weight[V(width)];
    if (top == -(real)INFINITY) return 1;
    V(store)(scale, K(exp)(V(set1)(most - top)));
    V(store)(weight, K(exp)(V(set1)(sink - top)));
    rows->most[r] = top;
    rows->total[r] = rows->total[r] * scale[0] + weight[0];
    return scale[0];
}

/* Writes a row of sums, scaled; 1 where all of it is finite. */
ATTNX_INLINE int K(finish_row)(const real *sums, ptrdiff_t dim, V(v) scale, const enum attnx_storage storage,
                               char *out) {
    const V(v) zero = V(set1)(0);
    const ptrdiff_t w = V(width), bytes = storage_bytes[storage];
    V(v) spoilt = zero; /* finite numbers times 0: anything else leaves a NaN */
    ptrdiff_t d = 0;
    for (; d + w <= dim; d += w) {
        /* Adding 0 makes a -0 that underflow left behind the 0 that other paths give. */
        const V(v) v = V(fma)(V(load)(sums + d), scale, zero);
        spoilt = V(fma)(v, zero, spoilt);
        K(store_as)(out + d * bytes, storage, v, w);
    }
    if (d < dim) {
        const V(v) v = V(fma)(V(load)(sums + d), scale, zero);
        spoilt = V(fma)(v, zero, spoilt);
        K(store_as)(out + d * bytes, storage, v, dim - d);
    }
    return V(all)(V(eq)(spoilt, zero));
}

/* Writes the rows; 1 where all that was written is finite. */
static int K(finish_rows)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows) {
    const enum attnx_storage storage = a->out.storage;
    int finite = 1;
    if (rows->fresh) K(zero_sums)(rows);
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        const real sunk = a->sinks ? K(add_sink)(a, head, rows, r) : 1, total = rows->total[r];
        const V(v) scale = V(set1)(total == 0 ? 0 : sunk / total); /* a NaN stays one */
        char *out = storage_at(head->out, storage, rows->head[r] * a->out.head + rows->index[r] * a->out.row);
        const real *sums = rows->sums + r * rows->stride;
        if (storage == REAL_STORAGE) finite &= K(finish_row)(sums, a->value_dim, scale, REAL_STORAGE, out);
        else finite &= K(finish_row)(sums, a->value_dim, scale, storage, out);
        if (!head->lse) continue;
        real *lse = head->lse + rows->head[r] * a->lse.head + rows->index[r] * a->lse.row;
        *lse = total == 0 ? -(real)INFINITY : (real)((double)rows->most[r] + log((double)total));
    }
    return finite;
}

/* Inline: GCC drops a call of a function that only prefetches. With it 32 x 12 x 64 x 32 in packed rows take 0.80 to 0.88 of
 * the time, 64 sentences 0.97. */
ATTNX_INLINE void K(fetch_head)(const struct attnx_attention *a, const struct K(head) *head) {
    for (ptrdiff_t h = 0; h < a->group; h++) {
        const char *query = storage_at(head->query, a->query.storage, h * a->query.head);
        K(fetch_rows)(&a->query, query, head->queries, a->head_dim);
        K(fetch_rows)(&a->out, storage_at(head->out, a->out.storage, h * a->out.head), head->queries, a->value_dim);
    }
    K(fetch_rows)(&a->key, head->key, head->keys, a->head_dim);
    K(fetch_rows)(&a->value, head->value, head->keys, a->value_dim);
}

/* The keys from `at` on, a block of them, that rows see. What none sees at either end adds exact zeros: it is not visited. */
ATTNX_INLINE struct K(interval) K(seen_in_block)(const struct K(rows) *rows, ptrdiff_t at) {
    const ptrdiff_t first = rows->begin > at ? rows->begin : at;
    return (struct K(interval)){first, rows->end < at + K(block_keys) ? rows->end : at + K(block_keys)};
}

/* While the block of keys at `at` is scored, the next one is asked for. */
static void K(fetch_block)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                           ptrdiff_t blocks, ptrdiff_t at, struct K(fetches) *fetches) {
    const ptrdiff_t next = at + K(block_keys), left = head->keys - next,
                    most = left < K(block_keys) ? left : K(block_keys);
    ptrdiff_t turns = 0;
    for (ptrdiff_t i = 0; i < blocks; i++) {
        const struct K(interval) seen = K(seen_in_block)(&rows[i], at);
        if (seen.end > seen.begin) turns += (seen.end - seen.begin + K(tile_rows) - 1) / K(tile_rows);
    }
    if (!turns) return; /* between what rows of two heads see */
    fetches->count = 0;
    K(fetch_within)(fetches, &a->key, storage_at(head->key, a->key.storage, next * a->key.row), a->head_dim, most,
                    turns);
    K(fetch_within)(fetches, &a->value, storage_at(head->value, a->value.storage, next * a->value.row), a->value_dim,
                    most, turns);
    fetches->lasting = fetches->count;
}

static void K(attend_blocks)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows,
                             ptrdiff_t blocks, int careful, struct K(scratch) *scratch) {
    ptrdiff_t begin = head->keys, end = 0;
    scratch->values_of = -1;
    for (ptrdiff_t i = 0; i < blocks; i++) {
        if (rows[i].begin < begin) begin = rows[i].begin;
        if (rows[i].end > end) end = rows[i].end;
        K(start_rows)(a, head, &rows[i]);
    }
    if (scratch->next) K(fetch_head)(a, scratch->next);
    for (ptrdiff_t at = begin / K(block_keys) *K(block_keys); at < end; at += K(block_keys)) {
        if (scratch->fetches) scratch->fetches->lasting = 0;
        if (scratch->far && at + K(block_keys) < end) K(fetch_block)(a, head, rows, blocks, at, scratch->fetches);
        for (ptrdiff_t i = 0; i < blocks; i++) {
            const struct K(interval) seen = K(seen_in_block)(&rows[i], at);
            if (seen.begin < seen.end)
                K(attend_block)(a, head, &rows[i], seen.begin, seen.end - seen.begin, careful, scratch);
        }
    }
}

/* Rows that a call has but does not compute: past query_lengths. Entries [first, end) of those of a key/value head. */
static void K(blank_rows)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t first, ptrdiff_t end) {
    const ptrdiff_t blank = a->query_len - head->queries;
    const enum attnx_storage storage = a->out.storage;
    for (ptrdiff_t r = first; r < end; r++) {
        const ptrdiff_t h = r / blank, i = head->queries + r % blank;
        char *out = storage_at(head->out, storage, h * a->out.head + i * a->out.row);
        memset(out, 0, (size_t)a->value_dim * storage_bytes[storage]);
        if (!head->lse) continue;
        head->lse[h * a->lse.head + i * a->lse.row] = -(real)INFINITY;
    }
}
