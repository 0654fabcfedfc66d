"""How a checked call of additive attention becomes a struct."""

cimport numpy as np

from attnx._core._attention cimport CallArrays
from attnx._core.c_attnx cimport attnx_additive


cdef int describe_additive(attnx_additive *args, CallArrays *room, arrays, np.ndarray score_weight, batch_shape,
                           key_lengths, np.ndarray out) except -1
