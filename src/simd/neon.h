/* NEON (AArch64): 4 float32 or 2 float64, 32 registers. See VOCABULARY.md for the words. */
typedef float32x4_t f32_v;
typedef uint32x4_t f32_m;
enum { f32_width = 4 };

ATTNX_INLINE f32_v f32_load(const float *p) { return vld1q_f32(p); }
ATTNX_INLINE void f32_store(float *p, f32_v v) { vst1q_f32(p, v); }
ATTNX_INLINE f32_v f32_load_n(const float *p, ptrdiff_t n) {
    float lanes[4] = {0, 0, 0, 0};
    for (ptrdiff_t i = 0; i < n; i++) lanes[i] = p[i];
    return vld1q_f32(lanes);
}
ATTNX_INLINE void f32_store_n(float *p, f32_v v, ptrdiff_t n) {
    float lanes[4];
    vst1q_f32(lanes, v);
    for (ptrdiff_t i = 0; i < n; i++) p[i] = lanes[i];
}
ATTNX_INLINE f32_v f32_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
ATTNX_INLINE void f32_store_f16(uint16_t *p, f32_v v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
ATTNX_INLINE f32_v f32_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
ATTNX_INLINE void f32_store_bf16(uint16_t *p, f32_v v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(p, vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16));
}
ATTNX_INLINE f32_v f32_set1(float x) { return vdupq_n_f32(x); }
ATTNX_INLINE f32_v f32_iota(void) {
    static const float lanes[4] = {0, 1, 2, 3};
    return vld1q_f32(lanes);
}
ATTNX_INLINE f32_v f32_add(f32_v a, f32_v b) { return vaddq_f32(a, b); }
ATTNX_INLINE f32_v f32_sub(f32_v a, f32_v b) { return vsubq_f32(a, b); }
ATTNX_INLINE f32_v f32_mul(f32_v a, f32_v b) { return vmulq_f32(a, b); }
ATTNX_INLINE f32_v f32_div(f32_v a, f32_v b) { return vdivq_f32(a, b); }
ATTNX_INLINE f32_v f32_max(f32_v a, f32_v b) { return vmaxq_f32(a, b); }
ATTNX_INLINE f32_v f32_min(f32_v a, f32_v b) { return vminq_f32(a, b); }
ATTNX_INLINE f32_v f32_fma(f32_v a, f32_v b, f32_v c) { return vfmaq_f32(c, a, b); }
ATTNX_INLINE f32_v f32_fms(f32_v a, f32_v b, f32_v c) { return vfmaq_f32(vnegq_f32(c), a, b); }
ATTNX_INLINE f32_v f32_scale2(f32_v r, f32_v t) {
    const float32x4_t power = vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(t), 23));
    const uint32x4_t tiny = vcltq_f32(t, vdupq_n_f32(F32_ROUND - 126));
    return vbslq_f32(tiny, vdupq_n_f32(0), vfmaq_f32(power, r, power));
}
ATTNX_INLINE f32_v f32_abs(f32_v v) { return vabsq_f32(v); }
ATTNX_INLINE f32_m f32_lt(f32_v a, f32_v b) { return vcltq_f32(a, b); }
ATTNX_INLINE f32_m f32_le(f32_v a, f32_v b) { return vcleq_f32(a, b); }
ATTNX_INLINE f32_m f32_eq(f32_v a, f32_v b) { return vceqq_f32(a, b); }
ATTNX_INLINE f32_v f32_select(f32_m m, f32_v a, f32_v b) { return vbslq_f32(m, a, b); }
ATTNX_INLINE int f32_all(f32_m m) { return vminvq_u32(m) != 0; }
ATTNX_INLINE f32_v f32_from_bytes(const uint8_t *p, ptrdiff_t n, f32_v yes, f32_v no) {
    uint32_t lanes[4] = {0, 0, 0, 0};
    for (ptrdiff_t i = 0; i < n; i++) lanes[i] = p[i] ? ~0u : 0u;
    return vbslq_f32(vld1q_u32(lanes), yes, no);
}
ATTNX_INLINE float f32_sum(f32_v v) { return vaddvq_f32(v); }
ATTNX_INLINE float f32_hmax(f32_v v) { return vmaxvq_f32(v); }
ATTNX_INLINE void f32_transpose(f32_v *r) {
    const float32x4x2_t lo = vtrnq_f32(r[0], r[1]), hi = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(lo.val[0]), vget_low_f32(hi.val[0]));
    r[1] = vcombine_f32(vget_low_f32(lo.val[1]), vget_low_f32(hi.val[1]));
    r[2] = vcombine_f32(vget_high_f32(lo.val[0]), vget_high_f32(hi.val[0]));
    r[3] = vcombine_f32(vget_high_f32(lo.val[1]), vget_high_f32(hi.val[1]));
}
ATTNX_INLINE f32_v f32_halves(const float *p, const float *q) { return vcombine_f32(vld1_f32(p), vld1_f32(q)); }
ATTNX_INLINE f32_v f32_halves_f16(const void *p, const void *q) {
    uint32_t pairs[2];
    memcpy(&pairs[0], p, 4);
    memcpy(&pairs[1], q, 4);
    return vcvt_f32_f16(vreinterpret_f16_u32(vld1_u32(pairs)));
}
ATTNX_INLINE f32_v f32_bf16_low(f32_v pair) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(pair), 16));
}
ATTNX_INLINE f32_v f32_bf16_high(f32_v pair) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(pair), vdupq_n_u32(0xFFFF0000)));
}
ATTNX_INLINE void f32_transpose_halves(f32_v *r) {
    const f32_v first = r[0];
    r[0] = vtrn1q_f32(first, r[1]);
    r[1] = vtrn2q_f32(first, r[1]);
}
ATTNX_INLINE void f32_unzip(f32_v *r) {
    const f32_v first = r[0];
    r[0] = vuzp1q_f32(first, r[1]);
    r[1] = vuzp2q_f32(first, r[1]);
}
ATTNX_INLINE void f32_zip(f32_v *r) {
    const f32_v first = r[0];
    r[0] = vzip1q_f32(first, r[1]);
    r[1] = vzip2q_f32(first, r[1]);
}

