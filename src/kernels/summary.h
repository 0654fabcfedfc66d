/* What attention looks at, without its matrix: each query's entropy and largest weights, beside its output.
 *
 * The blocks of keys are those of attention.h, and so are the bits of output and log-sum-exp. With w = exp(s - m), m the
 * largest score so far, l = sum w and u = sum w (s - m) over the keys, a block joins what came before as
 *     u' = (u + (m - m') l) exp(m - m') + (u_b + (m_b - m') l_b) exp(m_b - m')
 * and since a weight is w exp(m - lse) (a sink is in lse, but is no key),
 *     entropy = -sum p log p = exp(m - lse) ((lse - m) l - u).
 * No term is negative, so nothing cancels: the error is that of l and u, some roundings of a block of 128 terms, and the
 * entropy is never below 0. What a query does not see adds exactly 0 and scales by exactly 1.
 */
struct K(summary_rows) {
    struct K(rows) rows;
    real *spread; /* (block_queries): u */
    real *lists;  /* of top.h, where candidates are lists: inf past the last query, so that nothing enters there */
};

/* Below this every exp is 0 (and 0 * -inf would not be). */
#define SUMMARY_FLOOR ((real) - 1000)

/* weigh of attention.h, and u besides. */
ATTNX_INLINE void K(summary_weigh)(const struct K(summary_rows) *y, ptrdiff_t keys, const int vecs, real *s,
                                   real *merge) {
    const V(v) lowest = V(set1)(-(real)INFINITY), zero = V(set1)(0), least = V(set1)(SUMMARY_FLOOR);
    const struct K(rows) *rows = &y->rows;
    V(v) most[K(tile_vecs)], base[K(tile_vecs)], total[K(tile_vecs)], spread[K(tile_vecs)];
    ATTNX_UNROLL
    for (int c = 0; c < vecs; c++) most[c] = lowest, total[c] = spread[c] = zero;
    for (ptrdiff_t k = 0; k < keys; k++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) most[c] = V(max)(V(load)(s + k * K(block_queries) + c * V(width)), most[c]);
    }
    ATTNX_UNROLL
    for (int c = 0; c < vecs; c++) base[c] = V(select)(V(eq)(most[c], lowest), zero, most[c]);
    for (ptrdiff_t k = 0; k < keys; k++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            real *at = s + k * K(block_queries) + c * V(width);
            const V(v) below = V(sub)(V(load)(at), base[c]), weight = K(exp)(below);
            total[c] = V(add)(total[c], weight);
            spread[c] = V(fma)(weight, V(max)(least, below), spread[c]);
            V(store)(at, weight);
        }
    }
    for (int c = 0; c < vecs; c++) {
        real *m = rows->most + c * V(width), *u = y->spread + c * V(width), *scale = merge + c * V(width);
        const V(v) old_most = V(load)(m), old_total = V(load)(rows->total + c * V(width));
        K(join)(rows, c, most[c], total[c], merge);
        if (rows->fresh) {
            V(store)(u, spread[c]);
            continue;
        }
        const V(v) top = V(select)(V(eq)(V(load)(m), lowest), zero, V(load)(m));
        const V(v) old = V(fma)(V(max)(least, V(sub)(old_most, top)), old_total, V(load)(u));
        const V(v) new = V(fma)(V(max)(least, V(sub)(most[c], top)), total[c], spread[c]);
        V(store)(u, V(fma)(new, V(load)(scale + K(block_queries)), V(mul)(old, V(load)(scale))));
    }
}

/* Where a row stands among all rows of the call: its place in the contiguous arrays of a summary. */
static ptrdiff_t K(summary_at)(const struct attnx_attention *a, const struct K(head) *head, ptrdiff_t b, ptrdiff_t h,
                               ptrdiff_t i) {
    return (b * a->heads + head->first_head + h) * a->query_len + i;
}

static struct K(top) K(top_of)(const struct attnx_summary *y, ptrdiff_t at) {
    const ptrdiff_t keys = y->attention.key_len;
    return (struct K(top)){(real *)y->top_weights + at * y->top_k, y->top_keys + at * y->top_k,
                           y->top_k < keys ? y->top_k : keys};
}

/* The work on one entry of the batch and key/value head. */
struct K(summary) {
    const struct attnx_summary *args;
    const struct K(head) *head;
    ptrdiff_t entry; /* of the batch */
};

static struct K(top) K(top_of_row)(const struct K(summary) *t, const struct K(rows) *rows, ptrdiff_t r) {
    const struct attnx_attention *a = &t->args->attention;
    return K(top_of)(t->args, K(summary_at)(a, t->head, t->entry, rows->head[r], rows->index[r]));
}

