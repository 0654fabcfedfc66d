/* What the processor and the system can do. The only file that asks the hardware. */
#ifndef ATTNX_CPU_H
#define ATTNX_CPU_H

/* Whether this process may run a table: the instructions exist and the system saves their registers. */
int attnx_cpu_has_avx2(void);
int attnx_cpu_has_avx512(void);

/* Sets rounding to nearest, no flush-to-zero and no traps for this thread, and gives back what was set before.
 * A caller's flush-to-zero would otherwise make results depend on which thread computed them. */
unsigned long attnx_float_mode_enter(void);
void attnx_float_mode_leave(unsigned long mode);

/* A pause inside a spinning loop. */
void attnx_cpu_relax(void);

#endif
