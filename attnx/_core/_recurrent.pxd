"""How a recurrent layer's way through its steps becomes a struct."""

cimport numpy as np

from attnx._core.c_attnx cimport attnx_recurrent_steps


cdef int describe_steps(attnx_recurrent_steps *args, np.ndarray x, weight, states, np.ndarray counts, bint backwards,
                        np.ndarray gates, np.ndarray out) except -1
