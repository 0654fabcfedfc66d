/* What a recurrent layer does at a step after its two linear maps x = W_i input + b_i and h = W_h state + b_h: one pass
 * over the gates of a row, in PyTorch's order.
 *
 * GRU (Cho et al. 2014, with the reset gate after the matrix, as in cuDNN and PyTorch), gates r, z, n:
 *   n = tanh(x_n + sigmoid(x_r + h_r) * h_n),   state' = n + sigmoid(x_z + h_z) * (state - n)
 * LSTM (Hochreiter and Schmidhuber 1997, Gers et al. 2000), gates i, f, g, o of x + h:
 *   cell' = sigmoid(f) * cell + sigmoid(i) * tanh(g),   state' = sigmoid(o) * tanh(cell')
 *
 * sigmoid(x) = 1 / (1 + e^-x), with e^-|x| above the line where x < 0: no overflow, a few ULP of the result, which is 0
 * where e^x is no normal number. Rows do not know of each other.
 */
enum { recurrent_rows = 8 }; /* of a task */

static void recurrent_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_recurrent *a = args;
    plan->grain = recurrent_rows;
    plan->tasks = (a->rows + recurrent_rows - 1) / recurrent_rows;
    plan->work = (a->cell ? 150.0 : 90.0) / f32_width * (double)a->rows * (double)a->hidden;
    plan->scratch = 0;
}

/* Vectors of units at a time, whose exps then do not wait for each other; more spill. A GRU step of 64 x 192, of which the
 * matrix takes 165 us on one thread of a Zen 3: 193 us, with one at a time and sigmoids by tanh 233. */
enum { recurrent_side = 2 };
_Static_assert(recurrent_side <= EXP_MOST, "groups of exps");

ATTNX_INLINE void sigmoids(f32_v *x, const int side) {
    const f32_v zero = f32_set1(0), one = f32_set1(1);
    f32_v t[recurrent_side];
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) t[i] = f32_sub(zero, f32_abs(x[i]));
    exps_f32(t, side);
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) x[i] = f32_div(f32_select(f32_lt(x[i], zero), t[i], one), f32_add(one, t[i]));
}

/* Sums of a gate; everywhere below n is a compile-time width but for the last units of a row. */
ATTNX_INLINE void gate_sums(const float *x, const float *h, ptrdiff_t n, const int side, f32_v *gate) {
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) gate[i] = f32_add(norm_load(x + i * f32_width, n), norm_load(h + i * f32_width, n));
}

ATTNX_INLINE void gru_units(const struct attnx_recurrent *a, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n, const int side) {
    const float *x = a->x + row * a->x_row + j, *h = a->h + row * a->h_row + j;
    const ptrdiff_t hidden = a->hidden;
    f32_v reset[recurrent_side], update[recurrent_side], candidate[recurrent_side];
    gate_sums(x, h, n, side, reset);
    gate_sums(x + hidden, h + hidden, n, side, update);
    sigmoids(reset, side);
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) {
        const ptrdiff_t at = 2 * hidden + i * f32_width;
        candidate[i] = f32_fma(reset[i], norm_load(h + at, n), norm_load(x + at, n));
    }
    sigmoids(update, side);
    tanhs_f32(candidate, side);
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) {
        const ptrdiff_t unit = j + i * f32_width, at = row * hidden + unit;
        const f32_v state = f32_fma(update[i], f32_sub(norm_load(a->state + at, n), candidate[i]), candidate[i]);
        norm_store(a->next_state + at, state, n);
        norm_store(a->out + row * a->out_row + unit, state, n);
    }
}

ATTNX_INLINE void lstm_units(const struct attnx_recurrent *a, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n, const int side) {
    const float *x = a->x + row * a->x_row + j, *h = a->h + row * a->h_row + j;
    const ptrdiff_t hidden = a->hidden;
    f32_v input[recurrent_side], forget[recurrent_side], candidate[recurrent_side], output[recurrent_side];
    f32_v cell[recurrent_side];
    gate_sums(x, h, n, side, input);
    gate_sums(x + hidden, h + hidden, n, side, forget);
    gate_sums(x + 2 * hidden, h + 2 * hidden, n, side, candidate);
    gate_sums(x + 3 * hidden, h + 3 * hidden, n, side, output);
    sigmoids(input, side);
    sigmoids(forget, side);
    tanhs_f32(candidate, side);
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) {
        const ptrdiff_t at = row * hidden + j + i * f32_width;
        cell[i] = f32_fma(forget[i], norm_load(a->cell + at, n), f32_mul(input[i], candidate[i]));
        norm_store(a->next_cell + at, cell[i], n);
    }
    sigmoids(output, side);
    tanhs_f32(cell, side);
    ATTNX_UNROLL
    for (int i = 0; i < side; i++) {
        const ptrdiff_t unit = j + i * f32_width;
        const f32_v state = f32_mul(output[i], cell[i]);
        norm_store(a->next_state + row * hidden + unit, state, n);
        norm_store(a->out + row * a->out_row + unit, state, n);
    }
}

ATTNX_INLINE void recurrent_units(const struct attnx_recurrent *a, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n,
                                  const int side) {
    if (a->cell) lstm_units(a, row, j, n, side);
    else gru_units(a, row, j, n, side);
}

static void recurrent_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_recurrent *a = args;
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    (void)scratch;
    for (ptrdiff_t row = task * plan->grain; row < end; row++) {
        ptrdiff_t j = 0;
        for (; j + recurrent_side * f32_width <= a->hidden; j += recurrent_side * f32_width)
            recurrent_units(a, row, j, f32_width, recurrent_side);
        for (; j + f32_width <= a->hidden; j += f32_width) recurrent_units(a, row, j, f32_width, 1);
        if (j < a->hidden) recurrent_units(a, row, j, a->hidden - j, 1);
    }
}

/* All steps of one direction on the thread that this is: two directions then need not wait for each other's steps. */
static void recurrent_steps_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_recurrent_steps *a = args;
    struct attnx_linear maps = a->maps;
    plan->scratch = 0;
    for (ptrdiff_t i = 0; i < a->steps; i++) { /* fewer rows may want more of it */
        struct attnx_plan step = {.tasks = 1};
        maps.rows = a->counts[i];
        linear_plan_f32(&maps, &step);
        if (step.scratch > plan->scratch) plan->scratch = step.scratch;
    }
    plan->tasks = 1;
    plan->work = (double)a->rows * (double)maps.in * (double)maps.outs / f32_width;
}

static void recurrent_steps_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_recurrent_steps *a = args;
    ptrdiff_t row = a->backwards ? a->rows : 0;
    (void)plan, (void)task;
    for (ptrdiff_t i = 0; i < a->steps; i++) {
        struct attnx_linear maps;
        struct attnx_recurrent step;
        struct attnx_plan cut = {.tasks = 1};
        attnx_step_at(a, i, &row, &maps, &step);
        linear_plan_f32(&maps, &cut);
        for (ptrdiff_t t = 0; t < cut.tasks; t++) linear_run_f32(&maps, &cut, t, scratch);
        recurrent_plan_f32(&step, &cut);
        for (ptrdiff_t t = 0; t < cut.tasks; t++) recurrent_run_f32(&step, &cut, t, scratch);
    }
}
