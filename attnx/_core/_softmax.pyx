"""Softmax: checked arrays into struct attnx_softmax."""

cimport numpy as np
from libc.stdint cimport uint8_t
from libc.string cimport memset

from attnx._core._arrays cimport MAX_AXES
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport ATTNX_softmax_f32, ATTNX_softmax_f64, attnx_op, attnx_softmax

np.import_array()


cdef Py_ssize_t strides_of(np.ndarray array, Py_ssize_t *to) noexcept:
    """Fill in the strides of all axes but the last, whose stride is returned."""
    cdef Py_ssize_t size = np.PyArray_ITEMSIZE(array)
    cdef int last = np.PyArray_NDIM(array) - 1, i
    for i in range(last):
        to[i] = np.PyArray_STRIDES(array)[i] // size
    return np.PyArray_STRIDES(array)[last] // size


def softmax(np.ndarray x, np.ndarray mask, np.ndarray out, int num_threads):
    """Softmax over the last axis; `mask` has the shape of x (by strides) or is None."""
    cdef attnx_softmax args
    cdef Py_ssize_t shape[MAX_AXES]
    cdef Py_ssize_t x_strides[MAX_AXES]
    cdef Py_ssize_t mask_strides[MAX_AXES]
    cdef Py_ssize_t out_strides[MAX_AXES]
    cdef int last = np.PyArray_NDIM(x) - 1, i
    cdef attnx_op op = ATTNX_softmax_f64 if np.PyArray_TYPE(x) == np.NPY_DOUBLE else ATTNX_softmax_f32
    memset(&args, 0, sizeof(args))
    args.rows = 1
    for i in range(last):
        shape[i] = np.PyArray_DIMS(x)[i]
        args.rows *= shape[i]
    args.axes, args.shape, args.items = last, shape, np.PyArray_DIMS(x)[last]
    args.x, args.x_strides = np.PyArray_DATA(x), x_strides
    args.out, args.out_strides = np.PyArray_DATA(out), out_strides
    args.x_item = strides_of(x, x_strides)
    args.out_item = strides_of(out, out_strides)
    if mask is not None:
        args.mask, args.mask_strides = <const uint8_t *> np.PyArray_DATA(mask), mask_strides
        args.mask_item = strides_of(mask, mask_strides)
    with nogil:
        run(op, &args, num_threads)
