/* Every kernel of every table that this machine can run, against plain loops in double: a program without Python,
 * so that tables can be tested where Python is not (another processor, an emulator).
 *
 * Sizes stand around the vector widths (1, 2, 4, 8, 16) and the blocks of the kernels. What must not be read is filled
 * with NaN. Each call is made cut for one thread, cut for three, and by a team of threads: all must give the same bits.
 */
#include "additive_checks.h"
#include "checks.h"
#include "calls_checks.h"
#include "recurrent_checks.h"
#include "summary_checks.h"

static void test_softmax(int f64, ptrdiff_t items, int masked, ptrdiff_t step) {
    enum { ROWS = 3 };
    const ptrdiff_t shape[] = {ROWS}, strides[] = {items * step}, mask_strides[] = {items};
    struct cells x = make(f64 ? ATTNX_F64 : ATTNX_F32, ROWS * items * step),
                 out = make(f64 ? ATTNX_F64 : ATTNX_F32, ROWS * items * step);
    uint8_t *mask = allocate((size_t)(ROWS * items));
    for (ptrdiff_t i = 0; i < ROWS * items; i++) {
        mask[i] = i / items != 1 && random_number() > 0; /* row 1 sees nothing */
        if (masked && !mask[i]) put(&x, i * step, NAN);
        else put(&x, i * step, 8 * get(&x, i * step));
    }
    const struct attnx_softmax args = {
        x.data, masked ? mask : NULL, out.data, 1, shape, strides, mask_strides, strides, ROWS, items, step, 1, step};
    run("softmax", f64 ? ATTNX_softmax_f64 : ATTNX_softmax_f32, &args, &out);
    for (ptrdiff_t row = 0; row < ROWS; row++) {
        double sum = 0;
        for (ptrdiff_t j = row * items; j < (row + 1) * items; j++)
            if (!masked || mask[j]) sum += exp(get(&x, j * step));
        for (ptrdiff_t j = row * items; j < (row + 1) * items; j++) {
            const double wanted = !masked || mask[j] ? exp(get(&x, j * step)) / sum : 0;
            /* Without a fused multiply-add exp rounds its argument: about |x| * eps. */
            expect("softmax", get(&out, j * step), wanted, (f64 ? 8e-15 : 4e-6) * wanted + 1e-37);
        }
    }
    free(x.data), free(out.data), free(mask);
}

/* One call of attention: two batch entries, four query heads, float or bool masks, lengths, causal order. */
enum { BATCH = 2, HEADS = 4 };
struct call {
    int f64, causal, lengths;
    enum { MASK_NONE, MASK_BOOL, MASK_FLOAT } mask_kind;
    ptrdiff_t group, query_len, key_len, head_dim, value_dim;
    int64_t offsets[BATCH], query_lengths[BATCH], key_lengths[BATCH];
    struct cells query, key, value, mask, out, lse;
    uint8_t *mask_bytes;
};

static int visible(const struct call *c, ptrdiff_t b, ptrdiff_t h, ptrdiff_t i, ptrdiff_t j) {
    const ptrdiff_t at = (h * c->query_len + i) * c->key_len + j;
    if (c->lengths && j >= c->key_lengths[b]) return 0;
    if (c->causal && j > i + c->offsets[b]) return 0;
    if (c->mask_kind == MASK_BOOL) return c->mask_bytes[at];
    return c->mask_kind == MASK_NONE || get(&c->mask, at) > -INFINITY;
}

static double score(const struct call *c, ptrdiff_t b, ptrdiff_t h, ptrdiff_t i, ptrdiff_t j) {
    const ptrdiff_t key_head = b * (HEADS / c->group) + h / c->group;
    double sum = 0;
    for (ptrdiff_t e = 0; e < c->head_dim; e++)
        sum += get(&c->query, ((b * HEADS + h) * c->query_len + i) * c->head_dim + e) *
               get(&c->key, (key_head * c->key_len + j) * c->head_dim + e);
    sum /= sqrt((double)c->head_dim);
    return c->mask_kind == MASK_FLOAT ? sum + get(&c->mask, (h * c->query_len + i) * c->key_len + j) : sum;
}