/* Offers the keys of a block to the heaps of its queries. */
static void K(summary_heaps)(const struct K(summary) *t, const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys,
                             const real *s) {
    struct K(top) top[K(block_queries)];
    real needs[K(block_queries)]; /* by query; inf past the last */
    for (ptrdiff_t r = 0; r < rows->vecs * V(width); r++) {
        needs[r] = (real)INFINITY;
        if (r >= rows->count) continue;
        top[r] = K(top_of_row)(t, rows, r);
        needs[r] = K(top_needs)(&top[r], first);
    }
    for (ptrdiff_t k = keys - 1; k >= 0; k--) {
        for (ptrdiff_t c = 0; c < rows->vecs; c++) {
            const real *at = s + k * K(block_queries) + c * V(width);
            if (V(all)(V(lt)(V(load)(at), V(load)(needs + c * V(width))))) continue;
            for (ptrdiff_t r = c * V(width); r < (c + 1) * V(width) &&r < rows->count; r++) {
                const real score = s[k * K(block_queries) + r];
                if (score < needs[r]) continue;
                K(top_offer)(&top[r], score, first + k);
                needs[r] = K(top_needs)(&top[r], first);
            }
        }
    }
}

/* Offers the keys of a block to the lists of its queries, whose last scores are to be exceeded. */
static void K(summary_lists)(const struct K(summary_rows) *y, ptrdiff_t count, ptrdiff_t first, ptrdiff_t keys,
                             const real *s) {
    const real *last = y->lists + (count - 1) * 2 * K(block_queries);
    for (ptrdiff_t k = 0; k < keys; k++) {
        for (ptrdiff_t c = 0; c < y->rows.vecs; c++) {
            const V(v) score = V(load)(s + k * K(block_queries) + c * V(width));
            if (V(all)(V(le)(score, V(load)(last + c * V(width))))) continue;
            K(top_sink)(y->lists + c * V(width), count, score, V(set1)((real)(first + k)));
        }
    }
}

/* One block of keys for one block of queries; attend_block of attention.h with its eyes open. The second run for hidden
 * values that are not finite, `careful`, sees nothing new. */
static void K(summary_block)(const struct K(summary) *t, struct K(summary_rows) *y, ptrdiff_t first, ptrdiff_t keys,
                             int careful, struct K(scratch) *scratch) {
    const struct attnx_attention *a = &t->args->attention;
    struct K(rows) *rows = &y->rows;
    real *s = scratch->s, *merge = scratch->merge;
    const int seen = K(block_scores)(a, t->head, rows, first, keys, scratch);
    if (!seen) return;
    const int marks = careful && seen == 1;
    if (marks && rows->fresh) K(zero_sums)(rows);
    if (t->args->top_k && !careful) {
        const ptrdiff_t count = t->args->top_k < a->key_len ? t->args->top_k : a->key_len;
        if (K(top_lists)(count, a->key_len)) K(summary_lists)(y, count, first, keys, s);
        else K(summary_heaps)(t, rows, first, keys, s);
    }
#define SUMMARY_WEIGH(vecs)                                                          \
    do {                                                                             \
        if (t->args->entropy && !careful) K(summary_weigh)(y, keys, vecs, s, merge); \
        else K(weigh)(rows, keys, vecs, s, merge);                                   \
    } while (0)
    if (rows->vecs == 1) SUMMARY_WEIGH(1);
    else if (rows->vecs == 2) SUMMARY_WEIGH(2);
    else SUMMARY_WEIGH(3);
#undef SUMMARY_WEIGH
    if (a->value_dim) K(join_values)(a, t->head, rows, first, keys, marks, scratch);
    rows->fresh = 0;
}

static void K(summary_blocks)(const struct K(summary) *t, struct K(summary_rows) *y, ptrdiff_t blocks, int careful,
                              struct K(scratch) *scratch) {
    ptrdiff_t begin = t->head->keys, end = 0;
    scratch->values_of = -1;
    for (ptrdiff_t i = 0; i < blocks; i++) {
        if (y[i].rows.begin < begin) begin = y[i].rows.begin;
        if (y[i].rows.end > end) end = y[i].rows.end;
        K(start_rows)(&t->args->attention, t->head, &y[i].rows);
    }
    for (ptrdiff_t at = begin / K(block_keys) *K(block_keys); at < end; at += K(block_keys)) {
        for (ptrdiff_t i = 0; i < blocks; i++) {
            const ptrdiff_t first = y[i].rows.begin > at ? y[i].rows.begin : at;
            const ptrdiff_t stop = y[i].rows.end < at + K(block_keys) ? y[i].rows.end : at + K(block_keys);
            if (stop > first) K(summary_block)(t, &y[i], first, stop - first, careful, scratch);
        }
    }
}

