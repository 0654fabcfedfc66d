/* The attention matrix itself, for those who must look at it: weights (L, S) of a head, row by row.
 *
 * The scores are those of attention.h, bit for bit; each row is then a plain softmax in place. Keys past the end of what
 * a row may see are 0, as is all of a row that sees nothing.
 */
static void K(attention_weights_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_attention *a = args;
    const ptrdiff_t q = K(block_queries);
    plan->grain = 1;
    plan->tasks = a->batch * a->heads * ((a->query_len + q - 1) / q);
    plan->work = (double)plan->tasks * (double)q * (double)a->key_len * (double)(a->head_dim + 24) / V(width);
    plan->scratch = sizeof(real) * (size_t)(K(block_keys) * q + q * a->head_dim) + 64;
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
            for (ptrdiff_t i = 0; i < w && c * w + i < rows->count; i++)
                V(store_n)(head->out + (rows->first + c * w + i) * a->out.row + first + k, block[i], n);
        }
    }
}

static void K(attention_weights_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_attention *a = args;
    const ptrdiff_t q = K(block_queries), chunks = (a->query_len + q - 1) / q;
    const ptrdiff_t entry = task / chunks, first = task % chunks * q;
    const struct K(head) head = K(head_at)(a, entry / a->heads, entry % a->heads);
    const ptrdiff_t end = first + q < a->query_len ? first + q : a->query_len;
    const ptrdiff_t stop = end < head.queries ? end : head.queries;
    real *s = scratch;
    (void)plan;
    ptrdiff_t keys = 0;
    if (stop > first) {
        struct K(rows) rows = {.first = first, .count = stop - first, .packed = s + K(block_keys) * q};
        rows.vecs = (int)((rows.count + V(width) - 1) / V(width));
        keys = K(visible_end)(a, &head, stop - 1);
        K(pack_queries)(a, &head, &rows);
        for (ptrdiff_t k = 0; k < keys; k += K(block_keys)) {
            const ptrdiff_t n = keys - k < K(block_keys) ? keys - k : K(block_keys);
            K(scores)(a, &head, &rows, k, n, s);
            K(mask_block)(a, &head, &rows, k, n, s, 0);
            K(store_scores)(a, &head, &rows, k, n, s);
        }
    }
    for (ptrdiff_t i = first; i < end; i++) {
        real *row = head.out + i * a->out.row;
        const ptrdiff_t seen = i < stop ? keys : 0;
        K(softmax_row)(row, NULL, row, row, seen, 0);
        for (ptrdiff_t j = seen; j < a->key_len; j++) row[j] = 0;
    }
}
