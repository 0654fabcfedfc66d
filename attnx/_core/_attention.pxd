"""Describing arrays to the core, for the modules of other nouns."""

cimport numpy as np

from attnx._core.c_attnx cimport attnx_array

DEF MAX_AXES = 64


cdef struct Strides:
    Py_ssize_t batch[MAX_AXES]

cdef void describe(attnx_array *to, Strides *strides, np.ndarray array, int batch_axes, int inner) noexcept
cdef void* pointer(object array) noexcept
