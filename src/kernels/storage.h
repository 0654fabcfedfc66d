/* Reading and writing arrays that are stored in another type than the kernel computes in.
 *
 * Exact on the way in; rounded to nearest even, once, on the way out. Keys and values are converted a block at a time
 * into scratch that stays in L2 (score.h) or in registers (decode.h), never as whole arrays.
 */
static const unsigned char storage_bytes[] = {4, 8, 2, 2, 1}; /* by enum attnx_storage */

ATTNX_INLINE void *storage_at(const void *base, enum attnx_storage storage, ptrdiff_t elements) {
    return (char *)(uintptr_t)base + elements * storage_bytes[storage];
}

/* n <= f32_width elements stored as float32, float16 or bfloat16; lanes past n are 0. */
ATTNX_INLINE f32_v stored_f32(const void *p, const enum attnx_storage storage, ptrdiff_t n) {
    uint16_t lanes[f32_width] = {0};
    if (storage == ATTNX_F32) return n == f32_width ? f32_load(p) : f32_load_n(p, n);
    const uint16_t *from = p;
    if (n < f32_width) {
        for (ptrdiff_t i = 0; i < f32_width; i++) lanes[i] = i < n ? from[i] : 0;
        from = lanes;
    }
    return storage == ATTNX_F16 ? f32_load_f16(from) : f32_load_bf16(from);
}

/* The first half of the lanes from p on, the other half from q on; bfloat16 in pairs. */
ATTNX_INLINE f32_v stored_halves_f32(const void *p, const void *q, const enum attnx_storage storage) {
    return storage == ATTNX_F16 ? f32_halves_f16(p, q) : f32_halves(p, q);
}

/* A pair of bfloat16 is 32 bits, and each of them half of a float32: a shift or an AND, where one alone takes a shuffle too.
 */
ATTNX_INLINE f32_v stored_pair_f32(f32_v pair, const int second) {
    return second ? f32_bf16_high(pair) : f32_bf16_low(pair);
}

ATTNX_INLINE void store_as_f32(void *p, const enum attnx_storage storage, f32_v v, ptrdiff_t n) {
    uint16_t lanes[f32_width];
    if (storage == ATTNX_F32) {
        if (n == f32_width) f32_store(p, v);
        else f32_store_n(p, v, n);
        return;
    }
    if (storage == ATTNX_F16) f32_store_f16(lanes, v);
    else f32_store_bf16(lanes, v);
    for (ptrdiff_t i = 0; i < n && i < f32_width; i++) ((uint16_t *)p)[i] = lanes[i];
}

/* float64 queries on smaller keys and values are rare: lane by lane. */
ATTNX_INLINE f64_v stored_f64(const void *p, const enum attnx_storage storage, ptrdiff_t n) {
    double lanes[f64_width] = {0};
    if (storage == ATTNX_F64) return n == f64_width ? f64_load(p) : f64_load_n(p, n);
    for (ptrdiff_t i = 0; i < n; i++) {
        float one[f32_width];
        f32_store(one, stored_f32(storage_at(p, storage, i), storage, 1));
        lanes[i] = (double)one[0];
    }
    return f64_load(lanes);
}

ATTNX_INLINE f64_v stored_halves_f64(const void *p, const void *q, const enum attnx_storage storage) {
    (void)storage; /* decoding in float64 takes float64 alone */
    return f64_halves(p, q);
}

ATTNX_INLINE f64_v stored_pair_f64(f64_v pair, const int second) {
    (void)second;
    return pair;
}

ATTNX_INLINE void store_as_f64(void *p, const enum attnx_storage storage, f64_v v, ptrdiff_t n) {
    (void)storage; /* float64 queries have float64 results */
    if (n == f64_width) f64_store(p, v);
    else f64_store_n(p, v, n);
}
