/* Which keys a block of queries sees, written into its transposed scores.
 *
 * A masked score is replaced, never added to, so a NaN under the mask leaves no trace. The same walk serves twice:
 * with `mark` false it adds the mask and writes -inf where a pair is invisible; with `mark` true it writes -1 over the
 * weights of invisible pairs, for the slow value product that must not touch their values.
 */

/* n mask elements of one query row, as what is added to a score: a real, or -inf. */
ATTNX_INLINE V(v) K(mask_load)(const struct attnx_attention *a, const char *mask, ptrdiff_t row, ptrdiff_t key,
                               ptrdiff_t n) {
    const V(v) hidden = V(set1)(-(real)INFINITY), seen = V(set1)(0);
    const ptrdiff_t item = a->mask.item, at = row * a->mask.row + key * item;
    if (a->mask_kind == ATTNX_MASK_BOOL) {
        const uint8_t *p = (const uint8_t *)mask + at;
        if (item == 1) return V(from_bytes)(p, n, seen, hidden);
        uint8_t bytes[V(width)] = {0};
        for (ptrdiff_t i = 0; i < n; i++) bytes[i] = p[i * item];
        return V(from_bytes)(bytes, V(width), seen, hidden);
    }
    const real *p = (const real *)(const void *)mask + at;
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

/* attn_mask on the scores of keys [first, first + keys) */
ATTNX_INLINE void K(mask_array)(const struct attnx_attention *a, const struct K(head) *head,
                                const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys, real *s, const int mark) {
    const ptrdiff_t w = V(width);
    for (ptrdiff_t k = 0; k < keys; k += w) {
        const ptrdiff_t n = keys - k < w ? keys - k : w;
        V(v) bias[V(width)];
        if (a->mask.row == 0) { /* one row for all queries: a number a key */
            real lanes[V(width)];
            V(store)(lanes, K(mask_load)(a, head->mask, 0, first + k, n));
            for (ptrdiff_t j = 0; j < n; j++) {
                for (ptrdiff_t c = 0; c < rows->vecs; c++)
                    K(mask_score)(s + (k + j) * K(block_queries) + c * w, V(set1)(lanes[j]), mark);
            }
            continue;
        }
        for (ptrdiff_t c = 0; c < rows->vecs; c++) {
            for (ptrdiff_t i = 0; i < w; i++) {
                const ptrdiff_t row = c * w + i;
                bias[i] = row < rows->count ? K(mask_load)(a, head->mask, rows->first + row, first + k, n) : V(set1)(0);
            }
            V(transpose)(bias);
            for (ptrdiff_t j = 0; j < n; j++)
                K(mask_score)(s + (k + j) * K(block_queries) + c * w, bias[j], mark);
        }
    }
}

/* Causal: lane i of vector c sees the keys before `edge` + c * width + i. */
ATTNX_INLINE void K(mask_causal)(const struct K(rows) *rows, ptrdiff_t edge, ptrdiff_t keys, real *s, const int mark) {
    const V(v) fill = V(set1)(mark ? (real)-1 : -(real)INFINITY);
    for (ptrdiff_t c = 0; c < rows->vecs; c++) {
        const ptrdiff_t start = edge + c * V(width);
        if (start >= keys) continue;
        const V(v) end = V(add)(V(set1)((real)(start < -V(width) ? -V(width) : start)), V(iota)());
        for (ptrdiff_t k = start > 0 ? start : 0; k < keys; k++) {
            real *at = s + k * K(block_queries) + c * V(width);
            V(store)(at, V(select)(V(lt)(V(set1)((real)k), end), V(load)(at), fill));
        }
    }
}

ATTNX_INLINE void K(mask_block)(const struct attnx_attention *a, const struct K(head) *head,
                                const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys, real *s, const int mark) {
    if (a->mask_kind != ATTNX_MASK_NONE) K(mask_array)(a, head, rows, first, keys, s, mark);
    if (a->causal) K(mask_causal)(rows, rows->first + head->offset + 1 - first, keys, s, mark);
}

enum K(mask_state) { K(mask_hides_all), K(mask_mixed), K(mask_hides_none) };

/* What a bool mask says of a whole block: most blocks of real masks are all True or all False. */
static enum K(mask_state) K(mask_survey)(const struct attnx_attention *a, const struct K(head) *head,
                                         const struct K(rows) *rows, ptrdiff_t first, ptrdiff_t keys) {
    if (a->mask_kind == ATTNX_MASK_NONE) return K(mask_hides_none);
    if (a->mask_kind != ATTNX_MASK_BOOL || a->mask.item != 1) return K(mask_mixed);
    const ptrdiff_t distinct = a->mask.row == 0 ? 1 : rows->count;
    ptrdiff_t seen = 0;
    for (ptrdiff_t i = 0; i < distinct; i++) {
        const uint8_t *p = (const uint8_t *)head->mask + (rows->first + i) * a->mask.row + first;
        unsigned row = 0;
        for (ptrdiff_t k = 0; k < keys; k++) row += p[k] != 0;
        seen += row;
        if (seen != 0 && seen != (i + 1) * keys) return K(mask_mixed);
    }
    return seen == 0 ? K(mask_hides_all) : K(mask_hides_none);
}
