"""From checked arrays to what the structs of the C surface hold; NULL and 0 where there is no array."""

cimport numpy as np

from attnx._core.c_attnx cimport ATTNX_BF16, ATTNX_BOOL, ATTNX_F16, ATTNX_F32, ATTNX_F64, attnx_array, attnx_storage


cdef enum:
    MAX_AXES = 64  # of NumPy


cdef struct Strides:
    Py_ssize_t batch[MAX_AXES]


cpdef bint plain(x)
cpdef bint folded(np.ndarray a)
cpdef bint apart(np.ndarray out, np.ndarray a=*, np.ndarray b=*, np.ndarray c=*, np.ndarray d=*)
cdef void describe(attnx_array *to, Strides *strides, np.ndarray array, int batch_axes, int inner) noexcept


cdef inline void *pointer(object array) noexcept:
    return NULL if array is None else np.PyArray_DATA(<np.ndarray> array)


cdef inline float *floats(np.ndarray array) noexcept:
    return <float *> pointer(array)


cdef inline Py_ssize_t row_stride(np.ndarray array) noexcept:
    """Return the elements from one row of floats to the next."""
    return 0 if array is None else np.PyArray_STRIDES(array)[0] // <Py_ssize_t> sizeof(float)


cdef inline attnx_storage storage_of(np.ndarray array) noexcept:
    """Checked arrays are of one of five types; bfloat16 is the one that NumPy does not know."""
    cdef int kind = np.PyArray_TYPE(array)
    if kind == np.NPY_FLOAT:
        return ATTNX_F32
    if kind == np.NPY_DOUBLE:
        return ATTNX_F64
    if kind == np.NPY_FLOAT16:
        return ATTNX_F16
    return ATTNX_BOOL if kind == np.NPY_BOOL else ATTNX_BF16
