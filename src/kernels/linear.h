/* out = activation(x W^T + bias) + residual, W packed in panels (attnx.h) when the layer is made.
 *
 * The tile of tile.h with the rows of x read as they lie and a panel of W as the vectors. An output is one chain over
 * the inputs in order whatever the number of rows, so a row's bits do not depend on the batch it came in; a BLAS, whose
 * path depends on the row count, does not promise that.
 */
/* Rows of a task: with 768 inputs 192 KiB, which stay in L2 while panels stream past them. Inputs at a time: 12 KiB of a
 * panel, which stay in L1 for all those rows. With AVX2, where panels run past twice as fast as with AVX-512, 64 and 128
 * inputs at a time were 10 to 15 % faster than all at once, 256 were 8 %. */
enum { linear_rows = 64, linear_depth = 64, linear_vecs = 3 };

/* The end of a task: bias, activation and residual of columns [column, end). Sums go through memory, so that one loop serves
 * every tile; unrolled over the accumulators it was 1,100 instructions a tile shape. */
static void linear_end(const struct attnx_linear *a, ptrdiff_t row, ptrdiff_t column, const float *sums, ptrdiff_t rows,
                       ptrdiff_t end) {
    for (; column < end; column += f32_width, sums += f32_width) {
        const ptrdiff_t left = end - column, n = left < f32_width ? left : f32_width;
        const f32_v bias = a->bias ? f32_load_n(a->bias + column, n) : f32_set1(0);
        for (ptrdiff_t r = 0; r < rows; r++) {
            f32_v y = activate(f32_add(f32_load(sums + r * ATTNX_PANEL), bias), a->activation);
            if (a->residual) y = f32_add(y, f32_load_n(a->residual + (row + r) * a->residual_row + column, n));
            f32_store_n(a->out + (row + r) * a->out_row + column, y, n);
        }
    }
}

/* sums += inputs [from, from + depth) of `rows` rows of x, for `vecs` vectors of a panel; from 0 on they start anew. */
ATTNX_INLINE void linear_tile_run(const struct attnx_linear *a, const float *x, const float *panel, ptrdiff_t from,
                                  ptrdiff_t depth, const int rows, const int vecs, float *sums) {
    tile_f32 acc;
    tile_zero_f32(rows, vecs, acc);
    if (from) {
        ATTNX_UNROLL
        for (int r = 0; r < rows; r++) {
            ATTNX_UNROLL
            for (int c = 0; c < vecs; c++) acc[r][c] = f32_load(sums + r * ATTNX_PANEL + c * f32_width);
        }
    }
    tile_add_f32((struct broadcast_f32){x + from, a->x_row, 1},
                 (struct vectors_f32){panel + from * ATTNX_PANEL, ATTNX_PANEL}, depth, rows, vecs, acc);
    ATTNX_UNROLL
    for (int r = 0; r < rows; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) f32_store(sums + r * ATTNX_PANEL + c * f32_width, acc[r][c]);
    }
}

/* All `vecs` vectors of a panel for `rows` rows; each row of x is read for all columns while it is in L1. */
ATTNX_INLINE void linear_rows_run(const struct attnx_linear *a, const float *x, const float *panel, ptrdiff_t from,
                                  const int rows, const int vecs, float *sums) {
    const ptrdiff_t depth = a->in - from < linear_depth ? a->in - from : linear_depth;
    int c = 0;
    for (; vecs - c >= linear_vecs; c += linear_vecs)
        linear_tile_run(a, x, panel + c * f32_width, from, depth, rows, linear_vecs, sums + c * f32_width);
    if (vecs - c == 2) linear_tile_run(a, x, panel + c * f32_width, from, depth, rows, 2, sums + c * f32_width);
    if (vecs - c == 1) linear_tile_run(a, x, panel + c * f32_width, from, depth, rows, 1, sums + c * f32_width);
}

static void linear_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_linear *a = args;
    const ptrdiff_t panels = (a->outs + ATTNX_PANEL - 1) / ATTNX_PANEL;
    plan->grain = linear_rows;
    plan->tasks = panels * ((a->rows + linear_rows - 1) / linear_rows);
    plan->work = (double)a->rows * (double)a->in * (double)a->outs / f32_width;
    plan->scratch = 0;
}

static void linear_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_linear *a = args;
    const ptrdiff_t panels = (a->outs + ATTNX_PANEL - 1) / ATTNX_PANEL;
    const ptrdiff_t first = task / panels * plan->grain, start = task % panels * ATTNX_PANEL;
    const ptrdiff_t rows = a->rows - first < plan->grain ? a->rows - first : plan->grain;
    const ptrdiff_t end = start + ATTNX_PANEL < a->outs ? start + ATTNX_PANEL : a->outs;
    const float *panel = a->weight + start * a->in;
    const int vecs = (int)((end - start + f32_width - 1) / f32_width);
    float sums[linear_rows * ATTNX_PANEL];
    (void)scratch;
    ptrdiff_t from = 0;
    do { /* once even without inputs: the sums are then 0 */
#define LINEAR_ROWS(r, n) \
    linear_rows_run(a, a->x + (first + (r)) * a->x_row, panel, from, n, vecs, sums + (r) * ATTNX_PANEL)
        ATTNX_TILE_ROWS(rows, SCORE_ROWS, LINEAR_ROWS);
#undef LINEAR_ROWS
        from += linear_depth;
    } while (from < a->in);
    linear_end(a, first, start, sums, rows, end);
}
