/* How a call is cut into tasks: blocks of queries, runs of small heads, or spans of keys.
 *
 * Spans: a decoding step with few key/value heads would leave threads idle, or one with a whole head more than the
 * others. Its keys are cut between blocks; each block's maximum, sum and weighted values are kept, and whoever finishes
 * a head's last span joins them one after the other as attend_block does, so the bits are those of one thread (rule 8).
 */
enum {
    K(span_blocks) = 4,        /* fewest blocks of keys that are worth a task */
    K(spans_memory) = 16 << 20 /* a call that would need more is not cut: some hundred thousand keys */
};

struct K(span) {
    ptrdiff_t head, index;
};

/* Most keys that any query can see, but for bool masks. */
static ptrdiff_t K(keys_seen)(const struct attnx_attention *a) {
    ptrdiff_t seen = a->key_len;
    if (a->key_lengths) {
        seen = 0;
        for (ptrdiff_t b = 0; b < a->batch; b++) seen = a->key_lengths[b] > seen ? a->key_lengths[b] : seen;
    }
    const ptrdiff_t left = a->window_left, right = a->window_right;
    if (left >= 0 && right >= 0 && left < seen && right < seen && left + right + a->query_len < seen)
        seen = left + right + a->query_len;
    return seen;
}

/* Numbers that a block of keys leaves: maxima and sums of whole vectors of rows, and their weighted values. */
static ptrdiff_t K(part_items)(const struct attnx_attention *a) {
    const ptrdiff_t w = V(width), rows = a->group * a->query_len;
    return 2 * ((rows + w - 1) / w * w) + rows * ((a->value_dim + w - 1) / w * w);
}

static void K(split)(const struct attnx_attention *a, ptrdiff_t threads, struct attnx_plan *plan) {
    const ptrdiff_t heads = plan->tasks, blocks = K(keys_seen)(a) / K(block_keys) + 2; /* cut at both ends */
    const ptrdiff_t most = blocks / K(span_blocks), wanted = (4 * threads + heads - 1) / heads;
    const ptrdiff_t part = K(part_items)(a) * (ptrdiff_t)sizeof(real);
    if (most < 2 || wanted < 2 || blocks > K(spans_memory) / part / heads) return;
    plan->spans = wanted < most ? wanted : most;
    plan->parts = blocks;
    plan->counters = (size_t)heads;
    plan->shared_bytes = (size_t)heads * (sizeof(ptrdiff_t) + (size_t)(blocks * part));
    plan->tasks *= plan->spans;
}

/* Attends to one span of a head's keys; 1 where that was the last one, and `rows` then holds all of them. */
static int K(attend_span)(const struct attnx_attention *a, const struct K(head) *head, struct K(rows) *rows,
                          struct K(scratch) *scratch, const struct attnx_plan *plan, const struct K(span) span) {
    _Atomic ptrdiff_t *finished = (_Atomic ptrdiff_t *)plan->shared;
    const ptrdiff_t most = K(block_keys), items = K(part_items)(a), begin = rows->begin / most;
    const ptrdiff_t blocks = rows->end > begin * most ? (rows->end - begin * most + most - 1) / most : 0;
    const ptrdiff_t lanes = rows->vecs * V(width);
    real *parts = (real *)(void *)(finished + plan->counters) + span.head * plan->parts * items;
    scratch->values_of = -1;
    K(start_rows)(a, head, rows);
    K(zero_sums)(rows);
    for (ptrdiff_t i = blocks * span.index / plan->spans; i < blocks * (span.index + 1) / plan->spans; i++) {
        const ptrdiff_t at = (begin + i) * most, first = rows->begin > at ? rows->begin : at;
        struct K(rows) part = *rows;
        part.most = parts + i * items;
        part.total = part.most + lanes;
        part.sums = part.total + lanes;
        for (ptrdiff_t r = 0; r < lanes; r++) part.most[r] = -(real)INFINITY, part.total[r] = 0;
        part.fresh = 1;
        K(attend_block)(a, head, &part, first, (rows->end < at + most ? rows->end : at + most) - first, 0, scratch);
        if (part.fresh) K(zero_sums)(&part);
    }
    if (atomic_fetch_add_explicit(finished + span.head, 1, memory_order_acq_rel) + 1 < plan->spans) return 0;
    for (ptrdiff_t i = 0; i < blocks; i++) {
        const real *part = parts + i * items, *sums = part + 2 * lanes;
        real *merge = scratch->merge;
        for (int c = 0; c < rows->vecs; c++)
            K(join)(rows, c, V(load)(part + c * V(width)), V(load)(part + lanes + c * V(width)), merge);
        for (ptrdiff_t r = 0; r < rows->count; r++) {
            const V(v) old_scale = V(set1)(merge[r]), new_scale = V(set1)(merge[r + K(block_queries)]);
            for (ptrdiff_t d = r * rows->stride; d < (r + 1) * rows->stride; d += V(width)) {
                const V(v) old = V(mul)(V(load)(rows->sums + d), old_scale);
                V(store)(rows->sums + d, V(fma)(V(load)(sums + d), new_scale, old));
            }
        }
    }
    return 1;
}

