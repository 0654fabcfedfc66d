/* What a region for an instruction set needs before it opens: the headers of others, which carry their own targets. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "../attnx.h"
#include "../simd/intrinsics.h"
#include "../target.h"
