/* Layer normalisation (Ba, Kiros and Hinton 2016): y = (z - mean) / sqrt(var + eps) * weight + bias, z = x + residual.
 *
 * Two passes over a row that lies in L1, so the variance is that of the centred values and no digits cancel. Sums run in
 * one chain a lane and a fixed tree: relative error about (items / width + 5) * eps.
 */
enum { norm_rows = 16 };

static void layer_norm_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_layer_norm *a = args;
    plan->grain = norm_rows;
    plan->tasks = (a->rows + norm_rows - 1) / norm_rows;
    plan->work = 8.0 / f32_width * (double)a->rows * (double)a->items;
    plan->scratch = 0;
}

static void norm_row(const struct attnx_layer_norm *a, ptrdiff_t row) {
    const ptrdiff_t w = f32_width, n = a->items;
    const float *x = a->x + row * a->x_row, *residual = a->residual ? a->residual + row * a->residual_row : NULL;
    float *out = a->out + row * a->out_row;
    f32_v sum = f32_set1(0), squares = f32_set1(0);
    for (ptrdiff_t j = 0; j < n; j += w) {
        const ptrdiff_t m = n - j < w ? n - j : w;
        f32_v z = f32_load_n(x + j, m);
        if (residual) z = f32_add(z, f32_load_n(residual + j, m));
        f32_store_n(out + j, z, m);
        sum = f32_add(sum, z);
    }
    const f32_v mean = f32_set1(f32_sum(sum) / (float)n);
    for (ptrdiff_t j = 0; j < n; j += w) {
        const ptrdiff_t m = n - j < w ? n - j : w;
        f32_v centred = f32_sub(f32_load_n(out + j, m), mean);
        if (m < w) centred = f32_select(f32_lt(f32_iota(), f32_set1((float)m)), centred, f32_set1(0));
        squares = f32_fma(centred, centred, squares);
    }
    const f32_v scale = f32_set1(1.0f / sqrtf(f32_sum(squares) / (float)n + a->eps));
    for (ptrdiff_t j = 0; j < n; j += w) {
        const ptrdiff_t m = n - j < w ? n - j : w;
        f32_v y = f32_mul(f32_sub(f32_load_n(out + j, m), mean), scale);
        if (a->weight) y = f32_mul(y, f32_load_n(a->weight + j, m));
        if (a->bias) y = f32_add(y, f32_load_n(a->bias + j, m));
        f32_store_n(out + j, y, m);
    }
}

static void layer_norm_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_layer_norm *a = args;
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    (void)scratch;
    for (ptrdiff_t row = task * plan->grain; row < end; row++) norm_row(a, row);
}
