/* Summaries of attention against the whole matrix of weights. */
#include "checks.h"

enum { SUMMARY_BATCH = 2, SUMMARY_HEADS = 4, SUMMARY_GROUP = 2 };

struct summary_call {
    int f64, options; /* 1: causal; 2: lengths; 4: a bool mask; 8: sinks; 16: no value */
    ptrdiff_t query_len, key_len, head_dim, top_k;
    int64_t offsets[SUMMARY_BATCH], query_lengths[SUMMARY_BATCH], key_lengths[SUMMARY_BATCH];
    struct cells query, key, value, sinks;
    uint8_t *mask;
};

static int summary_visible(const struct summary_call *c, ptrdiff_t b, ptrdiff_t i, ptrdiff_t j) {
    if (c->options & 2 && (j >= c->key_lengths[b] || i >= c->query_lengths[b])) return 0;
    if (c->options & 1 && j > i + c->offsets[b]) return 0;
    return !(c->options & 4) || c->mask[i * c->key_len + j];
}

/* The weights of a row, -1 where a key is invisible; returns its log-sum-exp. */
static double summary_truth(const struct summary_call *c, ptrdiff_t b, ptrdiff_t h, ptrdiff_t i, double *weights) {
    const ptrdiff_t L = c->query_len, S = c->key_len, E = c->head_dim;
    const ptrdiff_t kv = b * (SUMMARY_HEADS / SUMMARY_GROUP) + h / SUMMARY_GROUP;
    const int computed = !(c->options & 2) || i < c->query_lengths[b];
    double sum = c->options & 8 && computed ? exp(get(&c->sinks, h)) : 0;
    for (ptrdiff_t j = 0; j < S; j++) {
        double score = 0;
        weights[j] = -1;
        if (!summary_visible(c, b, i, j)) continue;
        for (ptrdiff_t e = 0; e < E; e++)
            score += get(&c->query, ((b * SUMMARY_HEADS + h) * L + i) * E + e) * get(&c->key, (kv * S + j) * E + e);
        weights[j] = exp(score / sqrt((double)E));
        sum += weights[j];
    }
    for (ptrdiff_t j = 0; j < S; j++) weights[j] = weights[j] < 0 ? -1 : weights[j] / sum;
    return sum > 0 ? log(sum) : -INFINITY;
}

static void summary_fill(struct summary_call *c) {
    static const enum attnx_storage storages[] = {ATTNX_F32, ATTNX_F16, ATTNX_F32, ATTNX_BF16};
    const enum attnx_storage real = c->f64 ? ATTNX_F64 : ATTNX_F32, stored = c->f64 ? real : storages[c->key_len % 4];
    const ptrdiff_t kv_heads = SUMMARY_HEADS / SUMMARY_GROUP, keys = SUMMARY_BATCH * kv_heads * c->key_len;
    c->offsets[0] = c->key_len - c->query_len, c->offsets[1] = -1;
    c->query_lengths[0] = c->query_len, c->query_lengths[1] = c->query_len / 2;
    c->key_lengths[0] = c->key_len - c->key_len / 3, c->key_lengths[1] = c->key_len;
    c->query = make(real, SUMMARY_BATCH * SUMMARY_HEADS * c->query_len * c->head_dim);
    c->key = make(stored, keys * c->head_dim);
    c->value = make(stored, keys * c->head_dim);
    c->sinks = make(real, SUMMARY_HEADS);
    c->mask = allocate((size_t)(c->query_len * c->key_len));
    for (ptrdiff_t i = 0; i < c->query_len * c->key_len; i++) c->mask[i] = random_number() > -0.3;
    for (ptrdiff_t n = 0; n < c->key.count; n++) {
        const ptrdiff_t j = n / c->head_dim % c->key_len;
        const int past = c->options & 2 && n < kv_heads * c->key_len * c->head_dim && j >= c->key_lengths[0];
        if (past) put(&c->key, n, NAN), put(&c->value, n, NAN);
    }
}

