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

ATTNX_INLINE V(v) K(tanh)(V(v) x) {
    const V(v) size = V(abs)(x), u = V(mul)(x, x), one = V(set1)(1);
    V(v) p = V(set1)(K(tanh_poly)[0]);
    ATTNX_UNROLL
    for (int i = 1; i < K(tanh_terms); i++) p = V(fma)(p, u, V(set1)(K(tanh_poly)[i]));
    const V(v) near = V(fma)(V(mul)(x, u), p, x);
    const V(v) t = K(exp)(V(mul)(size, V(set1)(-2)));
    const V(v) far = V(div)(V(sub)(one, t), V(add)(one, t));
    const V(v) signed_far = V(select)(V(lt)(x, V(set1)(0)), V(sub)(V(set1)(0), far), far);
    return V(select)(V(lt)(size, V(set1)((real)0.55)), near, signed_far);
}