/* Most query blocks that share a pass over the keys: each block of keys and values is then read from L2, and packed, by all
 * but the first. With AVX2 on a Zen 3, 96 queries were 1 to 5 % slower than 192 and 384 gained nothing; with AVX-512 on a
 * Sapphire Rapids, whose L2 is four times as large, 384 take 0.97 of the time at L = 256 and 0.95 in float64.
 * Where a head has several that are longer than `short_pass` they want 16 tasks a thread, else threads end far apart (12 heads
 * of 512 in 24 tasks: 1.02 of 36); shorter ones 4, since each packs all values (12 heads of 128 in 36 tasks: 1.09 of 12). */
enum {
    K(short_pass) = 192,
    K(row_blocks) = PASS_QUERIES / K(block_queries),
    K(packed_most) = 32768,
    K(heads_run) = 12,
    K(far_bytes) = 16 << 20
};

/* Blocks of queries of a pass, as many in one as in another. */
static ptrdiff_t K(pass_blocks)(const struct attnx_attention *a, ptrdiff_t threads) {
    const ptrdiff_t q = K(block_queries), heads = a->batch * (a->heads / a->group), rows = a->group * a->query_len;
    const ptrdiff_t most = 2 * K(packed_most) / q;
    ptrdiff_t blocks = K(row_blocks), passes = (rows + blocks * q - 1) / (blocks * q);
    while (blocks > 1 && (blocks * a->head_dim > most ||
                          heads * passes < (passes > 1 && blocks * q > K(short_pass) ? 16 : 4) * threads)) {
        blocks--;
        passes = (rows + blocks * q - 1) / (blocks * q);
    }
    return passes ? ((rows + q - 1) / q + passes - 1) / passes : blocks;
}

static void K(attention_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_attention *a = args;
    const ptrdiff_t q = K(block_queries), w = V(width), heads = a->batch * (a->heads / a->group);
    const ptrdiff_t rows = a->group * a->query_len, stride = (a->value_dim + w - 1) / w * w;
    const ptrdiff_t depth = a->key.storage == REAL_STORAGE ? 0 : (a->head_dim + w - 1) / w * w;
    const ptrdiff_t threads = plan->tasks, blocks = K(pass_blocks)(a, threads);
    plan->grain = blocks;
    plan->tasks = heads * ((rows + blocks * q - 1) / (blocks * q));
    /* Heads of one task each and of a few keys: one thread takes several, and fetches ahead. */
    if (plan->tasks == heads && a->key_len <= K(block_keys)) plan->run = heads / (8 * threads);
    if (plan->run > K(heads_run)) plan->run = K(heads_run);
    if (heads > 0 && rows <= K(few) &&threads > 1 && plan->tasks < 4 * threads) K(split)(a, threads, plan);
    plan->work = (double)a->batch * (double)a->heads * (double)a->query_len * (double)K(keys_seen)(a) *
                 (double)(a->head_dim + a->value_dim + 16) / (double)w;
    plan->scratch = sizeof(real) * (size_t)((K(block_keys) + 2) * q + K(block_keys) *(depth + stride) +
                                            blocks * q * (a->head_dim + stride + 2)) +
                    sizeof(struct K(rows)) * K(row_blocks) + 64;
}