/* The largest weights of a row: keys that are visible and not there before, each as large as the largest one left. */
static void summary_check_top(const struct summary_call *c, double *weights, const int64_t *keys,
                              const struct cells *tops, ptrdiff_t at, double unit) {
    for (ptrdiff_t n = 0; n < c->top_k; n++) {
        double most = -1;
        for (ptrdiff_t j = 0; j < c->key_len; j++) most = weights[j] > most ? weights[j] : most;
        expect("top weight", get(tops, at + n), most < 0 ? 0 : most, most < 0 ? 0 : unit);
        expect("top key", keys[n] >= 0, most >= 0, 0);
        if (keys[n] < 0 || keys[n] >= c->key_len) continue;
        expect("weight of a top key", weights[keys[n]], most, unit);
        weights[keys[n]] = -1;
    }
}

/* Where the results are. Those of the first kernel stand in one block, so that all their bits are compared: keys, top
 * weights, entropy, rest, lse, output. */
struct summary_results {
    struct cells all, tops, entropy, rest, lse, out, received;
};

static struct cells summary_part(const struct cells *all, ptrdiff_t *first, ptrdiff_t count) {
    const struct cells part = {all->storage, count, (char *)all->data + (size_t)*first * cell_bytes[all->storage]};
    *first += count;
    return part;
}

static struct summary_results summary_results_of(const struct summary_call *c, ptrdiff_t value_dim) {
    const ptrdiff_t rows = SUMMARY_BATCH * SUMMARY_HEADS * c->query_len;
    const enum attnx_storage real = c->f64 ? ATTNX_F64 : ATTNX_F32;
    ptrdiff_t at = rows * c->top_k * (ptrdiff_t)(sizeof(int64_t) / cell_bytes[real]);
    struct summary_results y = {.all = make(real, at + rows * (c->top_k + 3 + value_dim))};
    y.tops = summary_part(&y.all, &at, rows * c->top_k);
    y.entropy = summary_part(&y.all, &at, rows);
    y.rest = summary_part(&y.all, &at, rows);
    y.lse = summary_part(&y.all, &at, rows);
    y.out = summary_part(&y.all, &at, rows * value_dim);
    y.received = make(real, SUMMARY_BATCH * SUMMARY_HEADS * c->key_len);
    return y;
}

static void summary_run(const struct summary_call *c, const struct summary_results *y, ptrdiff_t D) {
    const ptrdiff_t L = c->query_len, S = c->key_len, E = c->head_dim, kv_heads = SUMMARY_HEADS / SUMMARY_GROUP;
    const ptrdiff_t shape[] = {SUMMARY_BATCH}, none[] = {0}, q_batch[] = {SUMMARY_HEADS * L * E};
    const ptrdiff_t k_batch[] = {kv_heads * S * E}, o_batch[] = {SUMMARY_HEADS * L * D},
                    l_batch[] = {SUMMARY_HEADS * L};
    const enum attnx_storage real = c->f64 ? ATTNX_F64 : ATTNX_F32;
    struct attnx_summary args = {
        .attention = {.query = {c->query.data, q_batch, L * E, E, 1, real},
                      .key = {c->key.data, k_batch, S * E, E, 1, c->key.storage},
                      .value = {c->value.data, k_batch, S * E, E, 1, c->value.storage},
                      .out = {y->out.data, o_batch, L * D, D, 1, real},
                      .lse = {y->lse.data, l_batch, L, 1, 0, real},
                      .heads = SUMMARY_HEADS,
                      .group = SUMMARY_GROUP,
                      .query_len = L,
                      .key_len = S,
                      .head_dim = E,
                      .value_dim = D,
                      .batch = SUMMARY_BATCH,
                      .batch_axes = 1,
                      .batch_shape = shape,
                      .query_offsets = c->offsets,
                      .scale = 1 / sqrt((double)E),
                      .window_left = -1,
                      .window_right = c->options & 1 ? 0 : -1},
        .entropy = y->entropy.data,
        .rest = y->rest.data,
        .top_k = c->top_k,
        .top_weights = y->tops.data,
        .top_keys = y->all.data,
        .received = y->received.data,
    };
    if (c->options & 2) args.attention.query_lengths = c->query_lengths, args.attention.key_lengths = c->key_lengths;
    if (c->options & 4) args.attention.mask = (struct attnx_array){c->mask, none, 0, S, 1, ATTNX_BOOL};
    if (c->options & 8) args.attention.sinks = c->sinks.data;
    run("summary", c->f64 ? ATTNX_summary_f64 : ATTNX_summary_f32, &args, &y->all);
    run("received", c->f64 ? ATTNX_received_f64 : ATTNX_received_f32, &args, &y->received);
}

