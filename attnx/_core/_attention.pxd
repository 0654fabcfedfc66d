"""How a checked attention call becomes a struct, for all that begin with one."""

cimport numpy as np

from attnx._core._arrays cimport MAX_AXES, Strides
from attnx._core.c_attnx cimport attnx_attention


cdef struct CallArrays:
    Strides strides[7]
    Py_ssize_t shape[MAX_AXES]


cdef int describe_call(attnx_attention *args, CallArrays *room, call, np.ndarray out, np.ndarray lse) except -1
