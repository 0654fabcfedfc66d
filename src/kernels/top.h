/* The k largest of the scores of each query, and their keys, while blocks of scores go by.
 *
 * The candidates of a row are a binary heap that lives where the result goes. Its root is the worst of them: the lowest
 * score, and of equal ones the last key. Whole vectors of transposed scores are compared with the roots of their queries,
 * and most pass by: of S keys in random order about k ln(S / k) enter. Keys come in order and must exceed the root, so of
 * equal scores the first keys stay, and nothing depends on how the keys were cut. What a query cannot see is -inf and
 * never enters. A NaN counts as the largest score, for it is what the row's weights come to.
 */
struct K(top) {
    real *score;  /* (count), -inf where there is no candidate */
    int64_t *key; /* (count), -1 likewise, which as an unsigned number comes after all keys */
    ptrdiff_t count;
};

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

static void K(top_clear)(real *score, int64_t *key, ptrdiff_t count, real empty) {
    for (ptrdiff_t j = 0; j < count; j++) score[j] = empty, key[j] = -1;
}

/* From the scores of a row's heap to weights exp(score - lse - rest), in falling order, equal ones by key. */
static void K(top_finish)(const struct K(top) *top, real lse, real rest) {
    struct K(top) heap = *top;
    const int undefined = lse != lse;
    const V(v) base = V(set1)(lse == -(real)INFINITY ? 0 : lse), rest_v = V(set1)(rest);
    for (ptrdiff_t j = 0; j < top->count; j += V(width)) {
        const ptrdiff_t n = top->count - j < V(width) ? top->count - j : V(width);
        const V(v) weight = K(exp)(V(sub)(V(sub)(V(load_n)(top->score + j, n), base), rest_v));
        V(store_n)(top->score + j, undefined ? V(set1)(0) : weight, n);
    }
    /* Weights may be equal where scores were not. */
    for (ptrdiff_t at = heap.count / 2; at-- > 0;) K(top_put)(&heap, at, heap.score[at], heap.key[at]);
    while (heap.count > 1) {
        const ptrdiff_t last = --heap.count;
        const real score = top->score[last];
        const int64_t key = top->key[last];
        top->score[last] = top->score[0];
        top->key[last] = top->key[0];
        K(top_put)(&heap, 0, score, key);
    }
    for (ptrdiff_t j = 0; undefined && j < top->count; j++) top->score[j] = top->key[j] < 0 ? 0 : (real)NAN;
}
