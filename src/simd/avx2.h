/* AVX2 + FMA: 8 float32 or 4 float64, 16 registers. See VOCABULARY.md for the words. */
typedef __m256 f32_v;
typedef __m256 f32_m;
enum { f32_width = 8 };

/* A window into this row gives a mask with the first n of 8 lanes set. */
static const int32_t avx2_first[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
ATTNX_INLINE __m256i f32_first(ptrdiff_t n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(avx2_first + 8 - n));
}
ATTNX_INLINE f32_v f32_load(const float *p) { return _mm256_loadu_ps(p); }
ATTNX_INLINE f32_v f32_load_n(const float *p, ptrdiff_t n) { return _mm256_maskload_ps(p, f32_first(n)); }
ATTNX_INLINE void f32_store(float *p, f32_v v) { _mm256_storeu_ps(p, v); }
/* A masked store takes an AMD processor a dozen cycles: only where it must be one. (A third of a linear layer's end.) */
ATTNX_INLINE void f32_store_n(float *p, f32_v v, ptrdiff_t n) {
    if (n == f32_width) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, f32_first(n), v);
}
ATTNX_INLINE f32_v f32_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
ATTNX_INLINE f32_v f32_halves(const float *p, const float *q) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1);
}
ATTNX_INLINE f32_v f32_halves_f16(const uint16_t *p, const uint16_t *q) {
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)(const void *)p),
                                              _mm_loadl_epi64((const __m128i *)(const void *)q)));
}
ATTNX_INLINE f32_v f32_bf16_low(f32_v pair) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pair), 16));
}
ATTNX_INLINE f32_v f32_bf16_high(f32_v pair) {
    return _mm256_and_ps(pair, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)));
}
ATTNX_INLINE void f32_store_f16(uint16_t *p, f32_v v) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v, 0x08));
}
ATTNX_INLINE f32_v f32_load_bf16(const uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
ATTNX_INLINE void f32_store_bf16(uint16_t *p, f32_v v) {
    const __m256i bits = _mm256_castps_si256(v),
                  odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i unordered = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, unordered), 16);
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
    _mm_storeu_si128((__m128i *)(void *)p, packed);
}
ATTNX_INLINE f32_v f32_set1(float x) { return _mm256_set1_ps(x); }
ATTNX_INLINE f32_v f32_iota(void) { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
ATTNX_INLINE f32_v f32_add(f32_v a, f32_v b) { return _mm256_add_ps(a, b); }
ATTNX_INLINE f32_v f32_sub(f32_v a, f32_v b) { return _mm256_sub_ps(a, b); }
ATTNX_INLINE f32_v f32_mul(f32_v a, f32_v b) { return _mm256_mul_ps(a, b); }
ATTNX_INLINE f32_v f32_div(f32_v a, f32_v b) { return _mm256_div_ps(a, b); }
ATTNX_INLINE f32_v f32_max(f32_v a, f32_v b) { return _mm256_max_ps(a, b); }
ATTNX_INLINE f32_v f32_min(f32_v a, f32_v b) { return _mm256_min_ps(a, b); }
ATTNX_INLINE f32_v f32_fma(f32_v a, f32_v b, f32_v c) { return _mm256_fmadd_ps(a, b, c); }
ATTNX_INLINE f32_v f32_fms(f32_v a, f32_v b, f32_v c) { return _mm256_fmsub_ps(a, b, c); }
ATTNX_INLINE f32_v f32_scale2(f32_v r, f32_v t) {
    const __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(t), 23));
    const __m256 normal = _mm256_cmp_ps(t, _mm256_set1_ps(F32_ROUND - 126), _CMP_NLT_UQ);
    return _mm256_and_ps(normal, _mm256_fmadd_ps(r, power, power));
}
ATTNX_INLINE f32_v f32_abs(f32_v v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
ATTNX_INLINE f32_m f32_lt(f32_v a, f32_v b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
ATTNX_INLINE f32_m f32_le(f32_v a, f32_v b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
ATTNX_INLINE f32_m f32_eq(f32_v a, f32_v b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
ATTNX_INLINE f32_v f32_select(f32_m m, f32_v a, f32_v b) { return _mm256_blendv_ps(b, a, m); }
ATTNX_INLINE int f32_all(f32_m m) { return _mm256_movemask_ps(m) == 0xFF; }
ATTNX_INLINE uint64_t avx2_bytes(const uint8_t *p, ptrdiff_t n) {
    uint64_t bytes = 0;
    if (n == 8) {
        memcpy(&bytes, p, 8);
    } else {
        for (ptrdiff_t i = 0; i < n; i++) bytes |= (uint64_t)p[i] << (8 * i);
    }
    return bytes;
}
ATTNX_INLINE f32_v f32_from_bytes(const uint8_t *p, ptrdiff_t n, f32_v yes, f32_v no) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)avx2_bytes(p, n)));
    const __m256i zero = _mm256_cmpeq_epi32(wide, _mm256_setzero_si256());
    return f32_select(_mm256_castsi256_ps(zero), no, yes);
}
ATTNX_INLINE float f32_sum(f32_v v) {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
ATTNX_INLINE float f32_hmax(f32_v v) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
/* Every four of `count` vectors, in each four lanes: lane j of r[i] and lane i of r[j] change places. */
ATTNX_INLINE void avx2_quads(f32_v *r, const int count) {
    f32_v t[8];
    ATTNX_UNROLL
    for (int i = 0; i < count; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    ATTNX_UNROLL
    for (int i = 0; i < count; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
}
ATTNX_INLINE void f32_transpose(f32_v *r) {
    f32_v t[8];
    avx2_quads(r, 8);
    ATTNX_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    ATTNX_UNROLL
    for (int i = 0; i < 8; i++) r[i] = t[i];
}
ATTNX_INLINE void f32_transpose_halves(f32_v *r) { avx2_quads(r, 4); }
ATTNX_INLINE void f32_unzip(f32_v *r) {
    const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(r[0], r[1], 0x88));
    const __m256d odd = _mm256_castps_pd(_mm256_shuffle_ps(r[0], r[1], 0xDD));
    r[0] = _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xD8));
    r[1] = _mm256_castpd_ps(_mm256_permute4x64_pd(odd, 0xD8));
}
ATTNX_INLINE void f32_zip(f32_v *r) {
    const f32_v low = _mm256_unpacklo_ps(r[0], r[1]), high = _mm256_unpackhi_ps(r[0], r[1]);
    r[0] = _mm256_permute2f128_ps(low, high, 0x20);
    r[1] = _mm256_permute2f128_ps(low, high, 0x31);
}

