/* The compiler's headers, included before a region opens: their own functions carry their own targets. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* 1.5 * 2^mantissa + the exponent's bias: a number added to it is rounded to the nearest integer n, ties to even, and the
 * lowest bits of the sum are n + bias, the exponent of 2^n. */
#define F32_ROUND 12583039.0f
#define F64_ROUND 6755399441056767.0
