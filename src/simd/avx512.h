/* AVX-512 (F, DQ, BW, VL): 16 float32 or 8 float64, 32 registers. See VOCABULARY.md for the words. */
typedef __m512 f32_v;
typedef __mmask16 f32_m;
enum { f32_width = 16 };

ATTNX_INLINE __mmask16 f32_first(ptrdiff_t n) { return (__mmask16)_bzhi_u32(0xFFFFu, (unsigned)n); }
ATTNX_INLINE f32_v f32_load(const float *p) { return _mm512_loadu_ps(p); }
ATTNX_INLINE f32_v f32_load_n(const float *p, ptrdiff_t n) { return _mm512_maskz_loadu_ps(f32_first(n), p); }
ATTNX_INLINE void f32_store(float *p, f32_v v) { _mm512_storeu_ps(p, v); }
ATTNX_INLINE void f32_store_n(float *p, f32_v v, ptrdiff_t n) { _mm512_mask_storeu_ps(p, f32_first(n), v); }
ATTNX_INLINE f32_v f32_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
ATTNX_INLINE f32_v f32_halves(const float *p, const float *q) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(q), 1);
}
ATTNX_INLINE f32_v f32_halves_f16(const uint16_t *p, const uint16_t *q) {
    return _mm512_cvtph_ps(
        _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p)),
                                _mm_loadu_si128((const __m128i *)(const void *)q), 1));
}
ATTNX_INLINE f32_v f32_bf16_low(f32_v pair) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pair), 16));
}
ATTNX_INLINE f32_v f32_bf16_high(f32_v pair) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pair), _mm512_set1_epi32(-65536)));
}
ATTNX_INLINE void f32_store_f16(uint16_t *p, f32_v v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, 0x08));
}
ATTNX_INLINE f32_v f32_load_bf16(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
ATTNX_INLINE void f32_store_bf16(uint16_t *p, f32_v v) {
    const __m512i bits = _mm512_castps_si512(v),
                  odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __m512i either = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), rounded, quiet);
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(either, 16)));
}
ATTNX_INLINE f32_v f32_set1(float x) { return _mm512_set1_ps(x); }
ATTNX_INLINE f32_v f32_iota(void) { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
ATTNX_INLINE f32_v f32_add(f32_v a, f32_v b) { return _mm512_add_ps(a, b); }
ATTNX_INLINE f32_v f32_sub(f32_v a, f32_v b) { return _mm512_sub_ps(a, b); }
ATTNX_INLINE f32_v f32_mul(f32_v a, f32_v b) { return _mm512_mul_ps(a, b); }
ATTNX_INLINE f32_v f32_div(f32_v a, f32_v b) { return _mm512_div_ps(a, b); }
ATTNX_INLINE f32_v f32_max(f32_v a, f32_v b) { return _mm512_max_ps(a, b); }
ATTNX_INLINE f32_v f32_min(f32_v a, f32_v b) { return _mm512_min_ps(a, b); }
ATTNX_INLINE f32_v f32_fma(f32_v a, f32_v b, f32_v c) { return _mm512_fmadd_ps(a, b, c); }
ATTNX_INLINE f32_v f32_fms(f32_v a, f32_v b, f32_v c) { return _mm512_fmsub_ps(a, b, c); }
ATTNX_INLINE f32_v f32_scale2(f32_v r, f32_v t) {
    const __m512 power = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(t), 23));
    const __mmask16 normal = _mm512_cmp_ps_mask(t, _mm512_set1_ps(F32_ROUND - 126), _CMP_NLT_UQ);
    return _mm512_maskz_fmadd_ps(normal, r, power, power);
}
ATTNX_INLINE f32_v f32_abs(f32_v v) { return _mm512_abs_ps(v); }
ATTNX_INLINE f32_m f32_lt(f32_v a, f32_v b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
ATTNX_INLINE f32_m f32_le(f32_v a, f32_v b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
ATTNX_INLINE f32_m f32_eq(f32_v a, f32_v b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
ATTNX_INLINE f32_v f32_select(f32_m m, f32_v a, f32_v b) { return _mm512_mask_blend_ps(m, b, a); }
ATTNX_INLINE int f32_all(f32_m m) { return m == 0xFFFFu; }
ATTNX_INLINE f32_v f32_from_bytes(const uint8_t *p, ptrdiff_t n, f32_v yes, f32_v no) {
    const __m128i bytes = _mm_maskz_loadu_epi8(f32_first(n), p);
    return f32_select(_mm_test_epi8_mask(bytes, bytes), yes, no);
}
ATTNX_INLINE float f32_sum(f32_v v) { return _mm512_reduce_add_ps(v); }
ATTNX_INLINE float f32_hmax(f32_v v) { return _mm512_reduce_max_ps(v); }
/* Lanes of 128 bits: 0 of a, 0 of b, 2 of a, 2 of b; and 1 and 3. */
ATTNX_INLINE __m512d avx512_even(__m512d a, __m512d b) {
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), b);
}
ATTNX_INLINE __m512d avx512_odd(__m512d a, __m512d b) {
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), b);
}
/* Every four of `count` vectors, in each four lanes: lane j of r[i] and lane i of r[j] change places. */
ATTNX_INLINE void avx512_quads(f32_v *r, const int count) {
    f32_v t[16];
    ATTNX_UNROLL
    for (int i = 0; i < count; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    ATTNX_UNROLL
    for (int i = 0; i < count; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xEE);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xEE);
    }
}
ATTNX_INLINE void f32_transpose_halves(f32_v *r) {
    avx512_quads(r, 8);
    ATTNX_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512d low = _mm512_castps_pd(r[i]), high = _mm512_castps_pd(r[i + 4]);
        r[i] = _mm512_castpd_ps(avx512_even(low, high));
        r[i + 4] = _mm512_castpd_ps(avx512_odd(low, high));
    }
}
ATTNX_INLINE void f32_transpose(f32_v *r) {
    f32_v t[16];
    avx512_quads(r, 16);
    ATTNX_UNROLL
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
    }
    ATTNX_UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
    }
}
ATTNX_INLINE void f32_unzip(f32_v *r) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const f32_v first = r[0];
    r[0] = _mm512_permutex2var_ps(first, even, r[1]);
    r[1] = _mm512_permutex2var_ps(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), r[1]);
}
ATTNX_INLINE void f32_zip(f32_v *r) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const f32_v first = r[0];
    r[0] = _mm512_permutex2var_ps(first, low, r[1]);
    r[1] = _mm512_permutex2var_ps(first, _mm512_add_epi32(low, _mm512_set1_epi32(8)), r[1]);
}

