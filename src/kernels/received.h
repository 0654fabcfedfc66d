/* The weight that each key gets over all queries: received_j = sum_i exp(s_ij - lse_i).
 *
 * That needs every query's log-sum-exp, so it is a second sweep, with the scores of the first bit for bit; lse comes as
 * its rounded value and the rest that rounding took, so that a weight is as good as one divided by its row's sum. A task
 * is a query head and some blocks of keys; it meets all queries in blocks at fixed places, in order. Each key has a
 * vector of sums, a lane for every width-th query, to which the sum of a block of queries is added with the rounding
 * error of the last addition taken back (Kahan 1965): about 3 roundings however many queries there are. A key's sums are
 * its own and a 0 leaves them alone, so neither how the keys are cut nor which blocks are skipped changes a bit.
 */
enum { /* Keys a task: a block of queries is packed once for them. Fewer where there would be no task for every thread. */
       K(received_most) = 4 * K(block_keys),
       K(received_least) = 32
};

/* Adds the weights of a block of scores to sums (keys, 2, width): a sum and what it was too much. */
ATTNX_INLINE void K(received_add)(const struct K(rows) *rows, ptrdiff_t keys, const int vecs, const real *s,
                                  real *sums) {
    const V(v) lowest = V(set1)(-(real)INFINITY), zero = V(set1)(0);
    V(v) base[K(tile_vecs)], rest[K(tile_vecs)];
    ATTNX_UNROLL
    for (int c = 0; c < vecs; c++) {
        base[c] = V(load)(rows->most + c * V(width));
        rest[c] = V(load)(rows->total + c * V(width));
    }
    for (ptrdiff_t k = 0; k < keys; k++, sums += 2 * V(width)) {
        V(v) part = zero;
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            const V(v) score = V(load)(s + k * K(block_queries) + c * V(width));
            const V(v) weight = K(exp)(V(sub)(V(sub)(score, base[c]), rest[c]));
            /* Where a row's lse is NaN, what it cannot see is still 0. */
            part = V(add)(part, V(select)(V(eq)(score, lowest), zero, weight));
        }
        const V(v) old = V(load)(sums), excess = V(load)(sums + V(width)), add = V(sub)(part, excess);
        const V(v) new = V(add)(old, add);
        const V(m) nothing = V(eq)(part, zero);
        V(store)(sums, V(select)(nothing, old, new));
        V(store)(sums + V(width), V(select)(nothing, excess, V(sub)(V(sub)(new, old), add)));
    }
}

static void K(received_block)(const struct attnx_attention *a, const struct K(head) *head, const struct K(rows) *rows,
                              ptrdiff_t first, ptrdiff_t keys, struct K(scratch) *scratch, real *sums) {
    real *s = scratch->s;
    if (!K(block_scores)(a, head, rows, first, keys, scratch)) return;
    if (rows->count % V(width)) { /* lanes past the last query */
        const V(v) hidden = V(set1)(-(real)INFINITY), lane = V(iota)();
        const ptrdiff_t last = (rows->vecs - 1) * V(width);
        for (ptrdiff_t k = 0; k < keys; k++) {
            real *at = s + k * K(block_queries) + last;
            V(store)(at, V(select)(V(lt)(lane, V(set1)((real)(rows->count - last))), V(load)(at), hidden));
        }
    }
    if (rows->vecs == 1) K(received_add)(rows, keys, 1, s, sums);
    else if (rows->vecs == 2) K(received_add)(rows, keys, 2, s, sums);
    else K(received_add)(rows, keys, 3, s, sums);
}

static void K(received_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_attention *a = &((const struct attnx_summary *)args)->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), heads = a->batch * a->heads;
    const ptrdiff_t threads = plan->tasks;
    plan->grain = K(received_most);
    while (plan->grain > K(received_least) &&heads * ((a->key_len + plan->grain - 1) / plan->grain) < 4 * threads)
        plan->grain /= 2;
    plan->tasks = heads * ((a->key_len + plan->grain - 1) / plan->grain);
    plan->work =
        (double)heads * (double)a->query_len * (double)K(keys_seen)(a) * (double)(a->head_dim + 24) / (double)w;
    plan->scratch = sizeof(real) * (size_t)(K(block_keys) *(q + (a->head_dim + w - 1) / w * w) + q * (a->head_dim + 2) +
                                            2 * w * plan->grain) +
                    64;
}

/* What the rows' weights are relative to: lse and its rest, for which a row has `most` and `total`. */
static void K(received_base)(const struct attnx_summary *y, const struct K(head) *head, const struct K(rows) *rows,
                             ptrdiff_t entry) {
    for (ptrdiff_t r = 0; r < K(block_queries); r++) {
        rows->most[r] = rows->total[r] = 0;
        if (r >= rows->count) continue;
        const real lse = head->lse[rows->head[r] * y->attention.lse.head + rows->index[r] * y->attention.lse.row];
        const ptrdiff_t at = K(summary_at)(&y->attention, head, entry, rows->head[r], rows->index[r]);
        if (lse == -(real)INFINITY) continue; /* it sees nothing */
        rows->most[r] = lse;
        rows->total[r] = ((const real *)y->rest)[at];
    }
}

static void K(received_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_summary *y = args;
    const struct attnx_attention *a = &y->attention;
    const ptrdiff_t q = K(block_queries), w = V(width), most = K(block_keys);
    const ptrdiff_t chunks = (a->key_len + plan->grain - 1) / plan->grain, entry = task / chunks / a->heads;
    const ptrdiff_t h = task / chunks % a->heads, from = task % chunks * plan->grain;
    const struct K(head) head = K(head_at)(a, entry, h / a->group);
    const ptrdiff_t cut = from + plan->grain < a->key_len ? from + plan->grain : a->key_len;
    const ptrdiff_t to = cut < head.keys ? cut : head.keys;
    real *s = scratch, *sums = s + most * (q + (a->head_dim + w - 1) / w * w);
    struct K(fetches) fetches = {.lasting = 0};
    struct K(scratch) block = {.s = s, .converted = s + most * q};
    if (head.mask || head.bias) block.fetches = &fetches;
    struct K(rows) rows = {.packed = sums + 2 * w * plan->grain};
    rows.most = rows.packed + q * a->head_dim;
    rows.total = rows.most + q;
    for (ptrdiff_t i = 0; i < 2 * w * plan->grain; i++) sums[i] = 0;
    for (ptrdiff_t i = 0; i < head.queries; i += q) {
        rows.count = head.queries - i < q ? head.queries - i : q;
        K(take_rows)(a, &head, h % a->group * head.queries + i, &rows);
        const ptrdiff_t begin = rows.begin > from ? rows.begin : from, end = rows.end < to ? rows.end : to;
        if (begin >= end) continue;
        K(pack_queries)(a, &head, &rows);
        K(received_base)(y, &head, &rows, entry);
        for (ptrdiff_t at = begin / most * most; at < end; at += most) {
            const ptrdiff_t first = at > begin ? at : begin, stop = at + most < end ? at + most : end;
            K(received_block)(a, &head, &rows, first, stop - first, &block, sums + (first - from) * 2 * w);
        }
    }
    real *out = (real *)y->received + (entry * a->heads + h) * a->key_len;
    for (ptrdiff_t j = from; j < cut; j++) out[j] = j < to ? V(sum)(V(load)(sums + (j - from) * 2 * w)) : 0;
}
