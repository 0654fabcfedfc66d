/* Scores of a block of queries against a block of keys, transposed: s[key, query] = sum_e key[key, e] * q[e, query].
 *
 * Transposed, because then keys are read as they lie in memory (broadcast), the running maximum and sum of the softmax
 * are vertical vector operations, and the weights come out as the tile of the value product wants them. Only the queries
 * are copied: scaled and transposed once for all the keys that they meet. A score is one chain over E in order.
 *
 * The queries of all heads that share a key/value head are rows of one matrix (head by head), so that with grouped heads
 * a decoding step reads each key once for its whole group.
 */
enum {
    K(block_queries) = SCORE_VECS * V(width), /* what one tile of scores covers, and the row length of s and q */
    K(block_keys) =
        128 /* fixed, at fixed positions: a block's sums are a unit of rule 8 of the contract. 128 keys of 64
                           float32 are 32 KiB, and the scores 24 KiB: with 96 or 192 the L2-bound shapes lose 2 to 4 % */
};

/* One key/value head of one batch entry, and the `group` query heads from `first_head` on that share it. */
struct K(head) {
    const void *query, *key, *value;
    const char *mask, *bias;
    void *out;
    real *lse;
    ptrdiff_t first_head;
    ptrdiff_t queries, keys; /* rows a head that are computed, keys that exist */
    ptrdiff_t offset;        /* position of query 0 */
};

/* Where entry b, head, row of an array lies; NULL where there is no array. */
static void *K(array_at)(const struct attnx_attention *a, const struct attnx_array *array, ptrdiff_t b, ptrdiff_t head,
                         ptrdiff_t row) {
    ptrdiff_t offset = head * array->head + row * array->row;
    if (!array->data) return NULL;
    for (ptrdiff_t i = a->batch_axes - 1; i >= 0; i--) {
        offset += (i ? b % a->batch_shape[i] : b) * array->batch[i];
        if (i) b /= a->batch_shape[i];
    }
    return storage_at(array->data, array->storage, offset);
}

static struct K(head) K(head_at)(const struct attnx_attention *a, ptrdiff_t b, ptrdiff_t kv_head) {
    struct K(head) head = {.first_head = kv_head * a->group, .queries = a->query_len, .keys = a->key_len};
    const ptrdiff_t query_row = a->query_starts ? a->query_starts[b] : 0,
                    key_row = a->key_starts ? a->key_starts[b] : 0;
    if (a->query_starts) head.queries = a->query_starts[b + 1] - query_row;
    if (a->key_starts) head.keys = a->key_starts[b + 1] - key_row;
    if (a->query_lengths && a->query_lengths[b] < head.queries) head.queries = a->query_lengths[b];
    if (a->key_lengths && a->key_lengths[b] < head.keys) head.keys = a->key_lengths[b];
    if (a->query_offsets) head.offset = a->query_offsets[b];
    head.query = K(array_at)(a, &a->query, b, head.first_head, query_row);
    head.key = K(array_at)(a, &a->key, b, kv_head, key_row);
    head.value = K(array_at)(a, &a->value, b, kv_head, key_row);
    head.mask = K(array_at)(a, &a->mask, b, head.first_head, 0);
    head.bias = K(array_at)(a, &a->bias, b, head.first_head, 0);
    head.out = K(array_at)(a, &a->out, b, head.first_head, query_row);
    head.lse = K(array_at)(a, &a->lse, b, head.first_head, query_row);
    return head;
}

/* A block of queries under way: `count` consecutive rows of the matrix of a key/value head. */
struct K(rows) {
    ptrdiff_t count;
    int vecs;                     /* vectors that hold them */
    ptrdiff_t begin, end;         /* keys that any of them sees lie between */
    ptrdiff_t all_begin, all_end; /* every one of them sees these by position */
    real *packed;                 /* (E, block_queries): scaled, transposed, 0 past count, but for pack_few's */
    real *sums;                   /* (count, stride): weighted values so far */
    ptrdiff_t stride;
    real *most, *total; /* (block_queries): running maximum and sum of the softmax */
    int fresh;          /* no block of keys has been joined: sums are not set yet */
    ptrdiff_t head[K(block_queries)], index[K(block_queries)]; /* of each row: head of the group, query */
    ptrdiff_t from[K(block_queries)], to[K(block_queries)];    /* and where positions bound it, the keys that it sees */
};

/* Scratch of a block of keys: transposed scores, keys converted from their storage, packed values (or
 * unfinished sums of values_few), and how it joins. */
struct K(scratch) {
    real *s, *converted, *merge;
    real *values;
    ptrdiff_t values_of;        /* the block that is packed there, or -1 */
    const struct K(head) *next; /* what this thread works on after this, or NULL */
    int far;                    /* the call's arrays do not stay in a cache */
    struct K(fetches) *fetches; /* what is asked for while scores are computed, or NULL */
};

