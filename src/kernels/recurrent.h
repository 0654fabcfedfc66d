/* What a recurrent layer does at a step after its two linear maps x = W_i input + b_i and h = W_h state + b_h: one pass
 * over the gates of a row, in PyTorch's order.
 *
 * GRU (Cho et al. 2014, with the reset gate after the matrix, as in cuDNN and PyTorch), gates r, z, n:
 *   n = tanh(x_n + sigmoid(x_r + h_r) * h_n),   state' = n + sigmoid(x_z + h_z) * (state - n)
 * LSTM (Hochreiter and Schmidhuber 1997, Gers et al. 2000), gates i, f, g, o of x + h:
 *   cell' = sigmoid(f) * cell + sigmoid(i) * tanh(g),   state' = sigmoid(o) * tanh(cell')
 *
 * sigmoid(x) = 1/2 + tanh(x / 2) / 2: no exponential of its own and no overflow, error at most 2 eps of 1. A gate near 0
 * has that as its absolute error, which is what the state sees. Rows do not know of each other.
 */
enum { recurrent_rows = 8 }; /* of a task */

static void recurrent_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_recurrent *a = args;
    plan->grain = recurrent_rows;
    plan->tasks = (a->rows + recurrent_rows - 1) / recurrent_rows;
    plan->work = (a->cell ? 150.0 : 90.0) / f32_width * (double)a->rows * (double)a->hidden;
    plan->scratch = 0;
}

ATTNX_INLINE f32_v sigmoid(f32_v x) {
    const f32_v half = f32_set1(0.5f);
    return f32_fma(tanh_f32(f32_mul(x, half)), half, half);
}

/* n units of a gate; everywhere below n is a compile-time width but for the last units of a row. */
ATTNX_INLINE f32_v gate_sum(const float *x, const float *h, ptrdiff_t at, ptrdiff_t n) {
    return f32_add(norm_load(x + at, n), norm_load(h + at, n));
}

ATTNX_INLINE void gru_units(const struct attnx_recurrent *a, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n) {
    const float *x = a->x + row * a->x_row + j, *h = a->h + row * a->h_row + j;
    const ptrdiff_t at = row * a->hidden + j, hidden = a->hidden;
    const f32_v reset = sigmoid(gate_sum(x, h, 0, n)), update = sigmoid(gate_sum(x, h, hidden, n));
    const f32_v inner = f32_fma(reset, norm_load(h + 2 * hidden, n), norm_load(x + 2 * hidden, n));
    const f32_v candidate = tanh_f32(inner);
    const f32_v state = f32_fma(update, f32_sub(norm_load(a->state + at, n), candidate), candidate);
    norm_store(a->next_state + at, state, n);
    norm_store(a->out + row * a->out_row + j, state, n);
}

ATTNX_INLINE void lstm_units(const struct attnx_recurrent *a, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n) {
    const float *x = a->x + row * a->x_row + j, *h = a->h + row * a->h_row + j;
    const ptrdiff_t at = row * a->hidden + j, hidden = a->hidden;
    const f32_v input = sigmoid(gate_sum(x, h, 0, n)), forget = sigmoid(gate_sum(x, h, hidden, n));
    const f32_v candidate = tanh_f32(gate_sum(x, h, 2 * hidden, n));
    const f32_v cell = f32_fma(forget, norm_load(a->cell + at, n), f32_mul(input, candidate));
    norm_store(a->next_cell + at, cell, n);
    const f32_v state = f32_mul(sigmoid(gate_sum(x, h, 3 * hidden, n)), tanh_f32(cell));
    norm_store(a->next_state + at, state, n);
    norm_store(a->out + row * a->out_row + j, state, n);
}

ATTNX_INLINE void recurrent_units(const struct attnx_recurrent *a, ptrdiff_t row, ptrdiff_t j, ptrdiff_t n) {
    if (a->cell) lstm_units(a, row, j, n);
    else gru_units(a, row, j, n);
}

static void recurrent_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_recurrent *a = args;
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    (void)scratch;
    for (ptrdiff_t row = task * plan->grain; row < end; row++) {
        ptrdiff_t j = 0;
        for (; j + f32_width <= a->hidden; j += f32_width) recurrent_units(a, row, j, f32_width);
        if (j < a->hidden) recurrent_units(a, row, j, a->hidden - j);
    }
}