/* The weights of a row, by the definition; returns its log-sum-exp. */
static double row_weights(const struct call *c, ptrdiff_t b, ptrdiff_t h, ptrdiff_t i, double *weights) {
    double sum = 0;
    for (ptrdiff_t j = 0; j < c->key_len; j++) {
        weights[j] = visible(c, b, h, i, j) ? exp(score(c, b, h, i, j)) : 0;
        sum += weights[j];
    }
    for (ptrdiff_t j = 0; j < c->key_len; j++) weights[j] = sum > 0 ? weights[j] / sum : 0;
    return sum > 0 ? log(sum) : -INFINITY;
}

static struct call make_call(int f64, ptrdiff_t query_len, ptrdiff_t key_len, ptrdiff_t dims, int options) {
    static const enum attnx_storage storages[] = {ATTNX_F32, ATTNX_F16, ATTNX_F32, ATTNX_BF16};
    const enum attnx_storage real = f64 ? ATTNX_F64 : ATTNX_F32, stored = f64 ? real : storages[key_len % 4];
    struct call c = {.f64 = f64, .query_len = query_len, .key_len = key_len, .head_dim = dims};
    c.value_dim = options & 1 ? dims : dims % 37 + 1;
    c.group = options % 3 == 0 ? 1 : options % 3 == 1 ? 2 : 4;
    c.causal = options >> 1 & 1;
    c.lengths = options >> 2 & 1;
    c.mask_kind = (unsigned)options / 8 % 3;
    c.offsets[0] = key_len - query_len, c.offsets[1] = -1;
    c.query_lengths[0] = query_len, c.query_lengths[1] = query_len / 2;
    c.key_lengths[0] = key_len - key_len / 3, c.key_lengths[1] = key_len;
    c.query = make(real, BATCH * HEADS * query_len * dims);
    c.key = make(stored, BATCH * HEADS / c.group * key_len * dims);
    c.value = make(stored, BATCH * HEADS / c.group * key_len * c.value_dim);
    c.mask = make(real, HEADS * query_len * key_len);
    c.mask_bytes = allocate((size_t)c.mask.count);
    for (ptrdiff_t i = 0; i < c.mask.count; i++) {
        c.mask_bytes[i] = random_number() > -0.3;
        if (!c.mask_bytes[i]) put(&c.mask, i, -INFINITY);
    }
    c.lse = make(real, BATCH * HEADS * query_len);
    const ptrdiff_t heads = HEADS / c.group;
    for (ptrdiff_t i = 0; c.lengths && i < c.key.count; i++)
        if (i < heads * key_len * dims && i / dims % key_len >= c.key_lengths[0]) put(&c.key, i, NAN);
    for (ptrdiff_t i = 0; i < c.value.count; i++) {
        const ptrdiff_t j = i / c.value_dim % key_len;
        const int past = c.lengths && i < heads * key_len * c.value_dim && j >= c.key_lengths[0];
        /* One value that some queries see, and others must not notice. */
        if (past || (options % 5 == 0 && j == key_len / 2)) put(&c.value, i, NAN);
    }
    return c;
}

static void free_call(struct call *c) {
    free(c->query.data), free(c->key.data), free(c->value.data), free(c->mask.data);
    free(c->out.data), free(c->lse.data), free(c->mask_bytes);
}

