/* The compiler's headers, included before a region opens: their own functions carry their own targets. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
