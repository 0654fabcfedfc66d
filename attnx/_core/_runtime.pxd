from attnx._core.c_attnx cimport attnx_op, attnx_status

cdef int run(attnx_op op, const void *args, int num_threads) except -1 nogil
