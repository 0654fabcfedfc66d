/* out = activation(x W^T + bias) + residual, W packed in panels (attnx.h) when the layer is made.
 *
 * The tile of tile.h: rows of x, read as they lie, and the panels as the vectors. An output is one chain over the inputs
 * in order whatever the number of rows, so a row's bits do not depend on the batch it came in; a BLAS, whose path depends
 * on the row count, does not promise that.
 *
 * A task's rows run past a part of its panels, which stays in L1, and then past the next; until the last part the sums
 * wait in scratch. While a tile computes it asks for its share of the part that comes next: all at once, by the last
 * tile, they came too late (10 rows, weights in L3: 55 % of the limit, and 78). One thread of a Sapphire Rapids, share of
 * what multiply-adds in registers reach, median, for 128 rows of 384 -> 1536, 128 of 1536 -> 384 and 10 of 384 -> 1536,
 * AVX-512: rows packed in strips, biases after all rows of a column, parts fetched by the last tile 76, 78 and 55 %; as
 * now 88, 92 and 78. With AVX2 91, 90 and 82, and 93, 94 and 85. Not measured on a Zen 3, where with panels of 48 columns
 * rows as they lay ran at 64 to 80 GFLOP/s and rows packed in strips at 77 to 88.
 */
enum {
    linear_row_bytes = 256 * 1024, /* of a task's rows of x, which every part reads again: from L2, but for long ones */
    linear_most_rows = 20 * LINEAR_ROWS,
    linear_least_rows = 8 * LINEAR_ROWS, /* of any size: all panels pass once a task (rows of 4096: 47 to 87 %) */
    linear_part = 12 * 1024,             /* bytes of panels; LINEAR_PART where as many rows as follow share them */
    linear_part_rows = 4 * LINEAR_ROWS,
    linear_few = 3, /* rows with more columns at a time for more chains of sums */
    linear_few_vecs = 4,
    linear_columns = 128,              /* of a task at least: every task reads its rows again */
    linear_cut_rows = 2 * LINEAR_ROWS, /* of a task at least, where rows are cut for want of columns */
    linear_tasks = 4,                  /* for each thread, where there are as many columns */
    linear_panel_vecs = ATTNX_PANEL / f32_width,
    linear_sums_row = linear_few_vecs * f32_width /* the widest tile */
};

/* sums += `depth` inputs of some rows times `vecs` vectors of panels; a fresh sum starts at 0. With the first `fetches`
 * inputs it asks for as many that lie panels.ahead further on. */
ATTNX_INLINE void linear_tile(struct broadcast_f32 x, struct vectors_f32 panels, ptrdiff_t depth, const int fresh,
                              ptrdiff_t fetches, const int rows, const int vecs, float *sums) {
    tile_f32 acc;
    tile_zero_f32(rows, vecs, acc);
    if (!fresh) {
        ATTNX_UNROLL
        for (int r = 0; r < rows; r++) {
            ATTNX_UNROLL
            for (int c = 0; c < vecs; c++) acc[r][c] = f32_load(sums + (r * vecs + c) * f32_width);
        }
    }
    if (fetches && panels.ahead) {
        tile_add_f32(x, panels, fetches, rows, vecs, acc);
        x.at += fetches;
        panels.at += fetches * panels.step;
        depth -= fetches;
    }
    panels.ahead = 0; /* a loop without fetching: known to the compiler */
    tile_add_f32(x, panels, depth, rows, vecs, acc);
    ATTNX_UNROLL
    for (int r = 0; r < rows; r++) {
        ATTNX_UNROLL
        for (int c = 0; c < vecs; c++) f32_store(sums + (r * vecs + c) * f32_width, acc[r][c]);
    }
}

/* Rows of the result, and columns. */
struct linear_share {
    ptrdiff_t first, rows, column, end;
};

/* The end of a tile: bias, activation and residual. Sums go through memory, so that one loop serves every tile; unrolled
 * over the accumulators it was 1,100 instructions a tile shape. Tile by tile, so that stores find time between them. */
static void linear_end(const struct attnx_linear *a, const struct linear_share share, const float *sums,
                       ptrdiff_t sums_row) {
    for (ptrdiff_t column = share.column; column < share.end; column += f32_width, sums += f32_width) {
        const ptrdiff_t left = share.end - column, n = left < f32_width ? left : f32_width;
        const f32_v bias = a->bias ? f32_load_n(a->bias + column, n) : f32_set1(0);
        for (ptrdiff_t r = 0, row = share.first; r < share.rows; r++, row++) {
            f32_v y = activate(f32_add(f32_load(sums + r * sums_row), bias), a->activation);
            if (a->residual) y = f32_add(y, f32_load_n(a->residual + row * a->residual_row + column, n));
            f32_store_n(a->out + row * a->out_row + column, y, n);
        }
    }
}