typedef __m512d f64_v;
typedef __mmask8 f64_m;
enum { f64_width = 8 };

ATTNX_INLINE __mmask8 f64_first(ptrdiff_t n) { return (__mmask8)_bzhi_u32(0xFFu, (unsigned)n); }
ATTNX_INLINE f64_v f64_load(const double *p) { return _mm512_loadu_pd(p); }
ATTNX_INLINE f64_v f64_load_n(const double *p, ptrdiff_t n) { return _mm512_maskz_loadu_pd(f64_first(n), p); }
ATTNX_INLINE void f64_store(double *p, f64_v v) { _mm512_storeu_pd(p, v); }
ATTNX_INLINE void f64_store_n(double *p, f64_v v, ptrdiff_t n) { _mm512_mask_storeu_pd(p, f64_first(n), v); }
ATTNX_INLINE f64_v f64_set1(double x) { return _mm512_set1_pd(x); }
ATTNX_INLINE f64_v f64_iota(void) { return _mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7); }
ATTNX_INLINE f64_v f64_add(f64_v a, f64_v b) { return _mm512_add_pd(a, b); }
ATTNX_INLINE f64_v f64_sub(f64_v a, f64_v b) { return _mm512_sub_pd(a, b); }
ATTNX_INLINE f64_v f64_mul(f64_v a, f64_v b) { return _mm512_mul_pd(a, b); }
ATTNX_INLINE f64_v f64_div(f64_v a, f64_v b) { return _mm512_div_pd(a, b); }
ATTNX_INLINE f64_v f64_max(f64_v a, f64_v b) { return _mm512_max_pd(a, b); }
ATTNX_INLINE f64_v f64_min(f64_v a, f64_v b) { return _mm512_min_pd(a, b); }
ATTNX_INLINE f64_v f64_fma(f64_v a, f64_v b, f64_v c) { return _mm512_fmadd_pd(a, b, c); }
ATTNX_INLINE f64_v f64_fms(f64_v a, f64_v b, f64_v c) { return _mm512_fmsub_pd(a, b, c); }
ATTNX_INLINE f64_v f64_scale2(f64_v r, f64_v t) {
    const __m512d power = _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(t), 52));
    const __mmask8 normal = _mm512_cmp_pd_mask(t, _mm512_set1_pd(F64_ROUND - 1022), _CMP_NLT_UQ);
    return _mm512_maskz_fmadd_pd(normal, r, power, power);
}
ATTNX_INLINE f64_v f64_abs(f64_v v) { return _mm512_abs_pd(v); }
ATTNX_INLINE f64_m f64_lt(f64_v a, f64_v b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
ATTNX_INLINE f64_m f64_le(f64_v a, f64_v b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
ATTNX_INLINE f64_m f64_eq(f64_v a, f64_v b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
ATTNX_INLINE f64_v f64_select(f64_m m, f64_v a, f64_v b) { return _mm512_mask_blend_pd(m, b, a); }
ATTNX_INLINE int f64_all(f64_m m) { return m == 0xFFu; }
ATTNX_INLINE f64_v f64_from_bytes(const uint8_t *p, ptrdiff_t n, f64_v yes, f64_v no) {
    const __m128i bytes = _mm_maskz_loadu_epi8(f64_first(n), p);
    return f64_select((f64_m)_mm_test_epi8_mask(bytes, bytes), yes, no);
}
ATTNX_INLINE double f64_sum(f64_v v) { return _mm512_reduce_add_pd(v); }
ATTNX_INLINE double f64_hmax(f64_v v) { return _mm512_reduce_max_pd(v); }
ATTNX_INLINE void f64_transpose(f64_v *r) {
    f64_v t[8];
    ATTNX_UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_pd(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_pd(r[i], r[i + 1]);
    }
    ATTNX_UNROLL
    for (int i = 0; i < 2; i++) {
        r[i] = _mm512_shuffle_f64x2(t[i], t[i + 2], 0x88);
        r[i + 2] = _mm512_shuffle_f64x2(t[i], t[i + 2], 0xDD);
        r[i + 4] = _mm512_shuffle_f64x2(t[i + 4], t[i + 6], 0x88);
        r[i + 6] = _mm512_shuffle_f64x2(t[i + 4], t[i + 6], 0xDD);
    }
    ATTNX_UNROLL
    for (int i = 0; i < 2; i++) {
        t[i] = _mm512_shuffle_f64x2(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f64x2(r[i], r[i + 4], 0xDD);
        t[i + 2] = _mm512_shuffle_f64x2(r[i + 2], r[i + 6], 0x88);
        t[i + 6] = _mm512_shuffle_f64x2(r[i + 2], r[i + 6], 0xDD);
    }
    ATTNX_UNROLL
    for (int i = 0; i < 8; i++) r[i] = t[i];
}
ATTNX_INLINE f64_v f64_halves(const double *p, const double *q) {
    return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(p)), _mm256_loadu_pd(q), 1);
}
ATTNX_INLINE void f64_transpose_halves(f64_v *r) {
    const f64_v a = _mm512_unpacklo_pd(r[0], r[1]), b = _mm512_unpackhi_pd(r[0], r[1]);
    const f64_v c = _mm512_unpacklo_pd(r[2], r[3]), d = _mm512_unpackhi_pd(r[2], r[3]);
    r[0] = avx512_even(a, c);
    r[1] = avx512_even(b, d);
    r[2] = avx512_odd(a, c);
    r[3] = avx512_odd(b, d);
}
ATTNX_INLINE void f64_unzip(f64_v *r) {
    const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    const f64_v first = r[0];
    r[0] = _mm512_permutex2var_pd(first, even, r[1]);
    r[1] = _mm512_permutex2var_pd(first, _mm512_add_epi64(even, _mm512_set1_epi64(1)), r[1]);
}
ATTNX_INLINE void f64_zip(f64_v *r) {
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const f64_v first = r[0];
    r[0] = _mm512_permutex2var_pd(first, low, r[1]);
    r[1] = _mm512_permutex2var_pd(first, _mm512_add_epi64(low, _mm512_set1_epi64(4)), r[1]);
}

/* Rows x vectors of a tile in registers: 24 accumulators, the row of vectors and one broadcast fit 32 registers; the loop
 * alone reaches 96 to 99 % of the limit. On a Sapphire Rapids: 4 queries on 1024 keys of 128 bfloat16 in L2 take 79 cycles a
 * key with 8 or 16 sums of scores, and 79, 84 and 87 with 16, 24 and 32 of values; softmax with 2 and 4 exps side by side is
 * the same; parts of 24 KiB and 12 KiB of panels: 94 and 92 % at 128 x 384 -> 384. PASS_QUERIES: see attention_run.h. */
enum {
    SCORE_ROWS = 8,
    SCORE_ROWS_2 = 8,
    SCORE_ROWS_1 = 8,
    SCORE_VECS = 3,
    VALUE_ROWS = 6,
    VALUE_VECS = 4,
    PASS_QUERIES = 384,
    SCORE_FEW_SUMS = 8,
    VALUE_FEW_SUMS = 16,
    EXP_SIDE = 2,
    LINEAR_ROWS = 8,
    LINEAR_VECS = 3,
    LINEAR_PART = 24 * 1024
};
