"""How a checked call of additive attention becomes a struct."""

cimport numpy as np

from attnx._core._arrays cimport MAX_AXES, Strides
from attnx._core.c_attnx cimport attnx_additive


cdef struct AdditiveArrays:
    Strides strides[7]
    Py_ssize_t shape[MAX_AXES]


cdef int describe_additive(attnx_additive *args, AdditiveArrays *room, arrays, np.ndarray score_weight, batch_shape,
                           key_lengths, np.ndarray out) except -1