static void K(summary_start)(const struct K(summary) *t, const struct K(summary_rows) *y) {
    const ptrdiff_t k = t->args->top_k, q = K(block_queries);
    for (ptrdiff_t r = 0; r < q; r++) y->spread[r] = 0;
    for (ptrdiff_t r = 0; k && r < y->rows.count; r++) {
        const struct K(top) top = K(top_of_row)(t, &y->rows, r);
        K(top_clear)(top.score, top.key, k, 0);
        K(top_clear)(top.score, top.key, top.count, -(real)INFINITY);
    }
    for (ptrdiff_t j = 0; j < (k < K(top_listed) ? k : K(top_listed)); j++) {
        for (ptrdiff_t r = 0; r < q; r++) {
            y->lists[2 * j * q + r] = r < y->rows.count ? -(real)INFINITY : (real)INFINITY;
            y->lists[(2 * j + 1) * q + r] = -1;
        }
    }
}

/* The candidates of a row, out of its list where it is one. */
static struct K(top) K(summary_candidates)(const struct K(summary) *t, const struct K(summary_rows) *y, ptrdiff_t r) {
    const struct K(top) top = K(top_of_row)(t, &y->rows, r);
    if (!K(top_lists)(top.count, t->args->attention.key_len)) return top;
    for (ptrdiff_t j = 0; j < top.count; j++) {
        top.score[j] = y->lists[2 * j * K(block_queries) + r];
        top.key[j] = (int64_t)y->lists[(2 * j + 1) * K(block_queries) + r];
    }
    return top;
}

/* Writes the rows, their output and log-sum-exp with them; 1 where the output is finite. */
static int K(summary_finish)(const struct K(summary) *t, struct K(summary_rows) *y, real *before) {
    const struct attnx_attention *a = &t->args->attention;
    struct K(rows) *rows = &y->rows;
    const size_t bytes = sizeof(real) * K(block_queries);
    memcpy(before, rows->most, bytes); /* the sink is not in it */
    memcpy(before + K(block_queries), rows->total, bytes);
    const int finite = K(finish_rows)(a, t->head, rows);
    for (ptrdiff_t r = 0; r < rows->count; r++) {
        const ptrdiff_t at = K(summary_at)(a, t->head, t->entry, rows->head[r], rows->index[r]);
        const double most = (double)rows->most[r], log_total = log((double)rows->total[r]);
        const double keys_most = (double)before[r], keys_total = (double)before[r + K(block_queries)];
        const int nothing = rows->total[r] == 0;
        const real lse = nothing ? -(real)INFINITY : (real)(most + log_total);
        const real rest = nothing ? 0 : (real)(most - (double)lse + log_total);
        const double below = keys_total == 0 ? 0 : most - keys_most + log_total; /* lse - m */
        if (t->args->rest) ((real *)t->args->rest)[at] = rest;
        if (t->args->entropy)
            ((real *)t->args->entropy)[at] = (real)(exp(-below) * (below * keys_total - (double)y->spread[r]));
        if (!t->args->top_k) continue;
        const struct K(top) top = K(summary_candidates)(t, y, r);
        K(top_finish)(&top, lse, rest);
    }
    return finite;
}

/* Rows past query_lengths; see blank_rows. */
static void K(summary_blank)(const struct K(summary) *t, ptrdiff_t first, ptrdiff_t end) {
    const struct attnx_attention *a = &t->args->attention;
    const ptrdiff_t blank = a->query_len - t->head->queries, k = t->args->top_k;
    K(blank_rows)(a, t->head, first, end);
    for (ptrdiff_t r = first; r < end; r++) {
        const ptrdiff_t at = K(summary_at)(a, t->head, t->entry, r / blank, t->head->queries + r % blank);
        if (t->args->rest) ((real *)t->args->rest)[at] = 0;
        if (t->args->entropy) ((real *)t->args->entropy)[at] = 0;
        if (k) K(top_clear)((real *)t->args->top_weights + at * k, t->args->top_keys + at * k, k, 0);
    }
}

