"""Properties of arrays that cost a microsecond to ask in Python."""

cimport numpy as np

np.import_array()


def plain(x):
    """Say whether x is an aligned, native float32, 64 or 16 ndarray of 3 axes or more, the last of stride one."""
    if not np.PyArray_CheckExact(x):
        return False
    cdef np.ndarray a = x
    cdef int kind = np.PyArray_TYPE(a), last = np.PyArray_NDIM(a) - 1
    return (
        (kind == np.NPY_FLOAT or kind == np.NPY_DOUBLE or kind == np.NPY_FLOAT16)
        and last >= 2
        and np.PyArray_STRIDES(a)[last] == np.PyArray_ITEMSIZE(a)
        and np.PyArray_ISBEHAVED_RO(a)
    )
