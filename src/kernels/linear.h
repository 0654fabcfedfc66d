/* out = activation(x W^T + bias) + residual, W packed in panels (attnx.h) when the layer is made.
 *
 * The tile of tile.h: strips of rows of x, packed side by side, and the panels as the vectors. An output is one chain over
 * the inputs in order whatever the number of rows, so a row's bits do not depend on the batch it came in; a BLAS, whose
 * path depends on the row count, does not promise that.
 *
 * A task packs its rows once for all its panels; they stay in L2 while panels, each one stream of whole cache lines, run
 * past them. The part of a panel that the strips share stays in L1. With AVX2 (Zen 3) against rows read as they lie and
 * panels of 48 columns, medians at 384 to 1536 inputs: 64 to 80 GFLOP/s before, 77 to 88 so, of a limit of 100.
 *
 * The last strip fetches as many inputs of the part that comes next as it has itself; the first strip of that would wait for
 * them. One thread, calls with and without in turn in one process, over several weights: 16 rows of 768 for 2304 columns +5
 * to +15 %, 10 and 40 rows of 384 +4 and +1 %, 108 rows +2 to +3 %, 250 rows of 1536 +3 to +4 %, 1024 rows of 384 0 to +1 %.
 */
enum {
    linear_row_bytes = 256 * 1024, /* of a task's rows, packed: half of the L2 of a Zen 3 */
    linear_most_rows = 20 * LINEAR_ROWS,
    linear_part = 12 * 1024, /* bytes of panels for all strips: 192 inputs of 16 columns; 256 and 384 were slower */
    linear_few = 3,          /* rows that are read as they lie, with more columns at a time for more chains of sums */
    linear_few_vecs = 4,
    linear_columns = 128,              /* of a task at least: packing a row takes the time of a few columns */
    linear_cut_rows = 2 * LINEAR_ROWS, /* of a task at least, where rows are cut for want of columns */
    linear_tasks = 4,                  /* for each thread, where there are as many columns */
    linear_panel_vecs = ATTNX_PANEL / f32_width,
    linear_sums_row = linear_few_vecs * f32_width /* the widest tile */
};

/* Packs `rows` rows of x: input k of row r to strip[k * rows + r]. May write a vector past the end. */
ATTNX_INLINE void linear_pack(const float *x, ptrdiff_t x_row, ptrdiff_t in, const int rows, float *strip) {
    const int w = f32_width;
    ptrdiff_t k = 0;
    for (; k + w <= in; k += w) {
        /* The last rows first: a vector may reach into the places of the next input, which are written after it. */
        ATTNX_UNROLL
        for (int r = (rows - 1) / w * w; r >= 0; r -= w) {
            f32_v t[f32_width];
            ATTNX_UNROLL
            for (int i = 0; i < w; i++) t[i] = r + i < rows ? f32_load(x + (r + i) * x_row + k) : f32_set1(0);
            f32_transpose(t);
            ATTNX_UNROLL
            for (int i = 0; i < w; i++) f32_store(strip + (k + i) * rows + r, t[i]);
        }
    }
    for (; k < in; k++)
        for (int r = 0; r < rows; r++) strip[k * rows + r] = x[r * x_row + k];
}

/* sums += `depth` inputs of a strip times `vecs` vectors of panels; a fresh sum starts at 0. */
ATTNX_INLINE void linear_tile(const struct broadcast_f32 strip, struct vectors_f32 panels, ptrdiff_t depth,
                              const int fresh, ptrdiff_t ahead, const int rows, const int vecs, float *sums) {
    tile_f32 acc;
    tile_zero_f32(rows, vecs, acc);
    if (!fresh) {
        ATTNX_UNROLL
        for (int r = 0; r < rows; r++) {
            ATTNX_UNROLL
            for (int c = 0; c < vecs; c++) acc[r][c] = f32_load(sums + (r * vecs + c) * f32_width);
        }
    }
    if (ahead) {
        panels.ahead = ahead;
        tile_add_f32(strip, panels, depth, rows, vecs, acc);
    } else { /* a loop without fetching: 0 is known to the compiler */
        tile_add_f32(strip, panels, depth, rows, vecs, acc);
    }
    ATTNX_UNROLL
    for (int r = 0; r < rows; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) f32_store(sums + (r * vecs + c) * f32_width, acc[r][c]);
    }
}

