/* Additive attention against its definition. */
#include "checks.h"

struct additive_call {
    ptrdiff_t query_len, key_len, units, value_dim;
    enum attnx_storage query, stored; /* of the queries and the result, of keys and values */
    int options; /* 1: lengths; 2, 4: a bool, a float mask; 8: numbers of every size; 16: small ones */
    struct cells q, k, v, w, mask;
    uint8_t *mask_bytes;
    int64_t lengths[2];
};

enum { ADDITIVE_BATCH = 2 };

static int additive_visible(const struct additive_call *c, ptrdiff_t b, ptrdiff_t i, ptrdiff_t j) {
    if (c->options & 1 && j >= c->lengths[b]) return 0;
    if (c->options & 2) return c->mask_bytes[i * c->key_len + j];
    return !(c->options & 4) || get(&c->mask, i * c->key_len + j) > -INFINITY;
}

/* The weights of a row, by the definition; returns whether it sees anything. */
static int additive_truth(const struct additive_call *c, ptrdiff_t b, ptrdiff_t i, double *weights) {
    double most = -INFINITY, sum = 0;
    for (ptrdiff_t j = 0; j < c->key_len; j++) {
        weights[j] = -INFINITY;
        if (!additive_visible(c, b, i, j)) continue;
        weights[j] = c->options & 4 ? get(&c->mask, i * c->key_len + j) : 0;
        for (ptrdiff_t u = 0; u < c->units; u++)
            weights[j] += get(&c->w, u) * tanh(get(&c->q, (b * c->query_len + i) * c->units + u) +
                                               get(&c->k, (b * c->key_len + j) * c->units + u));
        if (weights[j] > most) most = weights[j];
    }
    for (ptrdiff_t j = 0; j < c->key_len; j++) {
        weights[j] = weights[j] > -INFINITY ? exp(weights[j] - most) : 0;
        sum += weights[j];
    }
    for (ptrdiff_t j = 0; j < c->key_len; j++) weights[j] = sum > 0 ? weights[j] / sum : 0;
    return sum > 0;
}

static void additive_fill(struct additive_call *c) {
    const int f64 = c->query == ATTNX_F64;
    const double size = c->options & 16 ? 0.01 : 1;
    c->q = make(c->query, ADDITIVE_BATCH * c->query_len * c->units);
    c->k = make(c->stored, ADDITIVE_BATCH * c->key_len * c->units);
    c->v = make(c->stored, ADDITIVE_BATCH * c->key_len * c->value_dim);
    c->w = make(f64 ? ATTNX_F64 : ATTNX_F32, c->units);
    c->mask = make(f64 ? ATTNX_F64 : ATTNX_F32, c->query_len * c->key_len);
    c->mask_bytes = allocate((size_t)(c->query_len * c->key_len));
    c->lengths[0] = c->key_len - c->key_len / 3, c->lengths[1] = c->key_len;
    for (ptrdiff_t u = 0; u < c->units; u++) put(&c->w, u, get(&c->w, u) / sqrt((double)c->units));
    for (ptrdiff_t n = 0; n < c->q.count; n++)
        put(&c->q, n, get(&c->q, n) * (c->options & 8 && n % 7 == 0 ? 30 : size));
    for (ptrdiff_t n = 0; n < c->k.count; n++)
        put(&c->k, n, get(&c->k, n) * (c->options & 8 && n % 5 == 0 ? 30 : size));
    for (ptrdiff_t n = 0; n < c->mask.count; n++) {
        c->mask_bytes[n] = n / (c->key_len + !c->key_len) != 1 && random_number() > -0.3; /* row 1 sees nothing */
        if (!c->mask_bytes[n]) put(&c->mask, n, -INFINITY);
    }
    for (ptrdiff_t n = 0; c->options & 1 && n < c->key_len * c->units; n++)
        if (n / c->units >= c->lengths[0]) put(&c->k, n, NAN);
    for (ptrdiff_t n = 0; n < c->v.count; n++) {
        const ptrdiff_t j = n / c->value_dim % c->key_len;
        const int past = c->options & 1 && n < c->key_len * c->value_dim && j >= c->lengths[0];
        if (past || (c->options & 2 && j == c->key_len / 2)) put(&c->v, n, NAN); /* some queries see the second */
    }
}