/* Runs attention, or its weights, and compares each row with the definition. */
static void check_call(struct call *c, int weights_only) {
    const ptrdiff_t L = c->query_len, S = c->key_len, E = c->head_dim, D = c->value_dim, G = HEADS / c->group;
    const ptrdiff_t width = weights_only ? S : D, shape[] = {BATCH}, none[] = {0}, lse_batch[] = {HEADS * L};
    const ptrdiff_t query_batch[] = {HEADS * L * E}, key_batch[] = {G * S * E}, value_batch[] = {G * S * D};
    const ptrdiff_t out_batch[] = {HEADS * L * width};
    const enum attnx_storage real = c->f64 ? ATTNX_F64 : ATTNX_F32;
    free(c->out.data);
    c->out = make(real, BATCH * HEADS * L * width);
    struct attnx_attention args = {
        .query = {c->query.data, query_batch, L * E, E, 1, real},
        .key = {c->key.data, key_batch, S * E, E, 1, c->key.storage},
        .value = {c->value.data, value_batch, S * D, D, 1, c->value.storage},
        .out = {c->out.data, out_batch, L * width, width, 1, real},
        .heads = HEADS,
        .group = c->group,
        .query_len = L,
        .key_len = S,
        .head_dim = E,
        .value_dim = D,
        .batch = BATCH,
        .batch_axes = 1,
        .batch_shape = shape,
        .scale = 1 / sqrt((double)E),
        .window_left = -1,
        .window_right = c->causal ? 0 : -1,
        .stage = ATTNX_STAGE_WEIGHTS,
        .query_offsets = c->offsets,
    };
    if (!weights_only) args.lse = (struct attnx_array){c->lse.data, lse_batch, L, 1, 0, real};
    if (c->lengths) args.query_lengths = c->query_lengths, args.key_lengths = c->key_lengths;
    if (c->mask_kind == MASK_BOOL) args.mask = (struct attnx_array){c->mask_bytes, none, L * S, S, 1, ATTNX_BOOL};
    if (c->mask_kind == MASK_FLOAT) args.mask = (struct attnx_array){c->mask.data, none, L * S, S, 1, real};
    const char *what = weights_only ? "attention_weights" : "attention";
    const enum attnx_op wide = weights_only ? ATTNX_attention_weights_f64 : ATTNX_attention_f64;
    const enum attnx_op narrow = weights_only ? ATTNX_attention_weights_f32 : ATTNX_attention_f32;
    run(what, c->f64 ? wide : narrow, &args, &c->out);

    double *weights = allocate((size_t)S * sizeof *weights);
    const double unit = c->f64 ? 1e-14 : 4e-6;
    for (ptrdiff_t row = 0; row < BATCH * HEADS * L; row++) {
        const ptrdiff_t b = row / (HEADS * L), h = row / L % HEADS, i = row % L;
        const int computed = !c->lengths || i < c->query_lengths[b];
        const double lse = row_weights(c, b, h, i, weights);
        if (!weights_only) expect("log-sum-exp", get(&c->lse, row), computed ? lse : -INFINITY, unit * (1 + fabs(lse)));
        for (ptrdiff_t d = 0; d < width; d++) {
            double wanted = 0;
            for (ptrdiff_t j = 0; !weights_only && j < S; j++)
                if (weights[j] > 0) wanted += weights[j] * get(&c->value, ((b * G + h / c->group) * S + j) * D + d);
            if (weights_only) wanted = weights[d];
            expect(what, get(&c->out, row * width + d), computed ? wanted : 0, computed && lse > -INFINITY ? unit : 0);
        }
    }
    free(weights);
}

static double activate(double x, enum attnx_activation activation) {
    if (activation == ATTNX_ACTIVATION_RELU) return x > 0 ? x : 0;
    if (activation == ATTNX_ACTIVATION_TANH) return tanh(x);
    return activation == ATTNX_ACTIVATION_GELU ? 0.5 * x * (1 + erf(x / sqrt(2.0))) : x;
}