/* sums = x W^T of `rows` rows for `vecs` vectors of columns from `panels` on; x is packed in strips, or few rows. */
ATTNX_INLINE void linear_sums(const struct attnx_linear *a, const float *x, ptrdiff_t rows, const float *panels,
                              const int few, const int vecs, float *sums) {
    const ptrdiff_t most = linear_part / (vecs * f32_width * (ptrdiff_t)sizeof *x);
    const ptrdiff_t panels_wide = linear_panel_vecs < vecs ? vecs / linear_panel_vecs : 1;
    struct vectors_f32 part = {panels, ATTNX_PANEL, linear_panel_vecs, a->in * ATTNX_PANEL, 0};
    ptrdiff_t from = 0;
    do { /* once even without inputs: the sums are then 0 */
        const ptrdiff_t depth = a->in - from < most ? a->in - from : most;
        const ptrdiff_t ahead = (from + depth < a->in ? depth : panels_wide * a->in - from) * ATTNX_PANEL;
        part.at = panels + from * ATTNX_PANEL;
#define LINEAR_TILE(r, n)                                                            \
    linear_tile(few ? (struct broadcast_f32){x + (r) * a->x_row + from, a->x_row, 1} \
                    : (struct broadcast_f32){x + (r) * a->in + from * (n), 1, n},    \
                part, depth, from == 0, !few && (r) + (n) == rows ? ahead : 0, n, vecs, sums + (r) * vecs * f32_width)
        ATTNX_TILE_ROWS(rows, few ? 2 : LINEAR_ROWS, LINEAR_TILE);
#undef LINEAR_TILE
        from += most;
    } while (from < a->in);
}

/* A task's share of the result. */
struct linear_share {
    ptrdiff_t first, rows, column, end;
};

/* The end of some columns: bias, activation and residual. Sums go through memory, so that one loop serves every tile;
 * unrolled over the accumulators it was 1,100 instructions a tile shape. */
static void linear_end(const struct attnx_linear *a, const struct linear_share share, ptrdiff_t column,
                       const float *sums, ptrdiff_t sums_row, ptrdiff_t end) {
    for (; column < end; column += f32_width, sums += f32_width) {
        const ptrdiff_t left = end - column, n = left < f32_width ? left : f32_width;
        const f32_v bias = a->bias ? f32_load_n(a->bias + column, n) : f32_set1(0);
        for (ptrdiff_t r = 0, row = share.first; r < share.rows; r++, row++) {
            f32_v y = activate(f32_add(f32_load(sums + r * sums_row), bias), a->activation);
            if (a->residual) y = f32_add(y, f32_load_n(a->residual + row * a->residual_row + column, n));
            f32_store_n(a->out + row * a->out_row + column, y, n);
        }
    }
}

/* At most `most` vectors of columns at a time; x begins with the share's rows, in strips or a few as they lie. */
ATTNX_INLINE void linear_share_run(const struct attnx_linear *a, const float *x, const struct linear_share share,
                                   const int few, const int most, float *sums) {
    const ptrdiff_t w = f32_width, padded = (share.end + ATTNX_PANEL - 1) / ATTNX_PANEL * ATTNX_PANEL;
    ptrdiff_t column = share.column;
#define LINEAR_COLUMNS(n)                                                                                         \
    do {                                                                                                          \
        const float *panels = a->weight + column / ATTNX_PANEL * ATTNX_PANEL * a->in + column % ATTNX_PANEL;      \
        linear_sums(a, x, share.rows, panels, few, n, sums);                                                      \
        linear_end(a, share, column, sums, (n) * w, column + (n) * w < share.end ? column + (n) * w : share.end); \
        column += (n) * w;                                                                                        \
    } while (0)
    while (padded - column >= most * w) LINEAR_COLUMNS(most);
    /* Whole panels are left. */
    if (most > 3 && linear_panel_vecs == 1 && padded - column >= 3 * w) LINEAR_COLUMNS(3);
    if (most > 2 && linear_panel_vecs <= 2 && padded - column >= 2 * w) LINEAR_COLUMNS(2);
    if (most > 1 && linear_panel_vecs == 1 && padded - column >= w) LINEAR_COLUMNS(1);
#undef LINEAR_COLUMNS
}