/* The same call on keys that were prepared before must give the same bits. */
static void test_additive_prepared(const struct additive_call *c, struct attnx_additive args, const struct cells *out) {
    const enum attnx_storage real = c->query;
    const ptrdiff_t row = (c->units + ATTNX_UNITS - 1) / ATTNX_UNITS * ATTNX_UNITS, batch[] = {c->key_len * row};
    const size_t bytes = (size_t)out->count * cell_bytes[real];
    struct cells powers = make(real, ADDITIVE_BATCH * c->key_len * row);
    const struct attnx_additive_powers prepare = {c->k.data, powers.data, ADDITIVE_BATCH * c->key_len,
                                                  c->units,  c->units,    row};
    void *first = allocate(bytes);
    memcpy(first, out->data, bytes);
    run("additive_powers", real == ATTNX_F64 ? ATTNX_additive_powers_f64 : ATTNX_additive_powers_f32, &prepare,
        &powers);
    args.powers = (struct attnx_array){powers.data, batch, 0, row, 1, real};
    run("additive", real == ATTNX_F64 ? ATTNX_additive_f64 : ATTNX_additive_f32, &args, out);
    checks++;
    if (memcmp(first, out->data, bytes) != 0 && failures++ < 20)
        printf("FAIL %s additive: the bits depend on who prepares the keys\n", table->name);
    free(first), free(powers.data);
}

static void test_additive(struct additive_call c) {
    static const double unit[] = {[ATTNX_F32] = 4e-6, [ATTNX_F64] = 1e-14, [ATTNX_F16] = 2e-3, [ATTNX_BF16] = 1.6e-2};
    const ptrdiff_t L = c.query_len, S = c.key_len, U = c.units, D = c.value_dim, shape[] = {ADDITIVE_BATCH},
                    none[] = {0};
    const ptrdiff_t q_batch[] = {L * U}, k_batch[] = {S * U}, v_batch[] = {S * D}, o_batch[] = {L * D},
                    w_batch[] = {L * S};
    const enum attnx_storage real = c.query == ATTNX_F64 ? ATTNX_F64 : ATTNX_F32;
    additive_fill(&c);
    struct cells out = make(c.query, ADDITIVE_BATCH * L * D), weights = make(real, ADDITIVE_BATCH * L * S);
    struct attnx_additive args = {
        .attention = {.query = {c.q.data, q_batch, 0, U, 1, c.query},
                      .key = {c.k.data, k_batch, 0, U, 1, c.stored},
                      .value = {c.v.data, v_batch, 0, D, 1, c.stored},
                      .out = {out.data, o_batch, 0, D, 1, c.query},
                      .heads = 1,
                      .group = 1,
                      .query_len = L,
                      .key_len = S,
                      .head_dim = U,
                      .value_dim = D,
                      .batch = ADDITIVE_BATCH,
                      .batch_axes = 1,
                      .batch_shape = shape,
                      .window_left = -1,
                      .window_right = -1},
        .weights = {weights.data, w_batch, 0, S, 1, real},
        .score_weight = c.w.data,
    };
    if (c.options & 1) args.attention.key_lengths = c.lengths;
    if (c.options & 2) args.attention.mask = (struct attnx_array){c.mask_bytes, none, 0, S, 1, ATTNX_BOOL};
    if (c.options & 4) args.attention.mask = (struct attnx_array){c.mask.data, none, 0, S, 1, real};
    run("additive", real == ATTNX_F64 ? ATTNX_additive_f64 : ATTNX_additive_f32, &args, &out);
    if (c.query == real && c.stored == real) test_additive_prepared(&c, args, &out);

    double *truth = allocate((size_t)S * sizeof *truth);
    for (ptrdiff_t row = 0; row < ADDITIVE_BATCH * L; row++) {
        const ptrdiff_t b = row / L, i = row % L;
        const double tolerance = additive_truth(&c, b, i, truth) ? unit[c.query] : 0;
        for (ptrdiff_t d = 0; d < D; d++) {
            double wanted = 0;
            for (ptrdiff_t j = 0; j < S; j++)
                if (truth[j] > 0) wanted += truth[j] * get(&c.v, (b * S + j) * D + d);
            expect("additive", get(&out, row * D + d), wanted, tolerance);
        }
        for (ptrdiff_t j = 0; j < S; j++)
            expect("additive's weights", get(&weights, row * S + j), truth[j], tolerance > 0 ? unit[real] : 0);
    }
    free(truth), free(out.data), free(weights.data);
    free(c.q.data), free(c.k.data), free(c.v.data), free(c.w.data), free(c.mask.data), free(c.mask_bytes);
}

static void test_additives(enum attnx_storage query, enum attnx_storage stored) {
    static const ptrdiff_t queries[] = {1, 2, 3, 5, 8, 9, 16, 17, 33, 49};
    static const ptrdiff_t keys[] = {0, 1, 2, 3, 5, 8, 9, 15, 17, 33, 127, 129},
                           units[] = {1, 3, 8, 15, 16, 17, 33, 64, 65, 256};
    int options = (int)query + (int)stored;
    for (ptrdiff_t q = 0; q < COUNT(queries); q++)
        for (ptrdiff_t k = 0; k < COUNT(keys); k += stride, options += 7)
            test_additive((struct additive_call){.query_len = queries[q],
                                                 .key_len = keys[k],
                                                 .units = units[(3 * q + k) % COUNT(units)],
                                                 .value_dim = units[(q + 7 * k) % COUNT(units)],
                                                 .query = query,
                                                 .stored = stored,
                                                 .options = options % 32});
}
