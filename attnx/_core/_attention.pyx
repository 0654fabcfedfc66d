"""Attention: checked arrays into struct attnx_attention."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport (
    ATTNX_MASK_BOOL,
    ATTNX_MASK_FLOAT,
    ATTNX_MASK_NONE,
    ATTNX_attention_f32,
    ATTNX_attention_f64,
    ATTNX_attention_weights_f32,
    ATTNX_attention_weights_f64,
    attnx_array,
    attnx_attention,
    attnx_op,
)

np.import_array()

DEF MAX_AXES = 64


cdef struct Strides:
    Py_ssize_t batch[MAX_AXES]


cdef void describe(attnx_array *to, Strides *strides, np.ndarray array, int batch_axes, int inner) noexcept:
    """Fill in data and strides; `inner` axes (head, row, item) end the shape, axes of length 1 have stride 0."""
    cdef Py_ssize_t size = np.PyArray_ITEMSIZE(array), last[3]
    cdef int ndim = np.PyArray_NDIM(array), axis, missing = batch_axes + inner - ndim, i
    cdef np.npy_intp *shape = np.PyArray_DIMS(array)
    cdef np.npy_intp *step = np.PyArray_STRIDES(array)
    to.data = np.PyArray_DATA(array)
    to.batch = strides.batch
    memset(last, 0, sizeof(last))
    for i in range(batch_axes + inner):
        axis = i - missing
        if i < batch_axes:
            strides.batch[i] = 0 if axis < 0 or shape[axis] == 1 else step[axis] // size
        else:
            last[i - batch_axes] = 0 if axis < 0 or shape[axis] == 1 else step[axis] // size
    to.head, to.row, to.item = last[0], last[1], last[2]


cdef int64_t *integers(object array) noexcept:
    return NULL if array is None else <int64_t *> np.PyArray_DATA(<np.ndarray> array)


def attention(call, np.ndarray out, np.ndarray lse, int num_threads):
    """Run one attention call; `call` is a checked `attnx._attention_call.Attention`, `lse` may be None."""
    (query, key, value, mask, batch_shape, query_starts, key_starts, query_lengths, key_lengths, query_offsets,
     heads, group, query_len, key_len, head_dim, value_dim, scale, causal, _) = call
    cdef attnx_attention args
    cdef Strides strides[6]
    cdef Py_ssize_t shape[MAX_AXES]
    cdef int batch_axes = len(batch_shape), i
    cdef bint double = np.PyArray_TYPE(<np.ndarray> query) == np.NPY_DOUBLE
    cdef attnx_op op
    memset(&args, 0, sizeof(args))
    args.batch = 1
    for i in range(batch_axes):
        shape[i] = batch_shape[i]
        args.batch *= shape[i]
    args.batch_axes = batch_axes
    args.batch_shape = shape
    describe(&args.query, &strides[0], query, batch_axes, 3)
    describe(&args.key, &strides[1], key, batch_axes, 3)
    describe(&args.out, &strides[2], out, batch_axes, 3)
    if value is not None:
        describe(&args.value, &strides[3], value, batch_axes, 3)
    args.mask_kind = ATTNX_MASK_NONE
    if mask is not None:
        describe(&args.mask, &strides[4], mask, batch_axes, 3)
        args.mask_kind = ATTNX_MASK_BOOL if np.PyArray_TYPE(<np.ndarray> mask) == np.NPY_BOOL else ATTNX_MASK_FLOAT
    if lse is not None:
        describe(&args.lse, &strides[5], lse, batch_axes, 2)
    args.query_starts, args.key_starts = integers(query_starts), integers(key_starts)
    args.query_lengths, args.key_lengths = integers(query_lengths), integers(key_lengths)
    args.query_offsets = integers(query_offsets)
    args.heads, args.group = heads, group
    args.query_len, args.key_len = query_len, key_len
    args.head_dim, args.value_dim = head_dim, value_dim
    args.scale, args.causal = scale, causal
    if value is None:
        op = ATTNX_attention_weights_f64 if double else ATTNX_attention_weights_f32
    else:
        op = ATTNX_attention_f64 if double else ATTNX_attention_f32
    with nogil:
        run(op, &args, num_threads)
