/* Plain C: one lane. The base of every table, and what an unknown processor gets. See VOCABULARY.md for the words. */
typedef float f32_v;
typedef int f32_m;
typedef double f64_v;
typedef int f64_m;
enum { f32_width = 1, f64_width = 1 };

#define SCALAR_WORDS(R, real, bits, bias, shift, round, fused)                           \
    ATTNX_INLINE real R##_load(const real *p) { return *p; }                             \
    ATTNX_INLINE real R##_load_n(const real *p, ptrdiff_t n) { return n > 0 ? *p : 0; }  \
    ATTNX_INLINE void R##_store(real *p, real v) { *p = v; }                             \
    ATTNX_INLINE void R##_store_n(real *p, real v, ptrdiff_t n) {                        \
        if (n > 0) *p = v;                                                               \
    }                                                                                    \
    ATTNX_INLINE real R##_set1(real x) { return x; }                                     \
    ATTNX_INLINE real R##_iota(void) { return 0; }                                       \
    ATTNX_INLINE real R##_add(real a, real b) { return a + b; }                          \
    ATTNX_INLINE real R##_sub(real a, real b) { return a - b; }                          \
    ATTNX_INLINE real R##_mul(real a, real b) { return a * b; }                          \
    ATTNX_INLINE real R##_div(real a, real b) { return a / b; }                          \
    ATTNX_INLINE real R##_max(real a, real b) { return a > b ? a : b; }                  \
    ATTNX_INLINE real R##_min(real a, real b) { return a < b ? a : b; }                  \
    ATTNX_INLINE real R##_fma(real a, real b, real c) { return a * b + c; }              \
    ATTNX_INLINE real R##_fms(real a, real b, real c) { return fused; }                  \
    ATTNX_INLINE real R##_scale2(real r, real t) {                                       \
        bits power;                                                                      \
        real scale;                                                                      \
        if (t < round - (bias - 1)) return 0;                                            \
        memcpy(&power, &t, sizeof power);                                                \
        power <<= shift;                                                                 \
        memcpy(&scale, &power, sizeof scale);                                            \
        return r * scale + scale;                                                        \
    }                                                                                    \
    ATTNX_INLINE real R##_abs(real v) { return v < 0 ? -v : v + (real)0; }               \
    ATTNX_INLINE int R##_lt(real a, real b) { return a < b; }                            \
    ATTNX_INLINE int R##_le(real a, real b) { return a <= b; }                           \
    ATTNX_INLINE int R##_eq(real a, real b) { return a == b; }                           \
    ATTNX_INLINE real R##_select(int m, real a, real b) { return m ? a : b; }            \
    ATTNX_INLINE int R##_all(int m) { return m; }                                        \
    ATTNX_INLINE real R##_from_bytes(const uint8_t *p, ptrdiff_t n, real yes, real no) { \
        return n > 0 && *p ? yes : no;                                                   \
    }                                                                                    \
    ATTNX_INLINE real R##_sum(real v) { return v; }                                      \
    ATTNX_INLINE real R##_hmax(real v) { return v; }                                     \
    ATTNX_INLINE void R##_transpose(real *r) { (void)r; }                                \
    ATTNX_INLINE void R##_transpose_halves(real *r) { (void)r; }                         \
    ATTNX_INLINE real R##_halves(const real *p, const real *q) { return (void)q, *p; }   \
    ATTNX_INLINE void R##_unzip(real *r) { (void)r; }                                    \
    ATTNX_INLINE void R##_zip(real *r) { (void)r; }

SCALAR_WORDS(f32, float, uint32_t, 127, 23, F32_ROUND, (float)((double)a * (double)b - (double)c))
SCALAR_WORDS(f64, double, uint64_t, 1023, 52, F64_ROUND, fma(a, b, -c))
#undef SCALAR_WORDS

ATTNX_INLINE f32_v f32_load_bf16(const uint16_t *p) {
    const uint32_t bits = (uint32_t)*p << 16;
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
ATTNX_INLINE void f32_store_bf16(uint16_t *p, f32_v v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint32_t either = v == v ? bits + 0x7FFF + (bits >> 16 & 1) : bits | 0x400000;
    *p = (uint16_t)(either >> 16);
}
/* float16 has 5 bits of exponent (bias 15) and 10 of mantissa; 2^112 moves one bias to the other, denormals too. */
ATTNX_INLINE f32_v f32_load_f16(const uint16_t *p) {
    const uint32_t sign = (uint32_t)(*p & 0x8000) << 16, rest = (uint32_t)(*p & 0x7FFF) << 13;
    const uint32_t special = 0x7C00u << 13, power = 239u << 23; /* 2^112 */
    float v, scale;
    uint32_t bits = rest >= special ? rest | 0x7F800000 : rest;
    memcpy(&v, &bits, sizeof v);
    memcpy(&scale, &power, sizeof scale);
    if (rest < special) v *= scale;
    memcpy(&bits, &v, sizeof bits);
    bits |= sign;
    memcpy(&v, &bits, sizeof v);
    return v;
}
ATTNX_INLINE void f32_store_f16(uint16_t *p, f32_v v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    uint32_t half;
    if (size > 0x7F800000) {
        half = 0x7E00 | (size >> 13 & 0x3FF);
    } else if (size >= 0x477FF000) { /* 65520 and more round to infinity */
        half = 0x7C00;
    } else if (size < 0x38800000) { /* below 2^-14: adding 1/2 leaves the denormal, rounded, in the low bits */
        float tiny;
        memcpy(&tiny, &size, sizeof tiny);
        tiny += 0.5f;
        memcpy(&half, &tiny, sizeof half);
        half -= 0x3F000000;
    } else {
        half = (size - 0x38000000 + 0xFFF + (size >> 13 & 1)) >> 13;
    }
    *p = (uint16_t)(sign | half);
}

ATTNX_INLINE f32_v f32_halves_f16(const uint16_t *p, const uint16_t *q) { return (void)q, f32_load_f16(p); }
ATTNX_INLINE f32_v f32_bf16_low(f32_v pair) {
    uint16_t both[2];
    memcpy(both, &pair, sizeof both);
    return f32_load_bf16(both);
}
ATTNX_INLINE f32_v f32_bf16_high(f32_v pair) {
    uint16_t both[2];
    memcpy(both, &pair, sizeof both);
    return f32_load_bf16(both + 1);
}

/* Rows x vectors of a tile: what a compiler keeps in 16 scalar registers. */
enum {
    SCORE_ROWS = 4,
    SCORE_ROWS_2 = 4,
    SCORE_ROWS_1 = 8,
    SCORE_VECS = 2,
    VALUE_ROWS = 2,
    VALUE_VECS = 4,
    PASS_QUERIES = 192,
    SCORE_FEW_SUMS = 8,
    VALUE_FEW_SUMS = 8,
    EXP_SIDE = 1,
    LINEAR_ROWS = 4,
    LINEAR_VECS = 2,
    LINEAR_PART = 12 * 1024
};
