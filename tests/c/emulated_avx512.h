/* The AVX-512 instructions of src/simd/avx512.h made of AVX2 ones and of GCC's operators on vectors of 64 bytes, so
 * that the table is tested where AVX-512 is not: qemu-user does not know it. The Makefile includes this before each
 * source and answers for the processor.
 *
 * Written by the descriptions of the instructions, for the operands that simd/avx512.h has: control bytes are
 * constants, operands have no side effects. A masked load or store touches the lanes of its mask alone, one by one, so
 * AddressSanitizer sees what a real one would fault on. Only for GCC, with optimisation.
 */
#include <immintrin.h>
#include <stdint.h>

#include "target.h"

#undef ATTNX_TARGET_BEGIN
#define ATTNX_TARGET_BEGIN(features) ATTNX_PRAGMA(GCC push_options) ATTNX_PRAGMA(GCC target("avx2,fma,f16c,bmi,bmi2"))

ATTNX_TARGET_BEGIN("")
typedef int32_t emulated_i32 __attribute__((vector_size(64)));
typedef uint32_t emulated_u32 __attribute__((vector_size(64)));
typedef int64_t emulated_i64 __attribute__((vector_size(64)));
typedef uint64_t emulated_u64 __attribute__((vector_size(64)));
typedef uint16_t emulated_u16 __attribute__((vector_size(32)));

/* What differs between float32 and float64 in type names alone; called, not inlined, for the compiler's time. */
#define EMULATED_CALL static __attribute__((noinline, unused))
#define EMULATED_WORDS(t, vector, half_vector, mask, real, lanes)                  \
    union emulated_##t {                                                           \
        vector all;                                                                \
        half_vector half[2];                                                       \
    };                                                                             \
    EMULATED_CALL vector emulated_blend_##t(mask m, vector a, vector b) {          \
        for (int i = 0; i < lanes; i++) a[i] = m >> i & 1 ? b[i] : a[i];           \
        return a;                                                                  \
    }                                                                              \
    EMULATED_CALL vector emulated_load_##t(mask m, const real *p) {                \
        vector v = {0};                                                            \
        for (int i = 0; i < lanes; i++)                                            \
            if (m >> i & 1) v[i] = p[i];                                           \
        return v;                                                                  \
    }                                                                              \
    EMULATED_CALL void emulated_store_##t(real *p, mask m, vector v) {             \
        for (int i = 0; i < lanes; i++)                                            \
            if (m >> i & 1) p[i] = v[i];                                           \
    }                                                                              \
    EMULATED_CALL real emulated_sum_##t(vector v) { /* in the tree of GCC's own */ \
        for (int n = lanes / 2; n > 0; n /= 2)                                     \
            for (int i = 0; i < n; i++) v[i] += v[i + n];                          \
        return v[0];                                                               \
    }                                                                              \
    EMULATED_CALL real emulated_hmax_##t(vector v) {                               \
        for (int i = 1; i < lanes; i++) v[0] = v[0] > v[i] ? v[0] : v[i];          \
        return v[0];                                                               \
    }
EMULATED_WORDS(ps, __m512, __m256, __mmask16, float, 16)
EMULATED_WORDS(pd, __m512d, __m256d, __mmask8, double, 8)

EMULATED_CALL __m128i emulated_load_bytes(__mmask16 m, const uint8_t *p) {
    __v16qi v = {0};
    for (int i = 0; i < 16; i++)
        if (m >> i & 1) v[i] = (char)p[i];
    return (__m128i)v;
}
ATTNX_TARGET_END

/* A half of a vector, and both halves by an instruction of AVX2. */
#define EMULATED_HALF(t, v, h) (((union emulated_##t){v}).half[h])
#define EMULATED_BOTH(t, low, high) (((union emulated_##t){.half = {low, high}}).all)
#define EMULATED_TWO(t, op, a, b)                                        \
    EMULATED_BOTH(t, op(EMULATED_HALF(t, a, 0), EMULATED_HALF(t, b, 0)), \
                  op(EMULATED_HALF(t, a, 1), EMULATED_HALF(t, b, 1)))