static void test_summary(struct summary_call c) {
    const ptrdiff_t L = c.query_len, S = c.key_len, D = c.options & 16 ? 0 : c.head_dim, k = c.top_k;
    const double unit = c.f64 ? 1e-14 : 4e-6;
    summary_fill(&c);
    struct summary_results y = summary_results_of(&c, D);
    summary_run(&c, &y, D);
    double *weights = allocate((size_t)S * sizeof *weights), *gets = allocate((size_t)S * sizeof *gets);
    for (ptrdiff_t row = 0; row < SUMMARY_BATCH * SUMMARY_HEADS * L; row++) {
        const ptrdiff_t b = row / (SUMMARY_HEADS * L), h = row / L % SUMMARY_HEADS, i = row % L;
        const ptrdiff_t kv = b * (SUMMARY_HEADS / SUMMARY_GROUP) + h / SUMMARY_GROUP;
        const double truth = summary_truth(&c, b, h, i, weights);
        double spread = 0;
        for (ptrdiff_t j = 0; j < S; j++) {
            if (i == 0) gets[j] = 0;
            if (weights[j] < 0) continue;
            gets[j] += weights[j];
            spread -= weights[j] * log(weights[j]);
        }
        expect("lse", get(&y.lse, row), truth, unit * (1 + fabs(truth)));
        expect("entropy", get(&y.entropy, row), spread, 2 * unit * (1 + log((double)S + 1)));
        for (ptrdiff_t j = 0; i == L - 1 && j < S; j++)
            expect("received", get(&y.received, row / L * S + j), gets[j], unit * (1 + gets[j]));
        for (ptrdiff_t d = 0; d < D; d++) {
            double wanted = 0;
            for (ptrdiff_t j = 0; j < S; j++)
                if (weights[j] > 0) wanted += weights[j] * get(&c.value, (kv * S + j) * D + d);
            expect("output", get(&y.out, row * D + d), wanted, unit);
        }
        summary_check_top(&c, weights, (const int64_t *)y.all.data + row * k, &y.tops, row * k, unit);
    }
    free(weights), free(gets), free(y.all.data), free(y.received.data);
    free(c.query.data), free(c.key.data), free(c.value.data), free(c.sinks.data), free(c.mask);
}

static void test_summaries(int f64) {
    static const ptrdiff_t queries[] = {1, 2, 3, 5, 8, 9, 16, 17, 33, 49};
    static const ptrdiff_t keys[] = {0, 1, 2, 3, 5, 8, 17, 33, 127, 128, 129, 300}, dims[] = {1, 3, 8, 17, 40, 64};
    static const ptrdiff_t tops[] = {1, 0, 3, 16, 200};
    int options = f64;
    for (ptrdiff_t q = 0; q < COUNT(queries); q++)
        for (ptrdiff_t k = 0; k < COUNT(keys); k += stride, options += 5)
            test_summary((struct summary_call){.f64 = f64,
                                               .options = options % 32,
                                               .query_len = queries[q],
                                               .key_len = keys[k],
                                               .head_dim = dims[(q * 5 + k) % COUNT(dims)],
                                               .top_k = tops[(q + k) % COUNT(tops)]});
}