static void test_linear(ptrdiff_t rows, ptrdiff_t in, ptrdiff_t outs, int options) {
    const ptrdiff_t panels = (outs + ATTNX_PANEL - 1) / ATTNX_PANEL;
    const enum attnx_activation activation = (enum attnx_activation)(options % 4);
    struct cells x = make(ATTNX_F32, rows * in), weight = make(ATTNX_F32, outs * in), bias = make(ATTNX_F32, outs),
                 out = make(ATTNX_F32, rows * outs);
    struct cells residual = make(ATTNX_F32, rows * outs);
    float *packed = aligned_alloc(64, ((size_t)(panels * ATTNX_PANEL * in) * sizeof *packed + 64) / 64 * 64);
    if (!packed) exit(2);
    for (ptrdiff_t p = 0; p < panels; p++)
        for (ptrdiff_t k = 0; k < in; k++)
            for (ptrdiff_t c = 0; c < ATTNX_PANEL; c++)
                packed[(p * in + k) * ATTNX_PANEL + c] =
                    p * ATTNX_PANEL + c < outs ? (float)get(&weight, (p * ATTNX_PANEL + c) * in + k) : 0;
    const struct attnx_linear args = {
        .x = x.data,
        .weight = packed,
        .bias = options & 4 ? bias.data : NULL,
        .residual = options & 8 ? residual.data : NULL,
        .out = out.data,
        .rows = rows,
        .in = in,
        .outs = outs,
        .x_row = in,
        .out_row = outs,
        .residual_row = outs,
        .activation = activation,
    };
    run("linear", ATTNX_linear_f32, &args, &out);
    for (ptrdiff_t at = 0; at < rows * outs; at++) {
        double sum = options & 4 ? get(&bias, at % outs) : 0, size = 1 + fabs(sum);
        for (ptrdiff_t k = 0; k < in; k++) {
            const double term = get(&x, at / outs * in + k) * get(&weight, at % outs * in + k);
            sum += term, size += fabs(term);
        }
        const double wanted = activate(sum, activation) + (options & 8 ? get(&residual, at) : 0);
        expect("linear", get(&out, at), wanted, 4e-7 * sqrt((double)in + 1) * size);
    }
    free(x.data), free(weight.data), free(bias.data), free(out.data), free(residual.data), free(packed);
}

static void test_layer_norm(ptrdiff_t rows, ptrdiff_t items, int options) {
    struct cells x = make(ATTNX_F32, rows * items), residual = make(ATTNX_F32, rows * items),
                 out = make(ATTNX_F32, rows * items);
    struct cells weight = make(ATTNX_F32, items), bias = make(ATTNX_F32, items);
    for (ptrdiff_t i = 0; i < rows * items; i++) put(&x, i, get(&x, i) + 3); /* a mean that is not zero */
    const struct attnx_layer_norm args = {
        .x = x.data,
        .residual = options & 1 ? residual.data : NULL,
        .weight = options & 2 ? weight.data : NULL,
        .bias = options & 4 ? bias.data : NULL,
        .out = out.data,
        .rows = rows,
        .items = items,
        .x_row = items,
        .out_row = items,
        .residual_row = items,
        .eps = 1e-5f,
    };
    run("layer_norm", ATTNX_layer_norm_f32, &args, &out);
    for (ptrdiff_t row = 0; row < rows; row++) {
        double mean = 0, variance = 0;
        for (int pass = 0; pass < 3; pass++)
            for (ptrdiff_t i = row * items; i < (row + 1) * items; i++) {
                const double z = get(&x, i) + (options & 1 ? get(&residual, i) : 0);
                if (pass == 0) mean += z / (double)items;
                if (pass == 1) variance += (z - mean) * (z - mean) / (double)items;
                if (pass < 2) continue;
                const double unit = (z - mean) / sqrt(variance + (double)args.eps);
                const double w = options & 2 ? get(&weight, i % items) : 1, b = options & 4 ? get(&bias, i % items) : 0;
                /* A row of nearly equal numbers divides their rounding by a small deviation. */
                expect("layer_norm", get(&out, i), unit * w + b, 4e-6 * (1 + fabs(mean) / sqrt(variance + 1e-5)));
            }
    }
    free(x.data), free(residual.data), free(out.data), free(weight.data), free(bias.data);
}

