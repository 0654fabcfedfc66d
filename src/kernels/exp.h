/* exp(x) = 2^n * 2^f with n = round(x log2 e) and f in [-1/2, 1/2].
 *
 * 2^f is a minimax polynomial with the constant term held at 1, so exp(0) is exactly 1: a block of keys that a row does
 * not see then scales its state by exactly 1. Relative error of the polynomial 2.6e-9 (degree 6) for float32 and
 * 1.8e-17 (degree 11) for float64. log2 e is taken in two parts, or its rounding alone would cost 17 ULP at x = -80.
 * Below the normal numbers the result is 0 (an error of at most 1.2e-38), so no denormal slows what follows.
 * A NaN gives a NaN.
 */
#if REAL_IS_F64
static const double K(exp_poly)[] = {4.0780717860928704154e-10, 7.0725703945407994337e-9, 1.0180647660573069343e-7,
                                     1.3215442675452855182e-6,  1.5252727385189774784e-5, 1.5403530441571850099e-4,
                                     1.333355815343996974e-3,   9.6181291076070026171e-3, 5.5504108664790394528e-2,
                                     0.24022650695910098006,    0.69314718055994569675,   1.0};
enum { K(exp_terms) = 12 };
#define LOG2E_HI 1.4426950408889634074
#define LOG2E_LO 2.0355273740931033e-17
#else
static const float K(exp_poly)[] = {
    1.55946770e-4f, 1.34066438e-3f, 9.61769298e-3f, 5.55031055e-2f, 0.240226528f, 0.693147215f, 1.0f};
enum { K(exp_terms) = 7 };
#define LOG2E_HI 1.44269502f
#define LOG2E_LO 1.92596303e-8f
#endif

ATTNX_INLINE V(v) K(exp)(V(v) x) {
    const V(v) n = V(round)(V(mul)(x, V(set1)(LOG2E_HI)));
    V(v) f = V(fms)(x, V(set1)(LOG2E_HI), n);
    f = V(fma)(x, V(set1)(LOG2E_LO), f);
    V(v) p = V(set1)(K(exp_poly)[0]);
    ATTNX_UNROLL
    for (int i = 1; i < K(exp_terms); i++) p = V(fma)(p, f, V(set1)(K(exp_poly)[i]));
    return V(ldexp)(p, n);
}
#undef LOG2E_HI
#undef LOG2E_LO