struct K(interval) {
    ptrdiff_t begin, end;
};

/* The keys that query i sees by position. */
ATTNX_INLINE struct K(interval) K(visible)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t i) {
    const ptrdiff_t position = i + head->offset, keys = head->keys;
    const ptrdiff_t begin = a->window_left < 0 || position < a->window_left ? 0 : position - a->window_left;
    const ptrdiff_t end =
        a->window_right >= 0 && position < keys - a->window_right ? position + a->window_right + 1 : keys;
    return begin < end ? (struct K(interval)){begin, end} : (struct K(interval)){0, 0};
}

/* Fills in which rows these are and what they see. */
static void K(take_rows)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t first,
                         struct K(rows) *rows) {
    ptrdiff_t h = first / head->queries, i = first % head->queries;
    rows->vecs = (int)((rows->count + V(width) - 1) / V(width));
    rows->begin = rows->all_end = head->keys;
    rows->end = rows->all_begin = 0;
    const int bounded = a->window_left >= 0 || a->window_right >= 0;
    if (!bounded) rows->begin = rows->all_begin = 0, rows->end = rows->all_end = head->keys;
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        rows->head[r] = h;
        rows->index[r] = i++;
        if (i == head->queries) i = 0, h++;
        if (!bounded) continue;
        const struct K(interval) seen = K(visible)(a, head, rows->index[r]);
        rows->from[r] = seen.begin;
        rows->to[r] = seen.end;
        if (seen.begin < seen.end && seen.begin < rows->begin) rows->begin = seen.begin;
        if (seen.end > rows->end) rows->end = seen.end;
        if (seen.begin > rows->all_begin) rows->all_begin = seen.begin;
        if (seen.end < rows->all_end) rows->all_end = seen.end;
    }
}

/* Whether some row does not see all keys [first, first + keys) by position. */
ATTNX_INLINE int K(seen_in_part)(const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys) {
    return rows->all_begin > first || rows->all_end < first + keys;
}

/* What any of `count` rows from r on sees of them, counted from `first`. */
ATTNX_INLINE struct K(interval)
    K(seen)(const struct K(rows) *rows, ptrdiff_t r, ptrdiff_t count, ptrdiff_t first, ptrdiff_t keys) {
    ptrdiff_t begin = first + keys, end = first;
    for (ptrdiff_t i = r; i < r + count && i < rows->count; i++) {
        if (rows->from[i] >= rows->to[i]) continue;
        if (rows->from[i] < begin) begin = rows->from[i];
        if (rows->to[i] > end) end = rows->to[i];
    }
    begin = begin > first ? begin - first : 0;
    end = end < first + keys ? end - first : keys;
    return begin < end ? (struct K(interval)){begin, end} : (struct K(interval)){0, 0};
}

ATTNX_INLINE void K(pack_vector)(const struct attnx_attention *a, const struct K(head) *head,
                                 const struct K(rows) *rows, ptrdiff_t c, const enum attnx_storage storage) {
    const V(v) scale = V(set1)((real)a->scale);
    const ptrdiff_t w = V(width), depth = a->head_dim, lanes = rows->count - c * w < w ? rows->count - c * w : w;
    const char *row[V(width)] = {0};
    for (ptrdiff_t i = 0; i < lanes; i++) {
        const ptrdiff_t r = c * w + i;
        row[i] = storage_at(head->query, storage, rows->head[r] * a->query.head + rows->index[r] * a->query.row);
    }
    const ptrdiff_t ahead =
        rows->index[c * w] + 2 * w <= head->queries ? w * a->query.row * (ptrdiff_t)storage_bytes[storage] : 0;
    for (ptrdiff_t e = 0; e < depth; e += w) {
        V(v) block[V(width)];
        const ptrdiff_t n = depth - e < w ? depth - e : w;
        for (ptrdiff_t i = 0; i < lanes && ahead; i++)
            __builtin_prefetch(row[i] + e * storage_bytes[storage] + ahead, 0, 2);
        for (ptrdiff_t i = 0; i < w; i++) {
            block[i] = V(set1)(0);
            if (i < lanes) block[i] = V(mul)(K(stored)(row[i] + e * storage_bytes[storage], storage, n), scale);
        }
        V(transpose)(block);
        for (ptrdiff_t j = 0; j < n; j++) V(store)(rows->packed + (e + j) * K(block_queries) + c * w, block[j]);
    }
}

static void K(pack_queries)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows) {
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        if (a->query.storage == REAL_STORAGE) K(pack_vector)(a, head, rows, c, REAL_STORAGE);
        else K(pack_vector)(a, head, rows, c, a->query.storage);
    }
}

