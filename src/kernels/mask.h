/* What comes between a score and the softmax: softcap, biases, and who sees whom, in transposed scores.
 *
 * A masked score is replaced, never added to, so a NaN under the mask leaves no trace. What hides pairs serves twice:
 * with `mark` false it adds the bias and writes -inf where a pair is invisible; with `mark` true it writes -1 over the
 * weights of invisible pairs, for the slow value product that must not touch their values.
 */
ATTNX_INLINE void K(softcap)(const struct attnx_attention *a, const struct K(rows) *rows, ptrdiff_t keys, real *s) {
    const V(v) cap = V(set1)((real)a->softcap), inverse = V(set1)((real)(1 / a->softcap));
    for (ptrdiff_t k = 0; k < keys; k++) {
        for (ptrdiff_t c = 0; c < rows->vecs; c++) {
            real *at = s + k * K(block_queries) + c * V(width);
            V(store)(at, V(mul)(cap, K(tanh)(V(mul)(V(load)(at), inverse))));
        }
    }
}

/* n elements of one row of a mask or bias, as what is added to a score: a real, or -inf. */
ATTNX_INLINE V(v) K(mask_load)(const struct attnx_array *array, const char *row, ptrdiff_t key, ptrdiff_t n) {
    const V(v) hidden = V(set1)(-(real)INFINITY), seen = V(set1)(0);
    const ptrdiff_t item = array->item;
    if (array->storage == ATTNX_BOOL) {
        const uint8_t *p = (const uint8_t *)row + key * item;
        if (item == 1) return V(from_bytes)(p, n, seen, hidden);
        uint8_t bytes[V(width)] = {0};
        for (ptrdiff_t i = 0; i < n; i++) bytes[i] = p[i * item];
        return V(from_bytes)(bytes, V(width), seen, hidden);
    }
    const real *p = (const real *)(const void *)row + key * item;
    if (item == 1) return n == V(width) ? V(load)(p) : V(load_n)(p, n);
    real lanes[V(width)] = {0};
    for (ptrdiff_t i = 0; i < n; i++) lanes[i] = p[i * item];
    return V(load)(lanes);
}

ATTNX_INLINE void K(mask_score)(real *s, V(v) bias, const int mark) {
    const V(m) hidden = V(eq)(bias, V(set1)(-(real)INFINITY));
    const V(v) score = V(load)(s);
    if (mark) V(store)(s, V(select)(hidden, V(set1)(-1), score));
    else V(store)(s, V(select)(hidden, bias, V(add)(score, bias)));
}

ATTNX_INLINE const char *K(mask_row)(const struct attnx_array *array, const char *base, const struct K(rows) *rows,
                                     ptrdiff_t r) {
    return storage_at(base, array->storage, rows->head[r] * array->head + rows->index[r] * array->row);
}

/* width keys from `key` on for width rows, added to their scores. Compile-time storage: the rows of loads and the
 * transposition stay in registers (with branches inside, a dense float mask doubled the time of L = S = 256). Floats half
 * a vector of keys at a time, two rows to a vector: whole ones spill. */
ATTNX_INLINE void K(mask_tile)(const char *const *row, ptrdiff_t key, real *s, const enum attnx_storage storage) {
    enum { W = V(width), HALF = W > 1 ? W / 2 : 1 };
    V(v) bias[V(width)];
    if (storage == ATTNX_BOOL) {
        ATTNX_UNROLL
        for (int i = 0; i < W; i++) {
            const uint8_t *p = (const uint8_t *)row[i] + key;
            bias[i] = V(from_bytes)(p, W, V(set1)(0), V(set1)(-(real)INFINITY));
        }
        V(transpose)(bias);
        ATTNX_UNROLL
        for (int j = 0; j < W; j++) K(mask_score)(s + j * K(block_queries), bias[j], 0);
        return;
    }
    ATTNX_UNROLL
    for (int at = 0; at < W; at += HALF) {
        ATTNX_UNROLL
        for (int i = 0; i < HALF; i++) {
            const real *p = (const real *)(const void *)row[i], *q = (const real *)(const void *)row[W - HALF + i];
            bias[i] = V(halves)(p + key + at, q + key + at);
        }
        V(transpose_halves)(bias);
        ATTNX_UNROLL
        for (int j = 0; j < HALF; j++) K(mask_score)(s + (at + j) * K(block_queries), bias[j], 0);
    }
}

