/* What follows a linear layer in place, one vector at a time.
 *
 * gelu(x) = x * Phi(x) = x / 2 + x^2 * h(x^2), with h(u) = (Phi(sqrt u) - 1/2) / sqrt u: the exact (erf) form of Hendrycks
 * and Gimpel 2016, not the tanh approximation. h is a minimax polynomial of degree 13 for |x| <= 5.25, in
 * t = 2 u / 5.25^2 - 1 rather than in u: in u its terms cancel and cost three digits. Error at most
 * 1.7e-7 * max(1, |x|); past 5.25 it is max(x, 0). No exponential, no division.
 */
static const float gelu_poly[] = {-0.000560955059f, 0.001456613f,   -0.00132634511f, 0.00186944304f, -0.00511998495f,
                                  0.00907037662f,   -0.0129543846f, 0.0183259969f,   -0.0249949313f, 0.0320642618f,
                                  -0.039768634f,    0.0496438981f,  -0.067126652f,   0.134659364f};
enum { gelu_terms = 14 };

ATTNX_INLINE f32_v gelu(f32_v x) {
    const f32_v u = f32_mul(x, x);
    const f32_v t = f32_fma(u, f32_set1(2.0f / (5.25f * 5.25f)), f32_set1(-1.0f));
    f32_v h = f32_set1(gelu_poly[0]);
    ATTNX_UNROLL
    for (int i = 1; i < gelu_terms; i++) h = f32_fma(h, t, f32_set1(gelu_poly[i]));
    const f32_v inside = f32_fma(u, h, f32_mul(x, f32_set1(0.5f)));
    /* le is false for a NaN, and max keeps one in its second operand. */
    return f32_select(f32_le(f32_abs(x), f32_set1(5.25f)), inside, f32_max(f32_set1(0), x));
}

ATTNX_INLINE f32_v activate(f32_v x, enum attnx_activation activation) {
    if (activation == ATTNX_ACTIVATION_GELU) return gelu(x);
    if (activation == ATTNX_ACTIVATION_TANH) return tanh_f32(x);
    if (activation == ATTNX_ACTIVATION_RELU) return f32_max(f32_set1(0), x);
    return x;
}