/* Rows of two batch entries and three heads, in a gap of their own each, turned by tables that have one row too many. */
static void test_rotary(enum attnx_storage storage, enum attnx_storage tables, ptrdiff_t pairs, int options) {
    enum { BATCHES = 2, HEADS_TURNED = 3, ROWS = 5, POSITIONS = 9 };
    static const double unit[] = {[ATTNX_F32] = 3e-7, [ATTNX_F64] = 6e-16, [ATTNX_F16] = 1e-3, [ATTNX_BF16] = 8e-3};
    const ptrdiff_t items = 2 * pairs + (options & 1 ? 3 : 0), row = items + 2, rows = BATCHES * HEADS_TURNED * ROWS;
    const ptrdiff_t shape[] = {BATCHES, HEADS_TURNED, ROWS}, strides[] = {HEADS_TURNED * ROWS * row, ROWS * row, row};
    const ptrdiff_t by_row[] = {0, 0, 1}, by_batch[] = {ROWS, 0, 1};
    const int interleaved = options >> 1 & 1, placed = options / 4 % 2;
    const int64_t positions[BATCHES * ROWS] = {8, 0, 3, 3, 7, 1, 2, 6, 5, 4};
    struct cells x = make(storage, rows * row), out = make(storage, rows * row);
    struct cells cos_table = make(tables, POSITIONS * pairs), sin_table = make(tables, POSITIONS * pairs);
    const struct attnx_rotary args = {
        .x = x.data,
        .cos = cos_table.data,
        .sin = sin_table.data,
        .out = out.data,
        .positions = placed ? positions : NULL,
        .axes = 3,
        .shape = shape,
        .x_strides = strides,
        .out_strides = strides,
        .position_strides = placed ? by_batch : by_row,
        .rows = rows,
        .items = items,
        .pairs = pairs,
        .cos_row = pairs,
        .sin_row = pairs,
        .storage = storage,
        .table_storage = tables,
        .interleaved = interleaved,
    };
    run("rotary", storage == ATTNX_F64 ? ATTNX_rotary_f64 : ATTNX_rotary_f32, &args, &out);
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t p = placed ? positions[r / (HEADS_TURNED * ROWS) * ROWS + r % ROWS] : r % ROWS;
        for (ptrdiff_t j = 0; j < pairs; j++) {
            const ptrdiff_t first = r * row + (interleaved ? 2 * j : j), second = first + (interleaved ? 1 : pairs);
            const double a = get(&x, first), b = get(&x, second);
            const double c = get(&cos_table, p * pairs + j), s = get(&sin_table, p * pairs + j);
            const double size = 1e-3 + fabs(a * c) + fabs(b * s) + fabs(b * c) + fabs(a * s);
            expect("rotary", get(&out, first), a * c - b * s, unit[storage] * size);
            expect("rotary", get(&out, second), b * c + a * s, unit[storage] * size);
        }
        for (ptrdiff_t j = 2 * pairs; j < items; j++)
            expect("rotary's rest", get(&out, r * row + j), get(&x, r * row + j), 0);
    }
    free(x.data), free(out.data), free(cos_table.data), free(sin_table.data);
}

static void test_rows(void) {
    static const ptrdiff_t items[] = {1,  2,  3,  4,  5,  7,  8,  9,  15, 16,  17,
                                      31, 32, 33, 47, 48, 49, 63, 64, 65, 129, 1000};
    for (ptrdiff_t n = 0; n < COUNT(items); n++) {
        for (int options = 0; options < 8; options++)
            test_softmax(options & 1, items[n], options >> 1 & 1, options & 4 ? 3 : 1);
        for (int options = 0; options < 8; options++) test_layer_norm(1 + n % 3, items[n], options);
        for (int lstm = 0; lstm < 2; lstm++) test_recurrent(1 + n * 3 % 20, items[n], lstm);
        for (int way = 0; way < 4; way++) test_recurrent_steps(items[n], way & 1, way / 2);
    }
}