/* A mask or bias array on the scores of keys [first, first + keys) of one vector of queries */
ATTNX_INLINE void K(mask_column)(const struct attnx_array *array, const char *const *row, ptrdiff_t first,
                                 ptrdiff_t keys, real *s, const int mark) {
    const ptrdiff_t w = V(width), whole = array->item == 1 && !mark ? keys / w * w : 0; /* marks are rare: no tiles */
    ptrdiff_t k = 0;
    /* Two loops: with the choice inside, the scores of a tile lay in memory. */
    for (; k < whole && array->storage == ATTNX_BOOL; k += w)
        K(mask_tile)(row, first + k, s + k * K(block_queries), ATTNX_BOOL);
    for (; k < whole; k += w) K(mask_tile)(row, first + k, s + k * K(block_queries), REAL_STORAGE);
    for (; k < keys; k += w) {
        V(v) bias[V(width)];
        const ptrdiff_t n = keys - k < w ? keys - k : w;
        for (ptrdiff_t i = 0; i < w; i++) bias[i] = K(mask_load)(array, row[i], first + k, n);
        V(transpose)(bias);
        for (ptrdiff_t j = 0; j < n; j++) K(mask_score)(s + (k + j) * K(block_queries), bias[j], mark);
    }
}

/* The same for all queries of a block */
ATTNX_INLINE void K(mask_array)(const struct attnx_array *array, const char *base, const struct K(rows) *rows,
                                ptrdiff_t first, ptrdiff_t keys, real *s, const int mark) {
    const ptrdiff_t w = V(width);
    if (array->row == 0 && (array->head == 0 || rows->head[0] == rows->head[rows->count - 1])) {
        const char *row = K(mask_row)(array, base, rows, 0); /* one row for all: a number a key */
        for (ptrdiff_t k = 0; k < keys; k += w) {
            const ptrdiff_t n = keys - k < w ? keys - k : w;
            real lanes[V(width)];
            V(store)(lanes, K(mask_load)(array, row, first + k, n));
            for (ptrdiff_t j = 0; j < n; j++) {
                for (ptrdiff_t c = 0; c < rows->vecs; c++)
                    K(mask_score)(s + (k + j) * K(block_queries) + c * w, V(set1)(lanes[j]), mark);
            }
        }
        return;
    }
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        const char *row[V(width)];
        for (ptrdiff_t i = 0; i < w; i++) { /* lanes past the last query do as the last one does */
            const ptrdiff_t r = c * w + i < rows->count ? c * w + i : rows->count - 1;
            row[i] = K(mask_row)(array, base, rows, r);
        }
        K(mask_column)(array, row, first, keys, s + c * w, mark);
    }
}

/* Asks for the rows of a float mask or bias while the scores that it is added to are computed: they lie apart, and no
 * processor follows so many (a mask of 12 MB on 4 x 12 x 256 x 64, one thread of a Zen 3: 17 % of the time went into adding
 * it, 11 when all of a block's were asked for at once before its scores). */
static void K(mask_ahead)(const struct attnx_array *array, const char *base, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, struct K(fetches) *fetches) {
    const ptrdiff_t tile = K(tile_rows), count = array->row == 0 && array->head == 0 ? 1 : rows->count;
    if (!base || array->storage == ATTNX_BOOL || array->item != 1) return;
    const char *row = K(mask_row)(array, base, rows, 0) + first * storage_bytes[array->storage];
    K(fetch_within)(fetches, array, row, keys, count, (keys + tile - 1) / tile);
}

/* ALiBi (Press et al. 2022): -slope * |position - key|; distances from the block's first key are exact. */
static void K(bias_alibi)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, real *s) {
    const real *slopes = (const real *)a->slopes + head->first_head;
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        real slope[V(width)] = {0}, position[V(width)] = {0};
        for (ptrdiff_t i = 0; i < V(width) &&c * V(width) + i < rows->count; i++) {
            slope[i] = -slopes[rows->head[c * V(width) + i]];
            position[i] = (real)(rows->index[c * V(width) + i] + head->offset - first);
        }
        const V(v) slope_v = V(load)(slope), position_v = V(load)(position);
        for (ptrdiff_t k = 0; k < keys; k++) {
            real *at = s + k * K(block_queries) + c * V(width);
            const V(v) distance = V(abs)(V(sub)(position_v, V(set1)((real)k)));
            V(store)(at, V(add)(V(load)(at), V(mul)(slope_v, distance)));
        }
    }
}

