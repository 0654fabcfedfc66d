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

ATTNX_INLINE V(v) K(exp)(V(v) x) {
    const V(v) t = V(fma)(x, V(set1)((real)LOG2E), V(set1)(REAL_ROUND)), n = V(sub)(t, V(set1)(REAL_ROUND));
    V(v) f = V(fms)(n, V(set1)(LN2_HI), x); /* fused on every instruction set */
#if REAL_IS_F64
    f = V(fma)(n, V(set1)(LN2_LO), f);
#endif
    V(v) q = V(set1)(K(exp_poly)[0]);
    ATTNX_UNROLL
    for (int i = 1; i < K(exp_terms); i++) q = V(fma)(q, f, V(set1)(K(exp_poly)[i]));
    return V(scale2)(V(fms)(q, V(mul)(f, f), f), t);
}
#undef LN2_HI
#undef LN2_LO
#undef LOG2E
