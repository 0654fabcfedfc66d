/* tanh(x) = x + x^3 p(x^2) for |x| < 0.55, else sign(x) (1 - t) / (1 + t) with t = exp(-2 |x|).
 *
 * p is a minimax polynomial, relative error of tanh 1.0e-9 (degree 4, float32) and 5.8e-19 (degree 10, float64). In the
 * second range t < 1/3, so 1 - t loses no digit that matters. At most 2 ULP in all; a NaN gives a NaN.
 */
#if REAL_IS_F64
static const double K(tanh_poly)[] = {-1.94946720229016293e-5, 8.33164188513447231e-5,  -2.33381542486380184e-4,
                                      5.88444475896191112e-4,  -1.45554284284508356e-3, 3.59209202990659381e-3,
                                      -8.8632326013787763e-3,  2.18694883858511683e-2,  -5.39682539637604036e-2,
                                      0.133333333333266203,    -0.333333333333332984};
enum { K(tanh_terms) = 11 };
#else
static const float K(tanh_poly)[] = {-6.27423944e-3f, 2.10716789e-2f, -5.38523099e-2f, 0.133325861f, -0.333333176f};
enum { K(tanh_terms) = 5 };
#endif

/* tanh of `count` vectors in place, at most EXP_MOST, side by side as in exp.h. */
ATTNX_INLINE void K(tanhs)(V(v) *x, const int count) {
    const V(v) one = V(set1)(1);
    V(v) t[EXP_MOST], near[EXP_MOST];
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) t[i] = V(mul)(V(abs)(x[i]), V(set1)(-2)), near[i] = V(set1)(K(tanh_poly)[0]);
    K(exps)(t, count);
    ATTNX_UNROLL
    for (int k = 1; k < K(tanh_terms); k++) {
        ATTNX_UNROLL
        for (int i = 0; i < count; i++) near[i] = V(fma)(near[i], V(mul)(x[i], x[i]), V(set1)(K(tanh_poly)[k]));
    }
    ATTNX_UNROLL
    for (int i = 0; i < count; i++) {
        near[i] = V(fma)(V(mul)(x[i], V(mul)(x[i], x[i])), near[i], x[i]);
        const V(v) far = V(div)(V(sub)(one, t[i]), V(add)(one, t[i]));
        const V(v) signed_far = V(select)(V(lt)(x[i], V(set1)(0)), V(sub)(V(set1)(0), far), far);
        x[i] = V(select)(V(lt)(V(abs)(x[i]), V(set1)((real)0.55)), near[i], signed_far);
    }
}

ATTNX_INLINE V(v) K(tanh)(V(v) x) {
    K(tanhs)(&x, 1);
    return x;
}
