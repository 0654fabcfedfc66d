/* Scores of a block of queries against a block of keys, transposed: s[key, query] = sum_e key[key, e] * q[e, query].
 *
 * Transposed, because then keys are read as they lie in memory (broadcast), the running maximum and sum of the softmax
 * are vertical vector operations, and the weights come out as the tile of the value product wants them. Only the queries
 * are copied: scaled and transposed once for all the keys that they meet. A score is one chain over E in order.
 */
enum {
    K(block_queries) = SCORE_VECS * V(width), /* what one tile of scores covers, and the row length of s and q */
    K(block_keys) = 128 /* fixed, at fixed positions: a block's sums are a unit of rule 8 of the contract. 128 keys of 64
                           float32 are 32 KiB, and the scores 24 KiB: with 96 or 192 the L2-bound shapes lose 2 to 4 % */
};

/* One head of one batch entry: where its rows lie and what it sees. */
struct K(head) {
    const real *query, *key, *value;
    const char *mask;
    real *out, *lse;
    ptrdiff_t queries, keys; /* rows that are computed, keys that exist */
    ptrdiff_t offset;        /* position of query 0 */
};

static ptrdiff_t K(batch_offset)(const struct attnx_attention *a, const struct attnx_array *array, ptrdiff_t b) {
    ptrdiff_t offset = 0;
    for (ptrdiff_t i = a->batch_axes - 1; i >= 0; i--) {
        offset += b % a->batch_shape[i] * array->batch[i];
        b /= a->batch_shape[i];
    }
    return offset;
}

static const real *K(array_at)(const struct attnx_attention *a, const struct attnx_array *array, ptrdiff_t b,
                               ptrdiff_t head, ptrdiff_t row) {
    if (!array->data) return NULL;
    return (const real *)array->data + K(batch_offset)(a, array, b) + head * array->head + row * array->row;
}

static struct K(head) K(head_at)(const struct attnx_attention *a, ptrdiff_t b, ptrdiff_t h) {
    struct K(head) head = {.queries = a->query_len, .keys = a->key_len};
    const ptrdiff_t query_row = a->query_starts ? a->query_starts[b] : 0, key_row = a->key_starts ? a->key_starts[b] : 0;
    if (a->query_starts) head.queries = a->query_starts[b + 1] - query_row;
    if (a->key_starts) head.keys = a->key_starts[b + 1] - key_row;
    if (a->query_lengths && a->query_lengths[b] < head.queries) head.queries = a->query_lengths[b];
    if (a->key_lengths && a->key_lengths[b] < head.keys) head.keys = a->key_lengths[b];
    if (a->query_offsets) head.offset = a->query_offsets[b];
    head.query = K(array_at)(a, &a->query, b, h, query_row);
    head.key = K(array_at)(a, &a->key, b, h / a->group, key_row);
    head.value = K(array_at)(a, &a->value, b, h / a->group, key_row);
    head.out = (real *)(uintptr_t)K(array_at)(a, &a->out, b, h, query_row);
    head.lse = (real *)(uintptr_t)K(array_at)(a, &a->lse, b, h, query_row);
    if (a->mask_kind != ATTNX_MASK_NONE) {
        const ptrdiff_t size = a->mask_kind == ATTNX_MASK_BOOL ? 1 : (ptrdiff_t)sizeof(real);
        head.mask = (const char *)a->mask.data + size * (K(batch_offset)(a, &a->mask, b) + h * a->mask.head);
    }
    return head;
}

/* The keys that query i may see by position: [0, end). */
ATTNX_INLINE ptrdiff_t K(visible_end)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t i) {
    if (!a->causal) return head->keys;
    const ptrdiff_t end = i + head->offset + 1;
    return end < 0 ? 0 : end < head->keys ? end : head->keys;
}

/* A block of queries under way. */
struct K(rows) {
    ptrdiff_t first, count; /* rows of the head */
    int vecs;               /* vectors that hold them */
    real *packed;           /* (E, block_queries): scaled, transposed, zero past count */
    real *sums;             /* (count, stride): weighted values so far */
    ptrdiff_t stride;
    real *most, *total;     /* (block_queries): running maximum and sum of the softmax */
};

static void K(pack_queries)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows) {
    const V(v) scale = V(set1)((real)a->scale);
    const ptrdiff_t w = V(width), depth = a->head_dim;
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        for (ptrdiff_t e = 0; e < depth; e += w) {
            V(v) block[V(width)];
            const ptrdiff_t n = depth - e < w ? depth - e : w;
            for (ptrdiff_t i = 0; i < w; i++) {
                const ptrdiff_t row = c * w + i;
                const real *from = head->query + (rows->first + row) * a->query.row + e;
                block[i] = row >= rows->count ? V(set1)(0) : n == w ? V(load)(from) : V(load_n)(from, n);
                block[i] = V(mul)(block[i], scale);
            }
            V(transpose)(block);
            for (ptrdiff_t j = 0; j < n; j++) V(store)(rows->packed + (e + j) * K(block_queries) + c * w, block[j]);
        }
    }
}

ATTNX_INLINE void K(score_tile)(const struct K(broadcast) keys, const real *packed, ptrdiff_t depth, const int count,
                                const int vecs, real *s) {
    K(tile) acc;
    K(tile_sum)(keys, (struct K(vectors)){packed, K(block_queries), 0}, depth, count, vecs, acc);
    ATTNX_UNROLL
    for (int r = 0; r < count; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) V(store)(s + r * K(block_queries) + c * V(width), acc[r][c]);
    }
}

ATTNX_INLINE void K(score_columns)(const real *key, ptrdiff_t key_row, const struct K(rows) *rows, ptrdiff_t depth,
                                   ptrdiff_t keys, const int vecs, real *s) {
#define SCORE_TILE(r, n)                                                                                    \
    K(score_tile)((struct K(broadcast)){key + (r) * key_row, key_row, 1}, rows->packed, depth, n, vecs,     \
                  s + (r) * K(block_queries))
    ATTNX_TILE_ROWS(keys, SCORE_ROWS, SCORE_TILE);
#undef SCORE_TILE
}

/* s = scores of keys [first, first + keys) */
static void K(scores)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                      ptrdiff_t first, ptrdiff_t keys, real *s) {
    const real *key = head->key + first * a->key.row;
    if (rows->vecs == 1) K(score_columns)(key, a->key.row, rows, a->head_dim, keys, 1, s);
    if (rows->vecs == 2) K(score_columns)(key, a->key.row, rows, a->head_dim, keys, 2, s);
    if (rows->vecs == 3) K(score_columns)(key, a->key.row, rows, a->head_dim, keys, 3, s);
}
