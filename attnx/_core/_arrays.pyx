"""Arrays seen from C: what costs a microsecond to ask in Python, and how a struct describes them."""

cimport numpy as np
from libc.string cimport memset

from attnx._core.c_attnx cimport attnx_array

np.import_array()


cpdef bint plain(x):
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


cdef void extent(np.ndarray a, char **begin, char **end) noexcept:
    """Find the memory from an array's first byte to past its last; none where it has no elements."""
    cdef int i, axes = np.PyArray_NDIM(a)
    cdef np.npy_intp way
    begin[0] = end[0] = <char *> np.PyArray_DATA(a)
    if np.PyArray_SIZE(a) == 0:
        return
    end[0] += np.PyArray_ITEMSIZE(a)
    for i in range(axes):
        way = np.PyArray_STRIDES(a)[i] * (np.PyArray_DIMS(a)[i] - 1)
        if way < 0:
            begin[0] += way
        else:
            end[0] += way


cdef bint outside(np.ndarray a, char *begin, char *end) noexcept:
    """Say whether an array, or None, ends before or begins after some memory."""
    cdef char *first
    cdef char *last
    if a is None:
        return True
    extent(a, &first, &last)
    return first >= end or last <= begin


cpdef bint folded(np.ndarray a):
    """Say whether two elements may share memory: exact for every view that slicing and transposing make."""
    cdef int i, j, shortest, _, axes = np.PyArray_NDIM(a)
    cdef np.npy_intp reach = np.PyArray_ITEMSIZE(a), step
    cdef np.npy_intp steps[MAX_AXES]
    if np.PyArray_SIZE(a) == 0:
        return False
    for i in range(axes):
        step = np.PyArray_STRIDES(a)[i]
        steps[i] = -1 if np.PyArray_DIMS(a)[i] == 1 else -step if step < 0 else step
    for _ in range(axes):  # from the shortest step to the longest
        shortest = -1
        for j in range(axes):
            if steps[j] >= 0 and (shortest < 0 or steps[j] < steps[shortest]):
                shortest = j
        if shortest < 0:
            break
        if steps[shortest] < reach:
            return True
        reach += steps[shortest] * (np.PyArray_DIMS(a)[shortest] - 1)
        steps[shortest] = -1
    return False


cpdef bint apart(np.ndarray out, np.ndarray a=None, np.ndarray b=None, np.ndarray c=None, np.ndarray d=None):
    """Say whether out is aligned, writeable, not folded, and its memory before or after that of the others."""
    cdef char *begin
    cdef char *end
    if not np.PyArray_ISBEHAVED(out) or folded(out):
        return False
    extent(out, &begin, &end)
    return outside(a, begin, end) and outside(b, begin, end) and outside(c, begin, end) and outside(d, begin, end)


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
