/* Lists of calls against the same calls one by one, and what appends to a cache. */

static void test_append(ptrdiff_t items) {
    enum { BATCH = 37, GROUPS = 3, CAPACITY = 4, GAP = 2 };
    int64_t lengths[BATCH];
    const ptrdiff_t wide = items + GAP, entry = GROUPS * CAPACITY * wide;
    struct cells rows = make(ATTNX_F32, BATCH * GROUPS * wide), cache = make(ATTNX_F32, BATCH * entry);
    struct cells before = make(ATTNX_F32, cache.count);
    memcpy(before.data, cache.data, (size_t)cache.count * sizeof(float));
    for (ptrdiff_t b = 0; b < BATCH; b++) lengths[b] = 1 + b % CAPACITY;
    struct attnx_append args = {.rows = rows.data, .cache = cache.data, .lengths = lengths, .items = items};
    args.batch = BATCH, args.heads = GROUPS, args.rows_batch = GROUPS * wide, args.rows_head = wide;
    args.cache_batch = entry, args.cache_head = CAPACITY * wide, args.cache_row = wide;
    expect("append", (double)attnx_run(ATTNX_append_f32, &args, 2), ATTNX_OK, 0);
    for (ptrdiff_t i = 0; i < cache.count; i++) {
        const ptrdiff_t b = i / entry, h = i / (CAPACITY * wide) % GROUPS, row = i / wide % CAPACITY, item = i % wide;
        const int written = row == lengths[b] - 1 && item < items;
        expect("append", get(&cache, i), written ? get(&rows, (b * GROUPS + h) * wide + item) : get(&before, i), 0);
    }
    free(rows.data), free(cache.data), free(before.data);
}

/* Two linear maps, the second of what the first leaves, for parts of the rows; the last part does the first map twice. */
static void test_calls(ptrdiff_t rows, int parts, int num_threads) {
    enum { WIDE = 32, MOST = 4 };
    struct cells x = make(ATTNX_F32, rows * WIDE), weight = make(ATTNX_F32, WIDE * WIDE);
    struct cells middle = make(ATTNX_F32, rows * WIDE), out = make(ATTNX_F32, rows * WIDE);
    struct cells once = make(ATTNX_F32, rows * WIDE);
    struct attnx_linear all = {.x = x.data, .weight = weight.data, .out = middle.data, .in = WIDE, .outs = WIDE};
    all.x_row = all.out_row = WIDE, all.rows = rows;
    struct attnx_linear args[3 * MOST];
    struct attnx_call calls[3 * MOST];
    ptrdiff_t count = 0, starts[MOST];
    for (int part = 0; part < parts; part++) {
        const ptrdiff_t first = rows * part / parts, end = rows * (part + 1) / parts;
        starts[part] = count;
        for (int i = part + 1 < parts ? 1 : 0; i < 3; i++) {
            struct attnx_linear *a = &args[count];
            *a = all;
            a->x = (i == 2 ? (float *)middle.data : (float *)x.data) + first * WIDE;
            a->out = (i == 2 ? (float *)out.data : (float *)middle.data) + first * WIDE;
            a->rows = end - first;
            calls[count++] = (struct attnx_call){ATTNX_linear_f32, a};
        }
    }
    expect("calls", (double)attnx_run_calls(calls, count, starts, parts, num_threads), ATTNX_OK, 0);
    expect("calls", (double)attnx_run(ATTNX_linear_f32, &all, 1), ATTNX_OK, 0);
    all.x = middle.data, all.out = once.data;
    expect("calls", (double)attnx_run(ATTNX_linear_f32, &all, 1), ATTNX_OK, 0);
    for (ptrdiff_t i = 0; i < out.count; i++) expect("calls", get(&out, i), get(&once, i), 0);
    free(x.data), free(weight.data), free(middle.data), free(out.data), free(once.data);
}

static void test_lists(void) {
    static const ptrdiff_t items[] = {1, 7, 24, 65};
    for (ptrdiff_t n = 0; n < COUNT(items); n++) test_append(items[n]);
    for (int parts = 1; parts < 5; parts++)
        for (int threads = 1; threads < 4; threads++) test_calls(41, parts, threads);
    expect("no calls", (double)attnx_run_calls(NULL, 0, NULL, 0, 2), ATTNX_OK, 0);
}