#define EMULATED_FMADD(t, a, b, c)                                                                             \
    EMULATED_BOTH(t, _mm256_fmadd_##t(EMULATED_HALF(t, a, 0), EMULATED_HALF(t, b, 0), EMULATED_HALF(t, c, 0)), \
                  _mm256_fmadd_##t(EMULATED_HALF(t, a, 1), EMULATED_HALF(t, b, 1), EMULATED_HALF(t, c, 1)))
#define EMULATED_COMPARE(t, a, b, op, lanes)                                                   \
    (_mm256_movemask_##t(_mm256_cmp_##t(EMULATED_HALF(t, a, 0), EMULATED_HALF(t, b, 0), op)) | \
     _mm256_movemask_##t(_mm256_cmp_##t(EMULATED_HALF(t, a, 1), EMULATED_HALF(t, b, 1), op)) << (lanes))
/* The lanes that a control byte chooses, two of a and two of b; pairs of float64 likewise. */
#define EMULATED_FOUR(c, at) ((c) & 3) + (at), ((c) >> 2 & 3) + (at), ((c) >> 4 & 3) + (at) + 16, ((c) >> 6) + (at) + 16
#define EMULATED_PAIR(c, at) ((c) & 3) * 2 + (at), ((c) & 3) * 2 + (at) + 1

/* Of integers and storage. */
#define _mm512_and_si512(a, b) ((a) & (b))
#define _mm512_or_si512(a, b) ((a) | (b))
#define _mm512_srli_epi32(v, count) ((__m512i)((emulated_u32)(v) >> (count)))
#define _mm512_mask_blend_epi32(m, a, b) ((__m512i)emulated_blend_ps(m, (__m512)(a), (__m512)(b)))
#define _mm512_cvtepu16_epi32(v) ((__m512i) __builtin_convertvector((emulated_u16)(v), emulated_u32))
#define _mm512_cvtepi32_epi16(v) ((__m256i) __builtin_convertvector((emulated_u32)(v), emulated_u16))
#define _mm512_cvtph_ps(v) \
    EMULATED_BOTH(ps, _mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)))
#define _mm512_cvtps_ph(v, rounding)                                     \
    _mm256_set_m128i(_mm256_cvtps_ph(EMULATED_HALF(ps, v, 1), rounding), \
                     _mm256_cvtps_ph(EMULATED_HALF(ps, v, 0), rounding))
#define _mm_maskz_loadu_epi8(m, p) emulated_load_bytes(m, p)
#define _mm_test_epi8_mask(a, b) \
    ((__mmask16)~_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(a, b), _mm_setzero_si128())))
#define _mm512_shuffle_ps(a, b, c) \
    __builtin_shuffle(             \
        a, b, (emulated_i32){EMULATED_FOUR(c, 0), EMULATED_FOUR(c, 4), EMULATED_FOUR(c, 8), EMULATED_FOUR(c, 12)})
#define _mm512_shuffle_f64x2(a, b, c)                                                                             \
    __builtin_shuffle(a, b,                                                                                       \
                      (emulated_i64){EMULATED_PAIR(c, 0), EMULATED_PAIR((c) >> 2, 0), EMULATED_PAIR((c) >> 4, 8), \
                                     EMULATED_PAIR((c) >> 6, 8)})
#define _mm512_shuffle_f32x4(a, b, c) ((__m512)_mm512_shuffle_f64x2((__m512d)(a), (__m512d)(b), c))

/* Of float32. */
#define _mm512_loadu_ps(p) (*(const __m512_u *)(p))
#define _mm512_maskz_loadu_ps(m, p) emulated_load_ps(m, p)
#define _mm512_storeu_ps(p, v) (*(__m512_u *)(p) = (v))
#define _mm512_mask_storeu_ps(p, m, v) emulated_store_ps(p, m, v)
#define _mm512_set1_ps(x) ((x) - (__m512){0})
#undef _mm512_setr_ps
#define _mm512_setr_ps(...) ((__m512){__VA_ARGS__})
#define _mm512_set1_epi32(x) ((__m512i)((emulated_i32){0} + (x)))
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) ((__m512i)(emulated_i32){__VA_ARGS__})
#define _mm512_castps_si512(v) ((__m512i)(v))
#define _mm512_castsi512_ps(v) ((__m512)(v))
#define _mm512_castps_pd(v) ((__m512d)(v))
#define _mm512_castpd_ps(v) ((__m512)(v))
/* The upper half is not defined: NaN. */
#define _mm512_castps256_ps512(v) EMULATED_BOTH(ps, v, _mm256_set1_ps(__builtin_nanf("")))
#define _mm512_insertf32x8(v, half, at) \
    EMULATED_BOTH(ps, (at) ? EMULATED_HALF(ps, v, 0) : (half), (at) ? (half) : EMULATED_HALF(ps, v, 1))
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_sub_ps(a, b) ((a) - (b))
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_div_ps(a, b) ((a) / (b))
#define _mm512_max_ps(a, b) EMULATED_TWO(ps, _mm256_max_ps, a, b)
#define _mm512_min_ps(a, b) EMULATED_TWO(ps, _mm256_min_ps, a, b)
#define _mm512_fmadd_ps(a, b, c) EMULATED_FMADD(ps, a, b, c)
#define _mm512_fmsub_ps(a, b, c) EMULATED_FMADD(ps, a, b, -(c))
#define _mm512_maskz_fmadd_ps(m, a, b, c) emulated_blend_ps(m, (__m512){0}, EMULATED_FMADD(ps, a, b, c))
#define _mm512_mask_blend_ps(m, a, b) emulated_blend_ps(m, a, b)
#define _mm512_abs_ps(v) ((__m512)((emulated_i32)(v) & INT32_MAX))
#define _mm512_add_epi32(a, b) ((__m512i)((emulated_u32)(a) + (emulated_u32)(b)))
#define _mm512_slli_epi32(v, count) ((__m512i)((emulated_u32)(v) << (count)))
#define _mm512_cmp_ps_mask(a, b, op) EMULATED_COMPARE(ps, a, b, op, 8)
#define _mm512_reduce_add_ps(v) emulated_sum_ps(v)
#define _mm512_reduce_max_ps(v) emulated_hmax_ps(v)
#define _mm512_permutex2var_ps(a, index, b) __builtin_shuffle(a, b, (emulated_i32)(index))
#define _mm512_unpacklo_ps(a, b) \
    __builtin_shuffle(a, b, (emulated_i32){0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29})