/* Some rows by `vecs` vectors of columns, whose panels are given. */
ATTNX_INLINE void linear_columns_run(const struct attnx_linear *a, const struct linear_share share, const float *panels,
                                     const int few, const int vecs, float *sums) {
    const ptrdiff_t rows = share.rows, row_bytes = vecs * f32_width * (ptrdiff_t)sizeof *sums;
    const ptrdiff_t fit = (rows < linear_part_rows ? linear_part : LINEAR_PART) / row_bytes;
    const ptrdiff_t parts = (a->in + fit - 1) / fit,
                    most = parts ? (a->in + parts - 1) / parts : 1; /* like each other */
    const ptrdiff_t panels_wide = linear_panel_vecs < vecs ? vecs / linear_panel_vecs : 1;
    const float *x = a->x + share.first * a->x_row;
    struct vectors_f32 part = {panels, ATTNX_PANEL, linear_panel_vecs, a->in * ATTNX_PANEL, 0};
    ptrdiff_t from = 0;
    do { /* once even without inputs: the sums are then 0 */
        const ptrdiff_t depth = a->in - from < most ? a->in - from : most;
        const ptrdiff_t ahead = from + depth < a->in ? depth : panels_wide * a->in - from;
        part.at = panels + from * ATTNX_PANEL;
#define LINEAR_TILE(r, n)                                                                                          \
    do {                                                                                                           \
        const ptrdiff_t begin = few ? 0 : (r) * depth / rows, end = few ? 0 : ((r) + (n)) * depth / rows;          \
        float *to = sums + (r) * vecs * f32_width;                                                                 \
        part.ahead = (ahead + begin) * ATTNX_PANEL;                                                                \
        linear_tile((struct broadcast_f32){x + (r) * a->x_row + from, a->x_row, 1}, part, depth, from == 0,        \
                    end - begin, n, vecs, to);                                                                     \
        if (from + depth < a->in) break;                                                                           \
        linear_end(a, (struct linear_share){share.first + (r), n, share.column, share.end}, to, vecs * f32_width); \
    } while (0)
        ATTNX_TILE_ROWS(rows, few ? 2 : LINEAR_ROWS, LINEAR_TILE);
#undef LINEAR_TILE
        from += most;
    } while (from < a->in);
}

/* At most `most` vectors of columns at a time. */
ATTNX_INLINE void linear_share_run(const struct attnx_linear *a, const struct linear_share share, const int few,
                                   const int most, float *sums) {
    const ptrdiff_t w = f32_width, padded = (share.end + ATTNX_PANEL - 1) / ATTNX_PANEL * ATTNX_PANEL;
    ptrdiff_t column = share.column;
#define LINEAR_COLUMNS(n)                                                                                         \
    do {                                                                                                          \
        const float *panels = a->weight + column / ATTNX_PANEL * ATTNX_PANEL * a->in + column % ATTNX_PANEL;      \
        const ptrdiff_t end = column + (n) * w < share.end ? column + (n) * w : share.end;                        \
        linear_columns_run(a, (struct linear_share){share.first, share.rows, column, end}, panels, few, n, sums); \
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
    const ptrdiff_t most = fit < linear_least_rows  ? linear_least_rows
                           : fit < linear_most_rows ? fit
                                                    : linear_most_rows;
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
    plan->scratch = (size_t)(plan->grain * linear_sums_row) * sizeof *a->x;
}

static void linear_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_linear *a = args;
    const ptrdiff_t blocks = (a->rows + plan->grain - 1) / plan->grain, cuts = plan->tasks / blocks;
    const ptrdiff_t first = task / cuts * plan->grain, cut = task % cuts;
    const ptrdiff_t rows = a->rows - first < plan->grain ? a->rows - first : plan->grain;
    const ptrdiff_t unit = linear_unit(a), units = (a->outs + unit - 1) / unit, end = (cut + 1) * units / cuts * unit;
    const struct linear_share share = {first, rows, cut * units / cuts * unit, end < a->outs ? end : a->outs};
    if (a->rows <= linear_few) linear_share_run(a, share, 1, linear_few_vecs, scratch);
    else linear_share_run(a, share, 0, LINEAR_VECS, scratch);
}
