"""Arrays seen from C: what costs a microsecond to ask in Python, and how a struct describes them."""

cimport numpy as np
from libc.string cimport memset

from attnx._core.c_attnx cimport attnx_array

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


cdef bint outside(np.ndarray a, char *begin, char *end) noexcept:
    """Say whether an array, C-contiguous or None, ends before or begins after some memory."""
    if a is None:
        return True
    cdef char *first = <char *> np.PyArray_DATA(a)
    return np.PyArray_ISCARRAY_RO(a) and (first >= end or first + np.PyArray_NBYTES(a) <= begin)


def apart(np.ndarray out, np.ndarray a=None, np.ndarray b=None, np.ndarray c=None, np.ndarray d=None):
    """Say whether out is C-contiguous, writeable and clear of the others, which must be C-contiguous or None too."""
    cdef char *begin = <char *> np.PyArray_DATA(out)
    cdef char *end = begin + np.PyArray_NBYTES(out)
    return (
        np.PyArray_ISCARRAY(out)
        and outside(a, begin, end)
        and outside(b, begin, end)
        and outside(c, begin, end)
        and outside(d, begin, end)
    )


cdef void describe(attnx_array *to, Strides *strides, np.ndarray array, int batch_axes, int inner) noexcept:
    """Fill in data and strides; `inner` axes (head, row, item) end the shape, axes of length 1 have stride 0."""
    cdef Py_ssize_t size
    cdef Py_ssize_t last[3]
    cdef int ndim, axis, missing, i
    cdef np.npy_intp *shape
    cdef np.npy_intp *step
    if array is None:
        return
    size, ndim = np.PyArray_ITEMSIZE(array), np.PyArray_NDIM(array)
    missing = batch_axes + inner - ndim
    shape, step = np.PyArray_DIMS(array), np.PyArray_STRIDES(array)
    to.data, to.batch, to.storage = np.PyArray_DATA(array), strides.batch, storage_of(array)
    memset(last, 0, sizeof(last))
    for i in range(batch_axes + inner):
        axis = i - missing
        if i < batch_axes:
            strides.batch[i] = 0 if axis < 0 or shape[axis] == 1 else step[axis] // size
        else:
            last[i - batch_axes] = 0 if axis < 0 or shape[axis] == 1 else step[axis] // size
    to.head, to.row, to.item = last[0], last[1], last[2]