#define _mm512_unpackhi_ps(a, b) \
    __builtin_shuffle(a, b, (emulated_i32){2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31})

/* Of float64. */
#define _mm512_loadu_pd(p) (*(const __m512d_u *)(p))
#define _mm512_maskz_loadu_pd(m, p) emulated_load_pd(m, p)
#define _mm512_storeu_pd(p, v) (*(__m512d_u *)(p) = (v))
#define _mm512_mask_storeu_pd(p, m, v) emulated_store_pd(p, m, v)
#define _mm512_set1_pd(x) ((x) - (__m512d){0})
#undef _mm512_setr_pd
#define _mm512_setr_pd(...) ((__m512d){__VA_ARGS__})
#define _mm512_set1_epi64(x) ((__m512i)((emulated_i64){0} + (x)))
#undef _mm512_setr_epi64
#define _mm512_setr_epi64(...) ((__m512i)(emulated_i64){__VA_ARGS__})
#define _mm512_castpd_si512(v) ((__m512i)(v))
#define _mm512_castsi512_pd(v) ((__m512d)(v))
#define _mm512_castpd256_pd512(v) EMULATED_BOTH(pd, v, _mm256_set1_pd(__builtin_nan("")))
#define _mm512_insertf64x4(v, half, at) \
    EMULATED_BOTH(pd, (at) ? EMULATED_HALF(pd, v, 0) : (half), (at) ? (half) : EMULATED_HALF(pd, v, 1))
#define _mm512_add_pd(a, b) ((a) + (b))
#define _mm512_sub_pd(a, b) ((a) - (b))
#define _mm512_mul_pd(a, b) ((a) * (b))
#define _mm512_div_pd(a, b) ((a) / (b))
#define _mm512_max_pd(a, b) EMULATED_TWO(pd, _mm256_max_pd, a, b)
#define _mm512_min_pd(a, b) EMULATED_TWO(pd, _mm256_min_pd, a, b)
#define _mm512_fmadd_pd(a, b, c) EMULATED_FMADD(pd, a, b, c)
#define _mm512_fmsub_pd(a, b, c) EMULATED_FMADD(pd, a, b, -(c))
#define _mm512_maskz_fmadd_pd(m, a, b, c) emulated_blend_pd(m, (__m512d){0}, EMULATED_FMADD(pd, a, b, c))
#define _mm512_mask_blend_pd(m, a, b) emulated_blend_pd(m, a, b)
#define _mm512_abs_pd(v) ((__m512d)((emulated_i64)(v) & INT64_MAX))
#define _mm512_add_epi64(a, b) ((__m512i)((emulated_u64)(a) + (emulated_u64)(b)))
#define _mm512_slli_epi64(v, count) ((__m512i)((emulated_u64)(v) << (count)))
#define _mm512_cmp_pd_mask(a, b, op) EMULATED_COMPARE(pd, a, b, op, 4)
#define _mm512_reduce_add_pd(v) emulated_sum_pd(v)
#define _mm512_reduce_max_pd(v) emulated_hmax_pd(v)
#define _mm512_permutex2var_pd(a, index, b) __builtin_shuffle(a, b, (emulated_i64)(index))
#define _mm512_unpacklo_pd(a, b) __builtin_shuffle(a, b, (emulated_i64){0, 8, 2, 10, 4, 12, 6, 14})
#define _mm512_unpackhi_pd(a, b) __builtin_shuffle(a, b, (emulated_i64){1, 9, 3, 11, 5, 13, 7, 15})
