from attnx._core.c_attnx cimport attnx_call, attnx_op, attnx_recurrent_steps

cdef int run(attnx_op op, const void *args, int num_threads) except -1 nogil
cdef int run_calls(const attnx_call *calls, Py_ssize_t count, const Py_ssize_t *starts, Py_ssize_t parts,
                   int num_threads) except -1 nogil
cdef int run_steps(const attnx_recurrent_steps *args, int num_threads) except -1 nogil
