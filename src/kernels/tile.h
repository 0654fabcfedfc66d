/* The one inner loop: acc[r][c] = sum_k a[r, k] * b[k, c] for a few rows r and a few vectors c.
 *
 * a is read by broadcast with any strides, b in whole vectors; each sum is one chain of multiply-adds over k in order,
 * starting from zero, whatever the number of rows and vectors of the call. So an element's bits depend on its own
 * row of a and column of b alone (rule 8 of the contract). Error of a chain of n: at most n * eps * sum |a b|.
 * What differs between uses is how the finished sums are stored; see attention.h and linear.h.
 */
struct K(broadcast) {
    const real *at;
    ptrdiff_t row, step; /* from row to row, from k to k */
};

struct K(vectors) {
    const real *at;
    ptrdiff_t step; /* from k to k */
    int beside;     /* vectors side by side; the others follow, as many at a time, `next` on */
    ptrdiff_t next;
    ptrdiff_t ahead; /* how far on the vectors lie that are read after this tile, or 0 */
};

enum { K(tile_rows) = 8, K(tile_vecs) = 4 }; /* the largest tile of any instruction set */
typedef V(v) K(tile)[K(tile_rows)][K(tile_vecs)];

ATTNX_INLINE void K(tile_zero)(const int rows, const int vecs, K(tile) acc) {
    ATTNX_UNROLL
    for (int r = 0; r < rows; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) acc[r][c] = V(set1)(0);
    }
}

/* Adds `depth` terms to each sum. rows and vecs are compile-time constants at every call. Four terms a turn: for minutes
 * at a time rates went as multiply-adds an instruction, as on a core whose other hardware thread is busy, and a turn's
 * count, two additions and jump are 4 of 24 (linear layers then ran at 76 instead of 66 GFLOP/s; else at 92 either way). */
ATTNX_INLINE void K(tile_add)(const struct K(broadcast) a, const struct K(vectors) b, ptrdiff_t depth, const int rows,
                              const int vecs, K(tile) acc) {
    const real *ak = a.at, *bk = b.at;
    ATTNX_UNROLL_4
    for (ptrdiff_t k = 0; k < depth; k++, ak += a.step, bk += b.step) {
        V(v) row[K(tile_vecs)];
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) {
            const real *at = bk + c / b.beside * b.next + c % b.beside * V(width);
            if (b.ahead && c * V(width) *(int)sizeof(real) % 64 == 0) __builtin_prefetch(at + b.ahead);
            row[c] = V(load)(at);
        }
        ATTNX_UNROLL
        for (int r = 0; r < rows; r++) {
            const V(v) x = V(set1)(ak[r * a.row]);
            ATTNX_UNROLL
            for (int c = 0; c < vecs; c++) acc[r][c] = V(fma)(x, row[c], acc[r][c]);
        }
    }
}

ATTNX_INLINE void K(tile_sum)(const struct K(broadcast) a, const struct K(vectors) b, ptrdiff_t depth, const int rows,
                              const int vecs, K(tile) acc) {
    K(tile_zero)(rows, vecs, acc);
    K(tile_add)(a, b, depth, rows, vecs, acc);
}

/* Cuts `count` rows into tiles of `most` and then 4, 2, 1; TILE(r, rows) is a statement for rows r .. r + rows. The last 7 or
 * 8 begin with a tile of 4: 6 and then 2 or 1 would leave sums in too few chains. */
#define ATTNX_TILE_ROWS(count, most, TILE)                                                  \
    do {                                                                                    \
        ptrdiff_t tile_r = 0, tile_left = (count);                                          \
        for (; tile_left >= (most) && !((most) == 6 && (tile_left == 7 || tile_left == 8)); \
             tile_left -= (most), tile_r += (most))                                         \
            TILE(tile_r, (most));                                                           \
        for (; (most) > 4 && tile_left >= 4; tile_left -= 4, tile_r += 4) TILE(tile_r, 4);  \
        if (tile_left >= 2) {                                                               \
            TILE(tile_r, 2);                                                                \
            tile_r += 2, tile_left -= 2;                                                    \
        }                                                                                   \
        if (tile_left >= 1) TILE(tile_r, 1);                                                \
    } while (0)