static void test_linears(void) {
    /* The last of each: several tasks of rows, several parts of a panel, several tasks of columns. */
    static const ptrdiff_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 33, 70, 250};
    static const ptrdiff_t in[] = {1, 3, 16, 33, 100, 200};
    static const ptrdiff_t outs[] = {1, 3, 4, 15, 16, 17, 31, 32, 33, 47, 48, 49, 300};
    int options = 0;
    for (ptrdiff_t r = 0; r < COUNT(rows); r++)
        for (ptrdiff_t i = 0; i < COUNT(in); i++)
            for (ptrdiff_t o = 0; o < COUNT(outs); o += stride) test_linear(rows[r], in[i], outs[o], options++ % 16);
    test_linear(25, 11000, 49, 12); /* blocks of the fewest rows, more than the threads and no multiple of them */
}

static void test_attention(int f64) {
    static const ptrdiff_t queries[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 47, 48, 49, 97};
    static const ptrdiff_t keys[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 33, 95, 96, 97, 127, 128, 129, 191, 192, 193};
    static const ptrdiff_t dims[] = {1, 3, 4, 5, 8, 15, 16, 17, 33, 40, 64, 65, 80, 128};
    int options = f64;
    for (ptrdiff_t q = 0; q < COUNT(queries); q++)
        for (ptrdiff_t k = 0; k < COUNT(keys); k += stride, options += 5) {
            struct call c = make_call(f64, queries[q], keys[k], dims[(q * 5 + k) % COUNT(dims)], options % 24);
            check_call(&c, 0);
            check_call(&c, 1);
            free_call(&c);
        }
}

static void test_rotaries(void) {
    static const ptrdiff_t pairs[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33};
    static const enum attnx_storage storages[] = {ATTNX_F32, ATTNX_F16, ATTNX_BF16};
    for (ptrdiff_t p = 0; p < COUNT(pairs); p++)
        for (int options = 0; options < 12; options++) {
            for (int s = 0; s < 3; s++) test_rotary(storages[s], storages[options / 4], pairs[p], options);
            test_rotary(ATTNX_F64, options / 4 ? storages[options / 4] : ATTNX_F64, pairs[p], options);
        }
}

static void report(const char *kernel) {
    printf("  %-14s largest error %.2f of its tolerance\n", kernel, worst);
    worst = 0;
}

int main(int argc, char **argv) {
    if (argc > 1) stride = strtol(argv[1], NULL, 10);
    if (argc > 2 || stride < 1) return fprintf(stderr, "usage: kernels_test [STRIDE], every STRIDE-th size\n"), 2;
    const char *name;
    for (int i = 0; (name = attnx_isa_available(i)) != NULL; i++) {
        if (attnx_isa_force(name) != ATTNX_OK) return printf("FAIL %s cannot be chosen\n", name), 1;
        table = attnx_table();
        printf("%s\n", table->name);
        test_rows(), report("rows");
        test_lists(), report("lists");
        test_linears(), report("linear");
        test_rotaries(), report("rotary");
        test_additives(ATTNX_F32, ATTNX_F32), test_additives(ATTNX_F64, ATTNX_F64), report("additive");
        test_additives(ATTNX_F16, ATTNX_F16), test_additives(ATTNX_F32, ATTNX_BF16), report("additive, 16-bit");
        test_attention(0), report("attention f32");
        test_attention(1), report("attention f64");
        test_summaries(0), report("summary f32");
        test_summaries(1), report("summary f64");
    }
    printf("%ld checks, %ld failures\n", checks, failures);
    return failures != 0 || checks == 0;
}
