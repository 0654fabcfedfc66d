/* out = activation(x W^T + bias) + residual, W packed in panels (attnx.h) when the layer is made.
 *
 * The tile of tile.h with the rows of x read as they lie and a panel of W as the vectors. An output is one chain over
 * the inputs in order whatever the number of rows, so a row's bits do not depend on the batch it came in; a BLAS, whose
 * path depends on the row count, does not promise that.
 */
enum {
    linear_rows = 64, /* rows of a task: with 768 inputs 192 KiB, which stay in L2 while panels stream past them */
    linear_vecs = 3,
    linear_tile = SCORE_ROWS
};

/* The end of a tile: sums go through memory, so that one loop serves every tile; unrolled over the accumulators it was
 * 1,100 instructions a tile shape. */
static void linear_end(const struct attnx_linear *a, ptrdiff_t row, ptrdiff_t column, const float *sums, int rows,
                       int vecs) {
    for (int c = 0; c < vecs; c++, column += f32_width, sums += f32_width) {
        const ptrdiff_t left = a->outs - column, n = left < f32_width ? left : f32_width;
        const f32_v bias = a->bias ? f32_load_n(a->bias + column, n) : f32_set1(0);
        for (int r = 0; r < rows; r++) {
            f32_v y = activate(f32_add(f32_load(sums + r * ATTNX_PANEL), bias), a->activation);
            if (a->residual) y = f32_add(y, f32_load_n(a->residual + (row + r) * a->residual_row + column, n));
            f32_store_n(a->out + (row + r) * a->out_row + column, y, n);
        }
    }
}

ATTNX_INLINE void linear_tile_run(const struct attnx_linear *a, ptrdiff_t row, ptrdiff_t column, const float *panel,
                                  const int rows, const int vecs) {
    float sums[linear_tile * ATTNX_PANEL];
    tile_f32 acc;
    const float *x = a->x + row * a->x_row;
    tile_sum_f32((struct broadcast_f32){x, a->x_row, 1}, (struct vectors_f32){panel, ATTNX_PANEL, 0}, a->in, rows, vecs,
                 acc);
    ATTNX_UNROLL
    for (int r = 0; r < rows; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) f32_store(sums + r * ATTNX_PANEL + c * f32_width, acc[r][c]);
    }
    linear_end(a, row, column, sums, rows, vecs);
}

ATTNX_INLINE void linear_columns(const struct attnx_linear *a, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t column,
                                 const float *panel, const int vecs) {
#define LINEAR_TILE(r, n) linear_tile_run(a, first + (r), column, panel, n, vecs)
    ATTNX_TILE_ROWS(rows, linear_tile, LINEAR_TILE);
#undef LINEAR_TILE
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
    (void)scratch;
    for (ptrdiff_t column = start; column < end;) {
        const ptrdiff_t vecs = (end - column + f32_width - 1) / f32_width;
        if (vecs >= 3) linear_columns(a, first, rows, column, panel, 3);
        else if (vecs == 2) linear_columns(a, first, rows, column, panel, 2);
        else linear_columns(a, first, rows, column, panel, 1);
        column += linear_vecs * f32_width;
        panel += linear_vecs * f32_width;
    }
}
