/* Rows asked for before they are read. A core has some 10 to 16 lines under way at a time: more, asked for at once, hold up
 * what comes after, so that long ones go a few lines at a time, between tiles. */
enum { K(bytes_ahead) = 4 * 64 /* at a time: four prefetches for one branch */ };

struct K(ahead) {
    const char *row;
    ptrdiff_t at, bytes, step; /* of the row: what has been asked for, its length, the way to the next */
    ptrdiff_t asked, due;      /* bytes to ask for at a time, and those that were not asked for yet */
};

/* From the row at `row` on, `asked`: the bytes of one. Rows without gaps are one; others are asked for in whole steps of
 * `bytes_ahead`. */
ATTNX_INLINE struct K(ahead) K(ahead_of)(const struct attnx_array *array, const void *row, ptrdiff_t dim) {
    const ptrdiff_t size = storage_bytes[array->storage], bytes = dim * size, most = K(bytes_ahead);
    const int stream = array->row == dim;
    const ptrdiff_t asked = stream ? bytes : (bytes + most - 1) / most * most;
    return (struct K(ahead)){row, 0, stream ? PTRDIFF_MAX : bytes, array->row * size, asked, 0};
}

/* A turn of `share` bytes. Past the last row it asks for what follows in memory: the next head where a caller's arrays hold
 * nothing else, for nothing where a cache has room left. */
ATTNX_INLINE void K(fetch_ahead)(struct K(ahead) *ahead, ptrdiff_t share) {
    ahead->due += share;
    for (; ahead->due >= K(bytes_ahead); ahead->due -= K(bytes_ahead)) {
        ATTNX_UNROLL
        for (int i = 0; i < K(bytes_ahead); i += 64) __builtin_prefetch(ahead->row + ahead->at + i, 0, 2);
        ahead->at += K(bytes_ahead);
        if (ahead->at >= ahead->bytes) ahead->at = 0, ahead->row += ahead->step;
    }
}

/* What is asked for while a block of keys is scored, a part with every tile. */
struct K(fetches) {
    int count, lasting;    /* those of a block of keys come first */
    struct K(ahead) of[5]; /* keys and values of the next block, mask, bias, outputs */
};

static void K(fetch_turn)(struct K(fetches) *fetches) {
    for (int i = 0; i < fetches->count; i++) K(fetch_ahead)(&fetches->of[i], fetches->of[i].asked);
}

/* Adds `rows` rows from `row` on, all of them within `turns`. */
static void K(fetch_within)(struct K(fetches) *fetches, const struct attnx_array *array, const void *row, ptrdiff_t dim,
                            ptrdiff_t rows, ptrdiff_t turns) {
    struct K(ahead) *ahead = &fetches->of[fetches->count++];
    *ahead = K(ahead_of)(array, row, dim);
    ahead->asked = (ahead->asked * rows + turns - 1) / turns;
}

/* Asks for all of them at once. */
ATTNX_INLINE void K(fetch_rows)(const struct attnx_array *array, const void *at, ptrdiff_t rows, ptrdiff_t dim) {
    const ptrdiff_t size = storage_bytes[array->storage];
    for (ptrdiff_t r = 0; r < rows; r++) {
        const char *row = (const char *)at + r * array->row * size;
        for (ptrdiff_t b = 0; b < dim * size; b += 64) __builtin_prefetch(row + b, 0, 2);
    }
}