typedef __m256d f64_v;
typedef __m256d f64_m;
enum { f64_width = 4 };

ATTNX_INLINE __m256i f64_first(ptrdiff_t n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(avx2_first + 8 - 2 * n));
}
ATTNX_INLINE f64_v f64_load(const double *p) { return _mm256_loadu_pd(p); }
ATTNX_INLINE f64_v f64_load_n(const double *p, ptrdiff_t n) { return _mm256_maskload_pd(p, f64_first(n)); }
ATTNX_INLINE void f64_store(double *p, f64_v v) { _mm256_storeu_pd(p, v); }
ATTNX_INLINE void f64_store_n(double *p, f64_v v, ptrdiff_t n) {
    if (n == f64_width) _mm256_storeu_pd(p, v);
    else _mm256_maskstore_pd(p, f64_first(n), v);
}
ATTNX_INLINE f64_v f64_set1(double x) { return _mm256_set1_pd(x); }
ATTNX_INLINE f64_v f64_iota(void) { return _mm256_setr_pd(0, 1, 2, 3); }
ATTNX_INLINE f64_v f64_add(f64_v a, f64_v b) { return _mm256_add_pd(a, b); }
ATTNX_INLINE f64_v f64_sub(f64_v a, f64_v b) { return _mm256_sub_pd(a, b); }
ATTNX_INLINE f64_v f64_mul(f64_v a, f64_v b) { return _mm256_mul_pd(a, b); }
ATTNX_INLINE f64_v f64_div(f64_v a, f64_v b) { return _mm256_div_pd(a, b); }
ATTNX_INLINE f64_v f64_max(f64_v a, f64_v b) { return _mm256_max_pd(a, b); }
ATTNX_INLINE f64_v f64_min(f64_v a, f64_v b) { return _mm256_min_pd(a, b); }
ATTNX_INLINE f64_v f64_fma(f64_v a, f64_v b, f64_v c) { return _mm256_fmadd_pd(a, b, c); }
ATTNX_INLINE f64_v f64_fms(f64_v a, f64_v b, f64_v c) { return _mm256_fmsub_pd(a, b, c); }
ATTNX_INLINE f64_v f64_scale2(f64_v r, f64_v t) {
    const __m256d power = _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(t), 52));
    const __m256d normal = _mm256_cmp_pd(t, _mm256_set1_pd(F64_ROUND - 1022), _CMP_NLT_UQ);
    return _mm256_and_pd(normal, _mm256_fmadd_pd(r, power, power));
}
ATTNX_INLINE f64_v f64_abs(f64_v v) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), v); }
ATTNX_INLINE f64_m f64_lt(f64_v a, f64_v b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
ATTNX_INLINE f64_m f64_le(f64_v a, f64_v b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
ATTNX_INLINE f64_m f64_eq(f64_v a, f64_v b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
ATTNX_INLINE f64_v f64_select(f64_m m, f64_v a, f64_v b) { return _mm256_blendv_pd(b, a, m); }
ATTNX_INLINE int f64_all(f64_m m) { return _mm256_movemask_pd(m) == 0xF; }
ATTNX_INLINE f64_v f64_from_bytes(const uint8_t *p, ptrdiff_t n, f64_v yes, f64_v no) {
    uint32_t bytes = 0;
    for (ptrdiff_t i = 0; i < n; i++) bytes |= (uint32_t)p[i] << (8 * i);
    const __m256i wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128((int)bytes));
    const __m256i zero = _mm256_cmpeq_epi64(wide, _mm256_setzero_si256());
    return f64_select(_mm256_castsi256_pd(zero), no, yes);
}
ATTNX_INLINE double f64_sum(f64_v v) {
    const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}
ATTNX_INLINE double f64_hmax(f64_v v) {
    const __m128d h = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(h, _mm_unpackhi_pd(h, h)));
}
ATTNX_INLINE void f64_transpose(f64_v *r) {
    const f64_v a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const f64_v c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20);
    r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31);
    r[3] = _mm256_permute2f128_pd(b, d, 0x31);
}
ATTNX_INLINE f64_v f64_halves(const double *p, const double *q) {
    return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(q), 1);
}
ATTNX_INLINE void f64_transpose_halves(f64_v *r) {
    const f64_v first = r[0];
    r[0] = _mm256_unpacklo_pd(first, r[1]);
    r[1] = _mm256_unpackhi_pd(first, r[1]);
}
ATTNX_INLINE void f64_unzip(f64_v *r) {
    const f64_v even = _mm256_unpacklo_pd(r[0], r[1]), odd = _mm256_unpackhi_pd(r[0], r[1]);
    r[0] = _mm256_permute4x64_pd(even, 0xD8);
    r[1] = _mm256_permute4x64_pd(odd, 0xD8);
}
ATTNX_INLINE void f64_zip(f64_v *r) {
    const f64_v low = _mm256_unpacklo_pd(r[0], r[1]), high = _mm256_unpackhi_pd(r[0], r[1]);
    r[0] = _mm256_permute2f128_pd(low, high, 0x20);
    r[1] = _mm256_permute2f128_pd(low, high, 0x31);
}

/* Rows x vectors of a tile in registers: 12 accumulators, the row of vectors and one broadcast fit 16 registers. With 2
 * vectors and 1 fewer rows would be fewer chains than the multiply-adds under way (8).
 * Few queries: as many chains as multiply-adds under way. Softmax with 1, 2, 4 and 8 exps side by side: 2.23, 2.12, 2.3 to 2.6
 * and 3.1 ns a vector (Zen 3; from 4 on it spills); weights of 3 and 2 vectors of queries side by side 2.14 and 2.12, one by
 * one 2.43 and 2.39. */
enum {
    SCORE_ROWS = 4,
    SCORE_ROWS_2 = 6,
    SCORE_ROWS_1 = 8,
    SCORE_VECS = 3,
    VALUE_ROWS = 6,
    VALUE_VECS = 2,
    PASS_QUERIES = 192,
    SCORE_FEW_SUMS = 8,
    VALUE_FEW_SUMS = 8,
    EXP_SIDE = 2,
    LINEAR_ROWS = 6,
    LINEAR_VECS = 2,
    LINEAR_PART = 12 * 1024
};
