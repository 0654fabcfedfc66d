/* The attention matrix itself, for those who must look at it, at any stage on the way: rows (S) of every query.
 *
 * The scores are those of attention.h, bit for bit; for the weights each row is then a plain softmax in place. Keys and
 * rows past their lengths are 0, or -inf where masked scores are asked for.
 */
static void K(attention_weights_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_attention *a = args;
    const ptrdiff_t q = K(block_queries), w = V(width), rows = a->group * a->query_len;
    plan->grain = 1;
    plan->tasks = a->batch * (a->heads / a->group) * ((rows + q - 1) / q);
    plan->work = (double)plan->tasks * (double)q * (double)a->key_len * (double)(a->head_dim + 24) / (double)w;
    plan->scratch = sizeof(real) * (size_t)(K(block_keys) *(q + a->head_dim + w) + q * a->head_dim) + 64;
}

static real *K(weights_row)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t h, ptrdiff_t i) {
    return (real *)head->out + h * a->out.head + i * a->out.row;
}

/* Transposed scores of keys [first, first + keys) into the rows of the matrix. */
static void K(store_scores)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                            ptrdiff_t first, ptrdiff_t keys, const real *s) {
    const ptrdiff_t w = V(width);
    for (ptrdiff_t k = 0; k < keys; k += w) {
        const ptrdiff_t n = keys - k < w ? keys - k : w;
        for (ptrdiff_t c = 0; c < rows->vecs; c++) {
            V(v) block[V(width)];
            for (ptrdiff_t j = 0; j < w; j++)
                block[j] = j < n ? V(load)(s + (k + j) * K(block_queries) + c * w) : V(set1)(0);
            V(transpose)(block);
            for (ptrdiff_t i = 0; i < w && c * w + i < rows->count; i++) {
                const ptrdiff_t r = c * w + i;
                V(store_n)(K(weights_row)(a, head, rows->head[r], rows->index[r]) + first + k, block[i], n);
            }
        }
    }
}

/* All keys that exist, or for the weights those that any row sees, of a block of rows. */
static void K(weights_of_rows)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                               real *s) {
    const int hide = a->stage >= ATTNX_STAGE_BIASED;
    const ptrdiff_t keys = a->stage == ATTNX_STAGE_WEIGHTS ? rows->end : head->keys;
    const real rest = a->stage == ATTNX_STAGE_BIASED ? -(real)INFINITY : 0;
    struct K(scratch) block = {.s = s, .converted = s + K(block_keys) *K(block_queries)};
    K(pack_queries)(a, head, rows);
    for (ptrdiff_t k = 0; k < keys; k += K(block_keys)) {
        const ptrdiff_t n = keys - k < K(block_keys) ? keys - k : K(block_keys);
        K(scores)(a, head, rows, k, n, !hide, &block);
        if (a->softcap > 0 && a->stage >= ATTNX_STAGE_CAPPED) K(softcap)(a, rows, n, s);
        if (hide) K(mask_block)(a, head, rows, k, n, s, 0);
        K(store_scores)(a, head, rows, k, n, s);
    }
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        real *row = K(weights_row)(a, head, rows->head[r], rows->index[r]);
        const real *sink = a->sinks ? (const real *)a->sinks + head->first_head + rows->head[r] : NULL;
        if (a->stage == ATTNX_STAGE_WEIGHTS) K(softmax_row)(row, keys, sink);
        for (ptrdiff_t j = keys; j < a->key_len; j++) row[j] = rest;
    }
}

static void K(attention_weights_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_attention *a = args;
    const ptrdiff_t q = K(block_queries), all = a->group * a->query_len, chunks = (all + q - 1) / q;
    const ptrdiff_t entry = task / chunks, first = task % chunks * q, kv_heads = a->heads / a->group;
    const struct K(head) head = K(head_at)(a, entry / kv_heads, entry % kv_heads);
    const ptrdiff_t computed = a->group * head.queries, end = first + q < all ? first + q : all;
    const ptrdiff_t blank = a->query_len - head.queries;
    real *s = scratch;
    (void)plan;
    if (first < computed) {
        struct K(rows) rows;
        rows.count = computed - first < q ? computed - first : q;
        rows.packed = s + K(block_keys) *(q + a->head_dim + V(width));
        K(take_rows)(a, &head, first, &rows);
        K(weights_of_rows)(a, &head, &rows, s);
    }
    for (ptrdiff_t r = first > computed ? first - computed : 0; r < end - computed; r++) {
        real *row = K(weights_row)(a, &head, r / blank, head.queries + r % blank);
        for (ptrdiff_t j = 0; j < a->key_len; j++) row[j] = a->stage == ATTNX_STAGE_BIASED ? -(real)INFINITY : 0;
    }
}