/* Columns that a task's share is a multiple of: whole tiles, whole panels. */
static ptrdiff_t linear_unit(const struct attnx_linear *a) {
    const ptrdiff_t tile = (a->rows <= linear_few ? linear_few_vecs : LINEAR_VECS) * f32_width;
    return tile < ATTNX_PANEL ? ATTNX_PANEL : tile;
}

/* How often, at most `most` times, the columns of so many blocks of rows are cut: so that the thread with most tasks has the
 * smallest share of all, and of equal shares in the smallest tasks. */
static ptrdiff_t linear_cuts(ptrdiff_t blocks, ptrdiff_t most, ptrdiff_t threads) {
    ptrdiff_t best = most > 0, fewest = (blocks + threads - 1) / threads;
    for (ptrdiff_t cuts = 2; cuts <= most; cuts++) {
        const ptrdiff_t turns = (blocks * cuts + threads - 1) / threads;
        if (turns * best <= fewest * cuts) best = cuts, fewest = turns;
    }
    return best;
}

static void linear_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_linear *a = args;
    const ptrdiff_t fit = linear_row_bytes / (ptrdiff_t)sizeof *a->x / (a->in + 1) / LINEAR_ROWS * LINEAR_ROWS;
    const ptrdiff_t most = fit < LINEAR_ROWS ? LINEAR_ROWS : fit < linear_most_rows ? fit : linear_most_rows;
    const ptrdiff_t fewest = (a->rows + most - 1) / most, threads = plan->tasks;
    const ptrdiff_t least = a->rows <= linear_few ? linear_unit(a) : linear_columns,
                    fits = (a->outs + least - 1) / least;
    /* Where the columns are too few for the threads, rows are cut as well. */
    const ptrdiff_t wanted = fits ? (threads + fits - 1) / fits : 0, may = a->rows / linear_cut_rows;
    const ptrdiff_t cut = wanted < may ? wanted : may, needed = fewest > cut ? fewest : cut;
    /* As many tasks for one thread as for another: 5 and 4 of 9 cost a tenth, 2 and 1 of 3 a third. */
    const ptrdiff_t even = needed < threads ? needed : (needed + threads - 1) / threads * threads;
    const ptrdiff_t rows = even ? (a->rows + even - 1) / even : 0;
    plan->grain = (rows + !rows + LINEAR_ROWS - 1) / LINEAR_ROWS * LINEAR_ROWS;
    const ptrdiff_t blocks = (a->rows + plan->grain - 1) / plan->grain;
    const ptrdiff_t most_cuts = blocks ? (linear_tasks * threads + blocks - 1) / blocks : 0;
    plan->tasks = blocks * linear_cuts(blocks, most_cuts < fits ? most_cuts : fits, threads);
    plan->work = (double)a->rows * (double)a->in * (double)a->outs / f32_width;
    plan->scratch = (size_t)(plan->grain * (a->in + linear_sums_row) + f32_width) * sizeof *a->x;
}

static void linear_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_linear *a = args;
    const ptrdiff_t blocks = (a->rows + plan->grain - 1) / plan->grain, cuts = plan->tasks / blocks;
    const ptrdiff_t first = task / cuts * plan->grain, cut = task % cuts;
    const ptrdiff_t rows = a->rows - first < plan->grain ? a->rows - first : plan->grain;
    const ptrdiff_t unit = linear_unit(a), units = (a->outs + unit - 1) / unit, end = (cut + 1) * units / cuts * unit;
    const struct linear_share share = {first, rows, cut * units / cuts * unit, end < a->outs ? end : a->outs};
    const float *x = a->x + first * a->x_row;
    float *sums = scratch, *strips = sums + plan->grain * linear_sums_row;
    if (a->rows <= linear_few) {
        linear_share_run(a, x, share, 1, linear_few_vecs, sums);
        return;
    }
#define LINEAR_PACK(r, n) linear_pack(x + (r) * a->x_row, a->x_row, a->in, n, strips + (r) * a->in)
    ATTNX_TILE_ROWS(rows, LINEAR_ROWS, LINEAR_PACK);
#undef LINEAR_PACK
    linear_share_run(a, strips, share, 0, LINEAR_VECS, sums);
}
