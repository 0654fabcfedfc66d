"""Rotary positions: checked arrays into struct attnx_rotary."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport MAX_AXES, storage_of
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport ATTNX_rotary_f32, ATTNX_rotary_f64, attnx_op, attnx_rotary

np.import_array()


cdef Py_ssize_t position_stride(np.ndarray positions, int from_end) noexcept:
    """Return the stride of positions (batch axes, L) along an axis of (batch axes, heads, L), counted from the end."""
    if positions is None:
        return from_end == 0
    cdef int axis = np.PyArray_NDIM(positions) - (from_end if from_end else 1)
    if from_end == 1 or axis < 0 or np.PyArray_DIMS(positions)[axis] == 1:
        return 0
    return np.PyArray_STRIDES(positions)[axis] // <Py_ssize_t> sizeof(int64_t)


def rotary(np.ndarray x, np.ndarray cos, np.ndarray sin, np.ndarray positions, np.ndarray out, bint interleaved,
           int num_threads):
    """Turn the rows of x (..., L, E) into out; positions (L,), (batch axes, L) or None."""
    cdef attnx_rotary args
    cdef Py_ssize_t shape[MAX_AXES]
    cdef Py_ssize_t x_strides[MAX_AXES]
    cdef Py_ssize_t out_strides[MAX_AXES]
    cdef Py_ssize_t position_strides[MAX_AXES]
    cdef Py_ssize_t size = np.PyArray_ITEMSIZE(x)
    cdef int last = np.PyArray_NDIM(x) - 1, axes = 0, i
    cdef attnx_op op = ATTNX_rotary_f64 if np.PyArray_TYPE(x) == np.NPY_DOUBLE else ATTNX_rotary_f32
    memset(&args, 0, sizeof(args))
    args.rows = 1
    for i in range(last):
        args.rows *= np.PyArray_DIMS(x)[i]
        # An axis of one row is left out: a decoded token then has its heads side by side.
        if np.PyArray_DIMS(x)[i] > 1 or (i == last - 1 and axes == 0):
            shape[axes] = np.PyArray_DIMS(x)[i]
            x_strides[axes] = np.PyArray_STRIDES(x)[i] // size
            out_strides[axes] = np.PyArray_STRIDES(out)[i] // size
            position_strides[axes] = position_stride(positions, last - 1 - i)
            axes += 1
    args.axes, args.shape, args.items = axes, shape, np.PyArray_DIMS(x)[last]
    args.x, args.x_strides = np.PyArray_DATA(x), x_strides
    args.out, args.out_strides = np.PyArray_DATA(out), out_strides
    args.position_strides = position_strides
    if positions is not None:
        args.positions = <const int64_t *> np.PyArray_DATA(positions)
    args.cos, args.sin, args.pairs = np.PyArray_DATA(cos), np.PyArray_DATA(sin), np.PyArray_DIMS(cos)[1]
    args.cos_row = np.PyArray_STRIDES(cos)[0] // np.PyArray_ITEMSIZE(cos)
    args.sin_row = np.PyArray_STRIDES(sin)[0] // np.PyArray_ITEMSIZE(sin)
    args.storage, args.table_storage, args.interleaved = storage_of(x), storage_of(cos), interleaved
    with nogil:
        run(op, &args, num_threads)
