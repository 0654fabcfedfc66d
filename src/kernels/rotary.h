/* Rotary positions (Su et al. 2021): with c, s = row p of the tables, each pair (a, b) of a row at position p becomes
 * (a c - b s, b c + a s). Pair j is elements (j, pairs + j), or (2 j, 2 j + 1) where interleaved; the rest is copied.
 *
 * Two roundings an element, in the same order for both kinds of pairs, in the body and in the tail: error at most
 * eps * (|a c| + |b s|). Interleaved elements are brought into two vectors and back, which costs less than a multiplication
 * by duplicated tables and also works on one lane. Bound by memory: row after row, the tables' rows stay in a cache.
 * What is stored in another type than `real` is converted in registers, the rows of a table into scratch.
 */
enum { K(rotary_grain_items) = 16384 };

ATTNX_INLINE void K(rotary_store)(void *p, const enum attnx_storage storage, V(v) v, ptrdiff_t n) {
    if (n == V(width) &&storage == REAL_STORAGE) V(store)(p, v);
    else K(store_as)(p, storage, v, n);
}

/* n pairs whose first and second vectors start at a and b, n_a and n_b elements that lie there. */
struct K(rotary_place) {
    ptrdiff_t a, b, n_a, n_b;
};

ATTNX_INLINE struct K(rotary_place) K(rotary_at)(ptrdiff_t j, ptrdiff_t n, ptrdiff_t pairs, const int interleaved) {
    const ptrdiff_t n_a = 2 * n < V(width) ? 2 * n : V(width);
    if (interleaved) return (struct K(rotary_place)){2 * j, 2 * j + n_a, n_a, 2 * n - n_a};
    return (struct K(rotary_place)){j, pairs + j, n, n};
}

ATTNX_INLINE void K(rotary_row)(const void *x, void *out, const real *cos, const real *sin, ptrdiff_t pairs,
                                const enum attnx_storage storage, const int interleaved) {
    const ptrdiff_t w = V(width);
#define ROTARY_TURN(n)                                                                               \
    do {                                                                                             \
        const struct K(rotary_place) at = K(rotary_at)(j, n, pairs, interleaved);                    \
        const V(v) c = K(stored)(cos + j, REAL_STORAGE, n), s = K(stored)(sin + j, REAL_STORAGE, n); \
        V(v)                                                                                         \
        r[2] = {K(stored)(storage_at(x, storage, at.a), storage, at.n_a),                            \
                K(stored)(storage_at(x, storage, at.b), storage, at.n_b)};                           \
        if (interleaved) V(unzip)(r);                                                                \
        const V(v) a = r[0], b = r[1];                                                               \
        r[0] = V(fms)(a, c, V(mul)(b, s));                                                           \
        r[1] = V(fma)(b, c, V(mul)(a, s));                                                           \
        if (interleaved) V(zip)(r);                                                                  \
        K(rotary_store)(storage_at(out, storage, at.a), storage, r[0], at.n_a);                      \
        K(rotary_store)(storage_at(out, storage, at.b), storage, r[1], at.n_b);                      \
    } while (0)
    ptrdiff_t j = 0;
    for (; j + w <= pairs; j += w) ROTARY_TURN(w);
    if (j < pairs) ROTARY_TURN(pairs - j);
#undef ROTARY_TURN
}

/* A row in its storage; float64 rows have no other. */
static void K(rotary_stored_row)(const struct attnx_rotary *a, const void *x, void *out, const real *cos,
                                 const real *sin) {
#define ROTARY_AS(storage)                                                         \
    do {                                                                           \
        if (a->interleaved) K(rotary_row)(x, out, cos, sin, a->pairs, storage, 1); \
        else K(rotary_row)(x, out, cos, sin, a->pairs, storage, 0);                \
    } while (0)
    if (REAL_IS_F64 || a->storage == REAL_STORAGE) ROTARY_AS(REAL_STORAGE);
    else if (a->storage == ATTNX_BF16) ROTARY_AS(ATTNX_BF16);
    else ROTARY_AS(ATTNX_F16);
#undef ROTARY_AS
    const ptrdiff_t turned = 2 * a->pairs;
    if (a->items == turned) return;
    memcpy(storage_at(out, a->storage, turned), storage_at(x, a->storage, turned),
           (size_t)(a->items - turned) * storage_bytes[a->storage]);
}

static void K(rotary_plan)(const void *args, struct attnx_plan *plan) {
    const struct attnx_rotary *a = args;
    plan->grain = a->items > 0 ? (K(rotary_grain_items) + a->items - 1) / a->items : 1;
    plan->tasks = (a->rows + plan->grain - 1) / plan->grain;
    plan->work = 4.0 / V(width) *(double)a->rows * (double)a->items;
    plan->scratch = a->table_storage == REAL_STORAGE ? 0 : (size_t)a->pairs * 2 * sizeof(real);
}

/* A row of a table that is stored in another type. */
static void K(rotary_convert)(const void *row, enum attnx_storage storage, real *to, ptrdiff_t pairs) {
    const ptrdiff_t w = V(width);
    if (storage == ATTNX_F64) {
        for (ptrdiff_t j = 0; j < pairs; j++) to[j] = (real)((const double *)row)[j];
        return;
    }
    for (ptrdiff_t j = 0; j < pairs; j += w) {
        const ptrdiff_t n = pairs - j < w ? pairs - j : w;
        V(store_n)(to + j, K(stored)(storage_at(row, storage, j), storage, n), n);
    }
}

/* `rows` rows from row `first` of the last axis of the others' index `outer`. */
static void K(rotary_rows)(const struct attnx_rotary *a, ptrdiff_t outer, ptrdiff_t first, ptrdiff_t rows,
                           void *scratch) {
    const ptrdiff_t last = a->axes - 1;
    ptrdiff_t x_at = first * a->x_strides[last], out_at = first * a->out_strides[last];
    ptrdiff_t place = first * a->position_strides[last], converted = -1;
    for (ptrdiff_t i = last - 1; i >= 0; outer /= a->shape[i], i--) {
        const ptrdiff_t index = outer % a->shape[i];
        x_at += index * a->x_strides[i];
        out_at += index * a->out_strides[i];
        place += index * a->position_strides[i];
    }
    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t p = a->positions ? (ptrdiff_t)a->positions[place] : place;
        const void *c = storage_at(a->cos, a->table_storage, p * a->cos_row);
        const void *s = storage_at(a->sin, a->table_storage, p * a->sin_row);
        const real *cos = c, *sin = s;
        if (a->table_storage != REAL_STORAGE) {
            real *to = scratch;
            if (p != converted) {
                K(rotary_convert)(c, a->table_storage, to, a->pairs);
                K(rotary_convert)(s, a->table_storage, to + a->pairs, a->pairs);
            }
            converted = p, cos = to, sin = to + a->pairs;
        }
        K(rotary_stored_row)(a, storage_at(a->x, a->storage, x_at), storage_at(a->out, a->storage, out_at), cos, sin);
        x_at += a->x_strides[last];
        out_at += a->out_strides[last];
        place += a->position_strides[last];
    }
}

static void K(rotary_run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch) {
    const struct attnx_rotary *a = args;
    const ptrdiff_t inner = a->shape[a->axes - 1];
    const ptrdiff_t end = (task + 1) * plan->grain < a->rows ? (task + 1) * plan->grain : a->rows;
    for (ptrdiff_t row = task * plan->grain; row < end;) {
        const ptrdiff_t first = row % inner, left = end - row, rows = inner - first < left ? inner - first : left;
        K(rotary_rows)(a, row / inner, first, rows, scratch);
        row += rows;
    }
}
