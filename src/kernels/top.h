/* The k largest of the scores of each query, and their keys, while blocks of scores go by.
 *
 * Whole vectors of transposed scores are compared with what their queries need to enter, and most pass by: of S keys in
 * random order about k ln(S / k) enter. What a query cannot see is -inf and never enters. A NaN counts as the largest
 * score, for it is what the row's weights come to.
 *
 * A few candidates are lists in falling order, kept transposed like the scores, and a vector of scores sinks through all
 * of its lists at once. So where scores rise towards a query's own position (causal order under ALiBi) and all keys
 * enter, attention with k = 16 takes less than twice the time of attention (9 times as long with a heap a query; L = S =
 * 8192). Keys come in order, and an equal score goes no further: of equal scores the first keys stay.
 *
 * Many candidates are a binary heap a query, where the result goes. Its root is the worst: the lowest score, and of equal
 * ones the last key. That order is strict, so the keys of a block may go from the last to the first, which spares most
 * insertions of scores that rise.
 */
enum { K(top_listed) = 32 }; /* most candidates of a list */

/* Whether candidates are lists; keys must be exact as reals. */
ATTNX_INLINE int K(top_lists)(ptrdiff_t count, ptrdiff_t keys) {
    return count <= K(top_listed) &&(REAL_IS_F64 || keys <= 1 << 24);
}

/* Puts the scores of one key into lists (count, 2, block_queries) of scores and keys: after all that are not smaller, whose
 * successors move on by one, equal ones in order. */
static void K(top_sink)(real *list, ptrdiff_t count, V(v) score, V(v) key) {
    const V(v) entering = V(select)(V(eq)(score, score), score, V(set1)((real)INFINITY));
    score = entering;
    for (ptrdiff_t j = 0; j < count; j++, list += 2 * K(block_queries)) {
        const V(v) old = V(load)(list), old_key = V(load)(list + K(block_queries));
        const V(m) above = V(lt)(old, entering);
        V(store)(list, V(select)(above, score, old));
        V(store)(list + K(block_queries), V(select)(above, key, old_key));
        score = V(select)(above, old, score);
        key = V(select)(above, old_key, key);
    }
}

/* Candidates of one query, as a heap or in order. */
struct K(top) {
    real *score;  /* (count), -inf where there is no candidate */
    int64_t *key; /* (count), -1 likewise, which as an unsigned number comes after all keys */
    ptrdiff_t count;
};

static void K(top_clear)(real *score, int64_t *key, ptrdiff_t count, real empty) {
    for (ptrdiff_t j = 0; j < count; j++) score[j] = empty, key[j] = -1;
}

/* Whether the candidate at `at` is worse than another. */
ATTNX_INLINE int K(top_worse)(const struct K(top) *top, ptrdiff_t at, real score, int64_t key) {
    return top->score[at] < score || (top->score[at] == score && (uint64_t)top->key[at] > (uint64_t)key);
}

/* Puts a candidate into the heap at `at` or below it: whatever is worse moves up. */
static void K(top_put)(const struct K(top) *top, ptrdiff_t at, real score, int64_t key) {
    for (ptrdiff_t child; (child = 2 * at + 1) < top->count; at = child) {
        if (child + 1 < top->count && K(top_worse)(top, child + 1, top->score[child], top->key[child])) child++;
        if (!K(top_worse)(top, child, score, key)) break;
        top->score[at] = top->score[child];
        top->key[at] = top->key[child];
    }
    top->score[at] = score;
    top->key[at] = key;
}

/* The least score that enters now, while the keys of a block from `first` on are offered, last to first: to a root that
 * came before the block it must not be equal. */
static real K(top_needs)(const struct K(top) *top, ptrdiff_t first) {
    const real root = top->score[0];
    if (top->key[0] >= first) return root;
#if REAL_IS_F64
    return nextafter(root, INFINITY);
#else
    return nextafterf(root, INFINITY);
#endif
}

/* Offers one more to a heap. */
static void K(top_offer)(const struct K(top) *top, real score, int64_t key) {
    if (score != score) score = (real)INFINITY;
    if (score > -(real)INFINITY && K(top_worse)(top, 0, score, key)) K(top_put)(top, 0, score, key);
}

/* Falling order, equal ones by key. */
static void K(top_sort)(const struct K(top) *top) {
    struct K(top) heap = *top;
    ptrdiff_t sorted = 1;
    while (sorted < top->count && !K(top_worse)(top, sorted - 1, top->score[sorted], top->key[sorted])) sorted++;
    if (sorted >= top->count) return;
    for (ptrdiff_t at = heap.count / 2; at-- > 0;) K(top_put)(&heap, at, heap.score[at], heap.key[at]);
    while (heap.count > 1) {
        const ptrdiff_t last = --heap.count;
        const real score = top->score[last];
        const int64_t key = top->key[last];
        top->score[last] = top->score[0];
        top->key[last] = top->key[0];
        K(top_put)(&heap, 0, score, key);
    }
}

/* From the scores of a query's candidates to weights exp(score - lse - rest), in order: they may be equal where the scores
 * were not. */
static void K(top_finish)(const struct K(top) *top, real lse, real rest) {
    const int undefined = lse != lse;
    const V(v) base = V(set1)(lse == -(real)INFINITY ? 0 : lse), rest_v = V(set1)(rest);
    for (ptrdiff_t j = 0; j < top->count; j += V(width)) {
        const ptrdiff_t n = top->count - j < V(width) ? top->count - j : V(width);
        const V(v) weight = K(exp)(V(sub)(V(sub)(V(load_n)(top->score + j, n), base), rest_v));
        V(store_n)(top->score + j, undefined ? V(set1)(0) : weight, n);
    }
    K(top_sort)(top);
    for (ptrdiff_t j = 0; undefined && j < top->count; j++) top->score[j] = top->key[j] < 0 ? 0 : (real)NAN;
}
