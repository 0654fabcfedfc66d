"""Additive attention: checked arrays into struct attnx_additive."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport Strides, describe, pointer
from attnx._core._attention cimport CallArrays
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport (
    ATTNX_additive_f32,
    ATTNX_additive_f64,
    ATTNX_additive_powers_f32,
    ATTNX_additive_powers_f64,
    ATTNX_UNITS,
    attnx_additive,
    attnx_additive_powers,
    attnx_array,
    attnx_attention,
    attnx_op,
)

np.import_array()

UNITS = ATTNX_UNITS


cdef void describe_rows(attnx_array *to, Strides *strides, np.ndarray array, int batch_axes) noexcept:
    """Describe an array (..., row, item), which has no axis of heads."""
    describe(to, strides, array, batch_axes, 2)
    to.item, to.row, to.head = to.row, to.head, 0


cdef int describe_additive(attnx_additive *args, CallArrays *room, arrays, np.ndarray score_weight, batch_shape,
                           key_lengths, np.ndarray out) except -1:
    """Fill in the struct of a call on (query, key, value, mask, powers); `room` has to live as long."""
    cdef attnx_attention *a = &args.attention
    cdef Strides *strides = room.strides
    cdef int batch_axes = len(batch_shape), i
    cdef np.ndarray query, key, value
    query, key, value, mask, powers = arrays
    memset(args, 0, sizeof(args[0]))
    a.batch = 1
    for i in range(batch_axes):
        room.shape[i] = batch_shape[i]
        a.batch *= room.shape[i]
    a.batch_axes, a.batch_shape = batch_axes, room.shape
    describe_rows(&a.query, &strides[0], query, batch_axes)
    describe_rows(&a.key, &strides[1], key, batch_axes)
    describe_rows(&a.value, &strides[2], value, batch_axes)
    describe_rows(&a.out, &strides[3], out, batch_axes)
    describe_rows(&a.mask, &strides[4], mask, batch_axes)
    describe_rows(&args.powers, &strides[5], powers, batch_axes)
    a.key_lengths = <int64_t *> pointer(key_lengths)
    a.heads = a.group = 1
    a.query_len, a.head_dim = np.PyArray_DIMS(query)[query.ndim - 2], np.PyArray_DIMS(query)[query.ndim - 1]
    a.key_len, a.value_dim = np.PyArray_DIMS(value)[value.ndim - 2], np.PyArray_DIMS(value)[value.ndim - 1]
    a.window_left = a.window_right = -1
    args.score_weight = np.PyArray_DATA(score_weight)
    return 0


def additive(arrays, np.ndarray score_weight, batch_shape, key_lengths, np.ndarray out, np.ndarray weights,
             int num_threads):
    """Run one call on (query, key, value, mask, powers); the last two, the lengths and the weights may be None."""
    cdef attnx_additive args
    cdef CallArrays room
    cdef bint double = np.PyArray_TYPE(<np.ndarray> arrays[0]) == np.NPY_DOUBLE
    cdef attnx_op op = ATTNX_additive_f64 if double else ATTNX_additive_f32
    describe_additive(&args, &room, arrays, score_weight, batch_shape, key_lengths, out)
    describe_rows(&args.weights, &room.strides[6], weights, args.attention.batch_axes)
    with nogil:
        run(op, &args, num_threads)


def powers(np.ndarray x, np.ndarray out, int num_threads):
    """Prepare keys: rows (n, U) to rows (n, U rounded up to UNITS)."""
    cdef attnx_additive_powers args
    cdef Py_ssize_t size = np.PyArray_ITEMSIZE(x)
    cdef bint double = np.PyArray_TYPE(x) == np.NPY_DOUBLE
    cdef attnx_op op = ATTNX_additive_powers_f64 if double else ATTNX_additive_powers_f32
    args.x, args.out = np.PyArray_DATA(x), np.PyArray_DATA(out)
    args.rows, args.units = np.PyArray_DIMS(x)[0], np.PyArray_DIMS(x)[1]
    args.x_row, args.out_row = np.PyArray_STRIDES(x)[0] // size, np.PyArray_STRIDES(out)[0] // size
    with nogil:
        run(op, &args, num_threads)