typedef float64x2_t f64_v;
typedef uint64x2_t f64_m;
enum { f64_width = 2 };

ATTNX_INLINE f64_v f64_load(const double *p) { return vld1q_f64(p); }
ATTNX_INLINE void f64_store(double *p, f64_v v) { vst1q_f64(p, v); }
ATTNX_INLINE f64_v f64_load_n(const double *p, ptrdiff_t n) {
    const double lanes[2] = {n > 0 ? p[0] : 0.0, n > 1 ? p[1] : 0.0};
    return vld1q_f64(lanes);
}
ATTNX_INLINE void f64_store_n(double *p, f64_v v, ptrdiff_t n) {
    if (n > 0) p[0] = vgetq_lane_f64(v, 0);
    if (n > 1) p[1] = vgetq_lane_f64(v, 1);
}
ATTNX_INLINE f64_v f64_set1(double x) { return vdupq_n_f64(x); }
ATTNX_INLINE f64_v f64_iota(void) {
    static const double lanes[2] = {0, 1};
    return vld1q_f64(lanes);
}
ATTNX_INLINE f64_v f64_add(f64_v a, f64_v b) { return vaddq_f64(a, b); }
ATTNX_INLINE f64_v f64_sub(f64_v a, f64_v b) { return vsubq_f64(a, b); }
ATTNX_INLINE f64_v f64_mul(f64_v a, f64_v b) { return vmulq_f64(a, b); }
ATTNX_INLINE f64_v f64_div(f64_v a, f64_v b) { return vdivq_f64(a, b); }
ATTNX_INLINE f64_v f64_max(f64_v a, f64_v b) { return vmaxq_f64(a, b); }
ATTNX_INLINE f64_v f64_min(f64_v a, f64_v b) { return vminq_f64(a, b); }
ATTNX_INLINE f64_v f64_fma(f64_v a, f64_v b, f64_v c) { return vfmaq_f64(c, a, b); }
ATTNX_INLINE f64_v f64_fms(f64_v a, f64_v b, f64_v c) { return vfmaq_f64(vnegq_f64(c), a, b); }
ATTNX_INLINE f64_v f64_scale2(f64_v r, f64_v t) {
    const float64x2_t power = vreinterpretq_f64_s64(vshlq_n_s64(vreinterpretq_s64_f64(t), 52));
    const uint64x2_t tiny = vcltq_f64(t, vdupq_n_f64(F64_ROUND - 1022));
    return vbslq_f64(tiny, vdupq_n_f64(0), vfmaq_f64(power, r, power));
}
ATTNX_INLINE f64_v f64_abs(f64_v v) { return vabsq_f64(v); }
ATTNX_INLINE f64_m f64_lt(f64_v a, f64_v b) { return vcltq_f64(a, b); }
ATTNX_INLINE f64_m f64_le(f64_v a, f64_v b) { return vcleq_f64(a, b); }
ATTNX_INLINE f64_m f64_eq(f64_v a, f64_v b) { return vceqq_f64(a, b); }
ATTNX_INLINE f64_v f64_select(f64_m m, f64_v a, f64_v b) { return vbslq_f64(m, a, b); }
ATTNX_INLINE int f64_all(f64_m m) { return vgetq_lane_u64(m, 0) && vgetq_lane_u64(m, 1); }
ATTNX_INLINE f64_v f64_from_bytes(const uint8_t *p, ptrdiff_t n, f64_v yes, f64_v no) {
    const uint64_t lanes[2] = {n > 0 && p[0] ? ~0ull : 0, n > 1 && p[1] ? ~0ull : 0};
    return vbslq_f64(vld1q_u64(lanes), yes, no);
}
ATTNX_INLINE double f64_sum(f64_v v) { return vaddvq_f64(v); }
ATTNX_INLINE double f64_hmax(f64_v v) { return vmaxvq_f64(v); }
ATTNX_INLINE void f64_transpose(f64_v *r) {
    const f64_v first = r[0];
    r[0] = vtrn1q_f64(first, r[1]);
    r[1] = vtrn2q_f64(first, r[1]);
}
ATTNX_INLINE f64_v f64_halves(const double *p, const double *q) { return vcombine_f64(vld1_f64(p), vld1_f64(q)); }
ATTNX_INLINE void f64_transpose_halves(f64_v *r) { (void)r; } /* halves of one lane */
ATTNX_INLINE void f64_unzip(f64_v *r) { f64_transpose(r); }
ATTNX_INLINE void f64_zip(f64_v *r) { f64_transpose(r); }

/* Rows x vectors of a tile in registers: 24 accumulators, the row of vectors and one broadcast fit 32 registers.
 * SCORE_FEW_SUMS, EXP_SIDE, PASS_QUERIES and LINEAR_PART are those of AVX2, not measured here. */
enum {
    SCORE_ROWS = 8,
    SCORE_ROWS_2 = 8,
    SCORE_ROWS_1 = 8,
    SCORE_VECS = 3,
    VALUE_ROWS = 6,
    VALUE_VECS = 4,
    PASS_QUERIES = 192,
    SCORE_FEW_SUMS = 8,
    VALUE_FEW_SUMS = 16,
    EXP_SIDE = 2,
    LINEAR_ROWS = 6,
    LINEAR_VECS = 4,
    LINEAR_PART = 12 * 1024
};
