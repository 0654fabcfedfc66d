/* exp(x) = 2^n * e^-f with n = round(x log2 e) and f = n ln 2 - x, |f| <= 0.3466.
 *
 * e^-f = 1 + (f^2 q(f) - f) with a near-minimax polynomial q, so exp(0) is exactly 1: a block of keys that a row does
 * not see then scales its state by exactly 1; and only the last sum rounds at the size of the result. Relative error
 * of the form 3.9e-9 (q of degree 4) for float32 and 1.6e-17 (degree 9) for float64. The rounding of ln 2 adds
 * |x| * 2.7e-9 in float32 (0.5 ULP at x = -20, where the weight is 2e-9); in float64 it would be 100 ULP at x = -700,
 * so there the rest of ln 2 follows. n is rounded by adding a number whose low bits are then the exponent of 2^n, and
 * 2^n (1 + r) is one multiply-add: 12 instructions, 9 of them on the multiply ports, which are the limit. x is at most
 * 88 (709 in float64). Where n is below the exponent of
 * the least normal number the result is 0 (an error of at most 1.2e-38). A NaN gives a NaN.
 */
#if REAL_IS_F64
static const double K(exp_poly)[] = {-2.5100472505694996e-8, 2.7620201591031547e-7,  -2.7557268276905696e-6,
                                     2.4801521057868204e-5,  -1.9841269863171557e-4, 1.3888888917367081e-3,
                                     -8.333333333330039e-3,  0.041666666666623824,   -0.16666666666666669,
                                     0.5000000000000001};
enum { K(exp_terms) = 10 };
#define LN2_HI 0.69314718055994528623
#define LN2_LO 2.3190468138462995584e-17
#else
static const float K(exp_poly)[] = {1.38145986e-3f, -8.36871697e-3f, 4.16683881e-2f, -0.166665206f, 0.499999934f};
enum { K(exp_terms) = 5 };
#define LN2_HI 0.693147182f
#endif
#define LOG2E 1.4426950408889634074

/* exp of `count` vectors in place, at most EXP_MOST, side by side: one is a chain of 40 cycles, more than a scheduler of 64
 * entries sees past. */
#define EXP_MOST 4
_Static_assert(EXP_SIDE <= EXP_MOST && SCORE_VECS <= EXP_MOST, "groups of exps");

ATTNX_INLINE void K(exps)(V(v) *x, const int count) {
    V(v) t[EXP_MOST], f[EXP_MOST], q[EXP_MOST];
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) {
        t[i] = V(fma)(x[i], V(set1)((real)LOG2E), V(set1)(REAL_ROUND));
        q[i] = V(set1)(K(exp_poly)[0]);
    }
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) {
        const V(v) n = V(sub)(t[i], V(set1)(REAL_ROUND));
        f[i] = V(fms)(n, V(set1)(LN2_HI), x[i]); /* fused on every instruction set */
#if REAL_IS_F64
        f[i] = V(fma)(n, V(set1)(LN2_LO), f[i]);
#endif
    }
    ATTNX_UNROLL
    for (int k = 1; k < K(exp_terms); k++) {
        ATTNX_UNROLL
        for (int i = 0; i < count; i++) q[i] = V(fma)(q[i], f[i], V(set1)(K(exp_poly)[k]));
    }
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) x[i] = V(scale2)(V(fms)(q[i], V(mul)(f[i], f[i]), f[i]), t[i]);
}

ATTNX_INLINE V(v) K(exp)(V(v) x) {
    K(exps)(&x, 1);
    return x;
}
#undef LN2_HI
#undef LN2_LO
#undef LOG2E
