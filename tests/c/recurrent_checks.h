/* Steps of GRU and LSTM against their definition: every unit of a row, nothing behind it. */
#include "checks.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void recurrent_row(const struct attnx_recurrent *a, ptrdiff_t row, const char *what) {
    const float *x = a->x + row * a->x_row, *h = a->h + row * a->h_row, *out = a->out + row * a->out_row;
    const ptrdiff_t n = a->hidden;
    for (ptrdiff_t j = 0; j < n; j++) {
        const ptrdiff_t at = row * n + j;
        double state = (double)a->state[at], sum[4] = {0};
        for (int gate = 0; gate < (a->cell ? 4 : 3); gate++)
            sum[gate] = (double)x[gate * n + j] + (double)h[gate * n + j];
        if (a->cell) {
            const double cell = sigmoid(sum[1]) * (double)a->cell[at] + sigmoid(sum[0]) * tanh(sum[2]);
            expect(what, (double)a->next_cell[at], cell, 2e-6 * (1 + fabs((double)a->cell[at])));
            state = sigmoid(sum[3]) * tanh(cell);
        } else {
            const double inner = (double)x[2 * n + j] + sigmoid(sum[0]) * (double)h[2 * n + j];
            state = tanh(inner) + sigmoid(sum[1]) * (state - tanh(inner));
        }
        expect(what, (double)a->next_state[at], state, 2e-6 * (1 + fabs((double)a->state[at])));
        expect(what, (double)out[j], (double)a->next_state[at], 0);
    }
}

static void test_recurrent(ptrdiff_t rows, ptrdiff_t hidden, int lstm) {
    const ptrdiff_t wide = (lstm ? 4 : 3) * hidden, room = 3; /* floats that nothing may touch, behind each row */
    struct cells x = make(ATTNX_F32, rows * (wide + room)), h = make(ATTNX_F32, rows * wide),
                 state = make(ATTNX_F32, rows * hidden);
    struct cells cell = make(ATTNX_F32, rows * hidden), out = make(ATTNX_F32, rows * (hidden + room));
    struct cells next_state = make(ATTNX_F32, rows * hidden), next_cell = make(ATTNX_F32, rows * hidden);
    for (ptrdiff_t i = 0; i < x.count; i++) put(&x, i, 3 * get(&x, i));
    const struct attnx_recurrent args = {
        .x = x.data,
        .h = h.data,
        .state = state.data,
        .cell = lstm ? cell.data : NULL,
        .next_state = next_state.data,
        .next_cell = next_cell.data,
        .out = out.data,
        .rows = rows,
        .hidden = hidden,
        .x_row = wide + room,
        .h_row = wide,
        .out_row = hidden + room,
    };
    run(lstm ? "lstm" : "gru", ATTNX_recurrent_f32, &args, &out);
    for (ptrdiff_t row = 0; row < rows; row++) {
        recurrent_row(&args, row, lstm ? "lstm" : "gru");
        for (ptrdiff_t i = 0; i < room; i++)
            expect("past a row", get(&out, row * (hidden + room) + hidden + i), NAN, 0);
    }
    free(x.data), free(h.data), free(state.data), free(cell.data), free(out.data);
    free(next_state.data), free(next_cell.data);
}

/* A ragged batch of GRU steps in one call, or in one kernel, forwards and backwards, against the same steps one by one. */
static void test_recurrent_steps(ptrdiff_t hidden, int backwards, int alone) {
    static const int64_t counts[] = {5, 5, 3, 1};
    enum { STEPS = 4, ROWS = 5, TOTAL = 14 };
    const ptrdiff_t wide = 3 * hidden, padded = (wide + ATTNX_PANEL - 1) / ATTNX_PANEL * ATTNX_PANEL;
    struct cells x = make(ATTNX_F32, TOTAL * wide), weight = make(ATTNX_F32, padded * hidden),
                 first = make(ATTNX_F32, ROWS * hidden), state = make(ATTNX_F32, ROWS * hidden);
    struct cells gates = make(ATTNX_F32, ROWS * wide), out = make(ATTNX_F32, TOTAL * hidden);
    struct attnx_recurrent_steps args = {.counts = counts, .steps = STEPS, .rows = TOTAL, .backwards = backwards};
    args.maps = (struct attnx_linear){.x = state.data, .weight = weight.data, .out = gates.data, .in = hidden};
    args.maps.outs = args.maps.out_row = wide, args.maps.x_row = hidden;
    args.step = (struct attnx_recurrent){.x = x.data, .h = gates.data, .state = state.data, .out = out.data};
    args.step.next_state = state.data, args.step.hidden = args.step.out_row = hidden;
    args.step.x_row = args.step.h_row = wide;
    memcpy(state.data, first.data, (size_t)state.count * sizeof(float));
    if (alone) expect("steps", (double)attnx_run(ATTNX_recurrent_steps_f32, &args, 1), ATTNX_OK, 0);
    else expect("steps", (double)attnx_run_steps(&args, 3), ATTNX_OK, 0);
    struct cells steps = make(ATTNX_F32, out.count), last = make(ATTNX_F32, state.count);
    memcpy(steps.data, out.data, (size_t)out.count * sizeof(float));
    memcpy(last.data, state.data, (size_t)state.count * sizeof(float));
    memcpy(state.data, first.data, (size_t)state.count * sizeof(float));
    for (ptrdiff_t i = 0; i < STEPS; i++) {
        const ptrdiff_t s = backwards ? STEPS - 1 - i : i, row = s == 0 ? 0 : s == 1 ? 5 : s == 2 ? 10 : 13;
        struct attnx_linear maps = args.maps;
        struct attnx_recurrent step = args.step;
        maps.rows = step.rows = counts[s];
        step.x += row * wide, step.out += row * hidden;
        expect("steps", (double)attnx_run(ATTNX_linear_f32, &maps, 1), ATTNX_OK, 0);
        expect("steps", (double)attnx_run(ATTNX_recurrent_f32, &step, 1), ATTNX_OK, 0);
    }
    for (ptrdiff_t i = 0; i < out.count; i++) expect("steps", get(&steps, i), get(&out, i), 0);
    for (ptrdiff_t i = 0; i < state.count; i++) expect("steps", get(&last, i), get(&state, i), 0);
    free(x.data), free(weight.data), free(first.data), free(state.data), free(gates.data), free(out.data);
    free(steps.data), free(last.data);
}