/* A table by key position minus query position (T5, Raffel et al. 2020), its buckets resolved by the caller. */
static void K(bias_relative)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                             ptrdiff_t first, ptrdiff_t keys, real *s, const int mark) {
    const ptrdiff_t reach = a->reach, length = 2 * reach + 1;
    const real *table = (const real *)a->relative + head->first_head * length + reach;
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        for (ptrdiff_t k = 0; k < keys; k++) {
            real lanes[V(width)] = {0};
            for (ptrdiff_t i = 0; i < V(width) &&c * V(width) + i < rows->count; i++) {
                const ptrdiff_t r = c * V(width) + i, apart = first + k - rows->index[r] - head->offset;
                const ptrdiff_t near = apart > reach ? reach : apart < -reach ? -reach : apart;
                lanes[i] = table[rows->head[r] * length + near];
            }
            K(mask_score)(s + k * K(block_queries) + c * V(width), V(load)(lanes), mark);
        }
    }
}

/* Causal, window: each lane sees an interval of keys. */
ATTNX_INLINE void K(mask_interval)(const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys, real *s,
                                   const int mark) {
    const V(v) fill = V(set1)(mark ? (real)-1 : -(real)INFINITY);
    /* All rows see what lies between. */
    const ptrdiff_t left = rows->all_begin - first, right = rows->all_end - first;
    const ptrdiff_t begin = left < 0 ? 0 : left < keys ? left : keys, end = right < begin ? begin : right;
    if (!K(seen_in_part)(rows, first, keys)) return;
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        real from[V(width)] = {0}, to[V(width)] = {0};
        for (ptrdiff_t i = 0; i < V(width) &&c * V(width) + i < rows->count; i++) {
            const struct K(interval) seen = K(seen)(rows, c * V(width) + i, 1, first, keys);
            from[i] = (real)seen.begin;
            to[i] = (real)seen.end;
        }
        const V(v) from_v = V(load)(from), to_v = V(load)(to);
        for (ptrdiff_t k = 0; k < keys; k++) {
            if (k == begin) k = end;
            if (k >= keys) break;
            const V(v) key = V(set1)((real)k);
            real *at = s + k * K(block_queries) + c * V(width);
            const V(v) late = V(select)(V(lt)(key, to_v), V(load)(at), fill);
            V(store)(at, V(select)(V(lt)(key, from_v), fill, late));
        }
    }
}

/* Biases and everything that hides, on a block. */
static void K(mask_block)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                          ptrdiff_t first, ptrdiff_t keys, real *s, const int mark) {
    if (head->bias) K(mask_array)(&a->bias, head->bias, rows, first, keys, s, mark);
    if (a->slopes && !mark) K(bias_alibi)(a, head, rows, first, keys, s);
    if (a->relative) K(bias_relative)(a, head, rows, first, keys, s, mark);
    if (head->mask) K(mask_array)(&a->mask, head->mask, rows, first, keys, s, mark);
    K(mask_interval)(rows, first, keys, s, mark);
}

enum K(mask_state) { K(mask_hides_all), K(mask_mixed), K(mask_hides_none) };

/* What a bool mask says of a whole block: most blocks of real masks are all True or all False. */
static enum K(mask_state) K(mask_survey)(const struct attnx_attention *a, const struct K(head) *head,
                                         const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys) {
    ptrdiff_t seen = 0;
    if (!head->mask) return K(mask_hides_none);
    if (a->mask.storage != ATTNX_BOOL || a->mask.item != 1) return K(mask_mixed);
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        const uint8_t *p = (const uint8_t *)K(mask_row)(&a->mask, head->mask, rows, r) + first;
        unsigned row = 0;
        for (ptrdiff_t k = 0; k < keys; k++) row += p[k] != 0;
        seen += row;
        if (seen != 0 && seen != (r + 1) * keys) return K(mask_mixed);
        if (a->mask.row == 0 && a->mask.head == 0) break;
    }
    return seen == 0 ? K(mask_hides_all) : K(mask_hides_none);
}
