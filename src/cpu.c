#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { SSE_STATE = 0x2, AVX_STATE = 0x4, AVX512_STATE = 0xE0 };

/* The register states that the system saves, from XCR0. A bit of cpuid alone is not enough: hypervisors and old
 * kernels show AVX-512 without saving its registers. */
static unsigned saved_states(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

int attnx_cpu_has_avx2(void) {
    const unsigned needed = SSE_STATE | AVX_STATE;
    unsigned a, b, c, d, b7, c7;
    if ((saved_states() & needed) != needed) return 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_FMA) || !(c & bit_F16C)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) return 0;
    return (b7 & bit_AVX2) && (b7 & bit_BMI) && (b7 & bit_BMI2);
}

int attnx_cpu_has_avx512(void) {
    const unsigned needed = SSE_STATE | AVX_STATE | AVX512_STATE;
    unsigned a, b, c, d;
    if (!attnx_cpu_has_avx2() || (saved_states() & needed) != needed) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (b & bit_AVX512F) && (b & bit_AVX512DQ) && (b & bit_AVX512BW) && (b & bit_AVX512VL);
}

unsigned long attnx_float_mode_enter(void) {
    unsigned before;
    const unsigned standard = 0x1F80;
    __asm__ volatile("stmxcsr %0" : "=m"(before));
    __asm__ volatile("ldmxcsr %0" : : "m"(standard));
    return before;
}

void attnx_float_mode_leave(unsigned long mode) {
    const unsigned before = (unsigned)mode;
    __asm__ volatile("ldmxcsr %0" : : "m"(before));
}

void attnx_cpu_relax(void) { __asm__ volatile("pause"); }

#elif defined(__aarch64__)

int attnx_cpu_has_avx2(void) { return 0; }
int attnx_cpu_has_avx512(void) { return 0; }

unsigned long attnx_float_mode_enter(void) {
    unsigned long before;
    const unsigned long standard = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    if (before != standard) __asm__ volatile("msr fpcr, %0" : : "r"(standard));
    return before;
}

void attnx_float_mode_leave(unsigned long mode) {
    if (mode != 0) __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}

void attnx_cpu_relax(void) { __asm__ volatile("yield"); }

#else

int attnx_cpu_has_avx2(void) { return 0; }
int attnx_cpu_has_avx512(void) { return 0; }
unsigned long attnx_float_mode_enter(void) { return 0; }
void attnx_float_mode_leave(unsigned long mode) { (void)mode; }
void attnx_cpu_relax(void) {}

#endif