/* Whether a call's arrays do not stay in a cache and are to be fetched ahead. One thread of a Sapphire Rapids: 8 MB (4 x 2048 x
 * 64) take the same time either way, 64 MB (4 x 8192 x 128) 0.97, with a window of 256 0.93. */
ATTNX_INLINE int K(far)(const struct attnx_attention *a) {
    const ptrdiff_t rows = a->batch * (a->heads * a->query_len + a->heads / a->group * a->key_len);
    return rows * (a->head_dim + a->value_dim) > K(far_bytes) / (ptrdiff_t)sizeof(real);
}

static void K(attention_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_attention *a = args;
    const ptrdiff_t span = plan->spans ? task % plan->spans : 0;
    if (plan->spans) task /= plan->spans;
    const ptrdiff_t q = K(block_queries), w = V(width), most = plan->grain * q, all = a->group * a->query_len;
    const ptrdiff_t chunks = (all + most - 1) / most, stride = (a->value_dim + w - 1) / w * w;
    const ptrdiff_t depth = a->key.storage == REAL_STORAGE ? 0 : (a->head_dim + w - 1) / w * w;
    const ptrdiff_t entry = task / chunks, first = (chunks - 1 - task % chunks) * most; /* causal: the longest first */
    const ptrdiff_t kv_heads = a->heads / a->group;
    const struct K(head) head = K(head_at)(a, entry / kv_heads, entry % kv_heads);
    const ptrdiff_t computed = a->group * head.queries, end = first + most < all ? first + most : all;
    real *s = scratch; /* first, since it is aligned */
    const ptrdiff_t run = plan->run > 1 && (task + 1) % plan->run && task + 1 < plan->tasks;
    const struct K(head) following = run ? K(head_at)(a, (task + 1) / kv_heads, (task + 1) % kv_heads) : head;
    struct K(fetches) fetches;
    fetches.lasting = 0;
    struct K(scratch) block = {.s = s, .merge = s + K(block_keys) *q, .values = s + (K(block_keys) + 2) * q};
    block.converted = block.values + K(block_keys) *stride;
    block.next = run ? &following : NULL;
    block.far = K(far)(a);
    if (block.far || head.mask || head.bias) block.fetches = &fetches;
    real *next = block.converted + K(block_keys) *depth;
    /* After all that vectors are loaded from, whose places are multiples of a vector. */
    struct K(rows) *rows = (struct K(rows) *)(void *)(next + plan->grain * q * (a->head_dim + stride + 2));
    ptrdiff_t blocks = 0;
    for (ptrdiff_t at = first; at < computed && blocks < plan->grain; at += q, blocks++) {
        struct K(rows) *r = &rows[blocks];
        r->count = computed - at < q ? computed - at : q;
        r->stride = stride;
        r->packed = next;
        r->sums = r->packed + q * a->head_dim;
        r->most = r->sums + q * stride;
        r->total = r->most + q;
        next = r->total + q;
        K(take_rows)(a, &head, at, r);
    }
    if (!plan->spans) K(attend_blocks)(a, &head, rows, blocks, 0, &block);
    else if (blocks ? !K(attend_span)(a, &head, rows, &block, plan, (struct K(span)){task, span}) : span) return;
    const int masked = a->window_left >= 0 || a->window_right >= 0 || head.mask || head.bias || a->relative;
    for (ptrdiff_t i = 0; i < blocks; i++) {
        if (K(finish_rows)(a, &head, &rows[i]) || !masked) continue;
        K(attend_blocks)(a, &head, &rows[i], 1, 1, &block);
        K(finish_rows)(a, &head, &rows[i]);
    }
    if (!a->query_starts && end > computed)
        K(blank_rows)(a, &head, first > computed ? first - computed : 0, end - computed);
}