/* A block of key rows as the tiles read it: in place, or converted into `into`, whose rows are *step long. */
static const real *K(block_of)(const struct attnx_array *array, const void *base, ptrdiff_t first, ptrdiff_t count,
                               ptrdiff_t dim, real *into, ptrdiff_t *step) {
    const void *from = storage_at(base, array->storage, first * array->row);
    const ptrdiff_t w = V(width);
    *step = array->row;
    if (array->storage == REAL_STORAGE) return from;
    *step = (dim + w - 1) / w * w;
    for (ptrdiff_t r = 0; r < count; r++) {
        for (ptrdiff_t d = 0; d < dim; d += w) {
            const void *p = storage_at(from, array->storage, r * array->row + d);
            V(store)(into + r * *step + d, K(stored)(p, array->storage, dim - d < w ? dim - d : w));
        }
    }
    return into;
}

ATTNX_INLINE void K(score_tile)(const struct K(broadcast) keys, const real *packed, ptrdiff_t depth, const int count,
                                const int vecs, real *s) {
    K(tile) acc;
    K(tile_sum)(keys, (struct K(vectors)){packed, K(block_queries), vecs, 0, 0}, depth, count, vecs, acc);
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) V(store)(s + r * K(block_queries) + c * V(width), acc[r][c]);
    }
}

ATTNX_INLINE void K(score_columns)(const struct K(broadcast) key, const real *packed, ptrdiff_t depth, ptrdiff_t keys,
                                   const int vecs, const int most, real *s) {
#define SCORE_TILE(r, n)                                                                             \
    K(score_tile)((struct K(broadcast)){key.at + (r) * key.row, key.row, 1}, packed, depth, n, vecs, \
                  s + (r) * K(block_queries))
    ATTNX_TILE_ROWS(keys, most, SCORE_TILE);
#undef SCORE_TILE
}

/* `vecs` vectors of queries, or none. */
static void K(score_rows)(const struct K(broadcast) key, const real *packed, ptrdiff_t depth, ptrdiff_t keys, int vecs,
                          real *s) {
    if (vecs == 1) K(score_columns)(key, packed, depth, keys, 1, SCORE_ROWS_1, s);
    else if (vecs == 2) K(score_columns)(key, packed, depth, keys, 2, SCORE_ROWS_2, s);
    else if (vecs == 3) K(score_columns)(key, packed, depth, keys, 3, SCORE_ROWS, s);
}

/* The first key after `at` from which on other vectors of queries see, or `keys`. */
static ptrdiff_t K(score_step)(const struct K(interval) *seen, int vecs, ptrdiff_t at, ptrdiff_t keys) {
    for (int c = 0; c < vecs; c++) {
        if (seen[c].begin > at && seen[c].begin < keys) keys = seen[c].begin;
        if (seen[c].end > at && seen[c].end < keys) keys = seen[c].end;
    }
    return keys;
}

/* Scores of keys [first, first + keys). Where not `all` are wanted, vectors of queries that do not see a key by position
 * are left out: what is in their place means nothing. */
static void K(scores)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                      ptrdiff_t first, ptrdiff_t keys, int all, struct K(scratch) *scratch) {
    enum { W = V(width) };
    const int whole = all || !K(seen_in_part)(rows, first, keys);
    struct K(fetches) *fetches = scratch->fetches && scratch->fetches->count ? scratch->fetches : NULL;
    struct K(broadcast) key = {NULL, 0, 1};
    struct K(interval) seen[SCORE_VECS];
    key.at = K(block_of)(&a->key, head->key, first, keys, a->head_dim, scratch->converted, &key.row);
    if (whole && !fetches) {
        K(score_rows)(key, rows->packed, a->head_dim, keys, rows->vecs, scratch->s);
        return;
    }
    for (int c = 0; c < rows->vecs; c++)
        seen[c] = whole ? (struct K(interval)){0, keys} : K(seen)(rows, c * W, W, first, keys);
    for (ptrdiff_t k = 0, next; k < keys; k = next) {
        int c = 0, end = rows->vecs;
        while (c < end && (seen[c].begin > k || seen[c].end <= k)) c++;
        while (end > c && (seen[end - 1].begin > k || seen[end - 1].end <= k)) end--;
        next = K(score_step)(seen, rows->vecs, k, keys);
        if (fetches) {
            K(fetch_turn)(fetches);
            if (next > k + K(tile_rows)) next = k + K(tile_rows);
        }
        K(score_rows)((struct K(broadcast)){key.at + k * key.row, key.row, 1}, rows->packed + c * W, a->head_dim,
                      next - k, end - c, scratch->s + k * K(block_queries) + c * W);
    }
}
