from attnx._core.c_attnx cimport attnx_op, attnx_recurrent_steps

cdef int run(attnx_op op, const void *args, int num_threads) except -1 nogil
cdef int run_steps(const attnx_recurrent_steps *args, int num_threads) except -1 nogil
