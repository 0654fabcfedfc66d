/* The ordered list of kernel tables; the best that this machine runs, or the one forced by name. */
#ifndef ATTNX_DISPATCH_H
#define ATTNX_DISPATCH_H

#include "attnx.h"

/* The name of the i-th table that this machine runs, from plain to best, or NULL past the last. */
const char *attnx_isa_available(int i);

/* The table in use. The first call chooses: ATTNX_ISA's, or the best. NULL where ATTNX_ISA names none at hand. */
const struct attnx_table *attnx_table(void);

/* Makes the table of that name the one in use, process-wide; NULL chooses anew as the first call did. */
enum attnx_status attnx_isa_force(const char *name);

/* The compiler that built this, and the flags it was given. */
const char *attnx_compiler(void);
const char *attnx_build_flags(void);

#endif
