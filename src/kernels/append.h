/* New rows of keys or values behind those that a cache holds. */
enum { append_entries = 16 /* of a task */ };

static void append_plan_f32(const void *args, struct attnx_plan *plan) {
    const struct attnx_append *a = args;
    plan->tasks = (a->batch + append_entries - 1) / append_entries;
    plan->work = (double)a->batch * (double)a->heads * (double)a->items / f32_width;
    plan->scratch = 0;
}

static void append_run_f32(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_append *a = args;
    const ptrdiff_t first = task * append_entries, left = a->batch - first;
    (void)plan, (void)scratch;
    for (ptrdiff_t b = first; b < first + (left < append_entries ? left : append_entries); b++) {
        float *to = a->cache + b * a->cache_batch + ((ptrdiff_t)a->lengths[b] - 1) * a->cache_row;
        for (ptrdiff_t h = 0; h < a->heads; h++)
            memcpy(to + h * a->cache_head, a->rows + b * a->rows_batch + h * a->rows_head,
                   (size_t)a->items * sizeof *to);
    }
}