static void K(summary_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_summary *y = args;
    const struct attnx_attention *a = &y->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), heads = a->batch * (a->heads / a->group);
    const ptrdiff_t rows = a->group * a->query_len, stride = (a->value_dim + w - 1) / w * w;
    const ptrdiff_t depth = a->key.storage == REAL_STORAGE ? 0 : (a->head_dim + w - 1) / w * w;
    const ptrdiff_t blocks = K(pass_blocks)(a, plan->tasks);
    const ptrdiff_t lists = 2 * (y->top_k < K(top_listed) ? y->top_k : K(top_listed));
    plan->grain = blocks;
    plan->tasks = heads * ((rows + blocks * q - 1) / (blocks * q));
    plan->work = (double)a->batch * (double)a->heads * (double)a->query_len * (double)K(keys_seen)(a) *
                 (double)(a->head_dim + a->value_dim + 24) / (double)w;
    plan->scratch = sizeof(real) * (size_t)((K(block_keys) + 2) * q + K(block_keys) *(depth + stride) +
                                            blocks * q * (a->head_dim + stride + 3 + lists)) +
                    sizeof(struct K(summary_rows)) * K(row_blocks) + 64;
}

/* Lays out blocks of queries from row `first` on in scratch; returns how many there are, at most `most`. */
static ptrdiff_t K(summary_take)(const struct K(summary) *t, ptrdiff_t first, ptrdiff_t most, real *next,
                                 struct K(summary_rows) *y) {
    const struct attnx_attention *a = &t->args->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), computed = a->group * t->head->queries;
    const ptrdiff_t k = t->args->top_k;
    ptrdiff_t blocks = 0;
    for (ptrdiff_t at = first; at < computed && blocks < most; at += q, blocks++) {
        struct K(rows) *rows = &y[blocks].rows;
        rows->count = computed - at < q ? computed - at : q;
        rows->stride = (a->value_dim + w - 1) / w * w;
        rows->packed = next;
        rows->sums = rows->packed + q * a->head_dim;
        rows->most = rows->sums + q * rows->stride;
        rows->total = rows->most + q;
        y[blocks].spread = rows->total + q;
        y[blocks].lists = y[blocks].spread + q;
        next = y[blocks].lists + 2 * (k < K(top_listed) ? k : K(top_listed))*q;
        K(take_rows)(a, t->head, at, rows);
        K(summary_start)(t, &y[blocks]);
    }
    return blocks;
}

static void K(summary_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_summary *summary = args;
    const struct attnx_attention *a = &summary->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), most = plan->grain * q, all = a->group * a->query_len;
    const ptrdiff_t stride = (a->value_dim + w - 1) / w * w, k = summary->top_k;
    const ptrdiff_t depth = a->key.storage == REAL_STORAGE ? 0 : (a->head_dim + w - 1) / w * w;
    const ptrdiff_t chunks = (all + most - 1) / most, entry = task / chunks, kv_heads = a->heads / a->group;
    const ptrdiff_t first = (chunks - 1 - task % chunks) * most; /* causal: the longest first */
    const struct K(head) head = K(head_at)(a, entry / kv_heads, entry % kv_heads);
    const struct K(summary) t = {summary, &head, entry / kv_heads};
    const ptrdiff_t computed = a->group * head.queries, end = first + most < all ? first + most : all;
    real *s = scratch; /* first, since it is aligned */
    struct K(fetches) fetches = {.lasting = 0};
    struct K(scratch) block = {.s = s, .merge = s + K(block_keys) *q, .values = s + (K(block_keys) + 2) * q};
    if (head.mask || head.bias) block.fetches = &fetches;
    block.converted = block.values + K(block_keys) *stride;
    real *next = block.converted + K(block_keys) *depth;
    const ptrdiff_t lists = 2 * (k < K(top_listed) ? k : K(top_listed));
    /* After all that vectors are loaded from; see attention_run. */
    struct K(summary_rows) *y =
        (struct K(summary_rows) *)(void *)(next + plan->grain * q * (a->head_dim + stride + 3 + lists));
    const ptrdiff_t blocks = K(summary_take)(&t, first, plan->grain, next, y);
    K(summary_blocks)(&t, y, blocks, 0, &block);
    const int masked = a->window_left >= 0 || a->window_right >= 0 || head.mask || head.bias || a->relative;
    for (ptrdiff_t i = 0; i < blocks; i++) {
        if (K(summary_finish)(&t, &y[i], s) || !masked) continue;
        K(summary_blocks)(&t, &y[i], 1, 1, &block);
        K(finish_rows)(a, &head, &y[i].rows);
    }
    if (end > computed) K(summary_blank)(&t, first > computed ? first - computed : 0, end - computed);
}
#undef SUMMARY_FLOOR
