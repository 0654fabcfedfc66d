"""Attention: checked arrays into struct attnx_attention."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport (
    ATTNX_BF16,
    ATTNX_BOOL,
    ATTNX_F16,
    ATTNX_F32,
    ATTNX_F64,
    ATTNX_attention_f32,
    ATTNX_attention_f64,
    ATTNX_attention_weights_f32,
    ATTNX_attention_weights_f64,
    attnx_array,
    attnx_attention,
    attnx_op,
    attnx_stage,
    attnx_storage,
)

np.import_array()

DEF MAX_AXES = 64


cdef attnx_storage storage_of(np.ndarray array) noexcept:
    """Checked arrays are of one of five types; bfloat16 is the one that NumPy does not know."""
    cdef int kind = np.PyArray_TYPE(array)
    if kind == np.NPY_FLOAT:
        return ATTNX_F32
    if kind == np.NPY_DOUBLE:
        return ATTNX_F64
    if kind == np.NPY_FLOAT16:
        return ATTNX_F16
    return ATTNX_BOOL if kind == np.NPY_BOOL else ATTNX_BF16


cdef void describe(attnx_array *to, Strides *strides, np.ndarray array, int batch_axes, int inner) noexcept:
    """Fill in data and strides; `inner` axes (head, row, item) end the shape, axes of length 1 have stride 0."""
    cdef Py_ssize_t size, last[3]
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


cdef void *pointer(object array) noexcept:
    return NULL if array is None else np.PyArray_DATA(<np.ndarray> array)


def attention(call, np.ndarray out, np.ndarray lse, int num_threads, int stage=-1):
    """Run one call, a checked `attnx._attention_call.Attention`; `lse` may be None, a `stage` asks for the weights."""
    (query, key, value, mask, batch_shape, query_starts, key_starts, query_lengths, key_lengths, query_offsets,
     heads, group, query_len, key_len, head_dim, value_dim, scale, window_left, window_right, options, _) = call
    cdef attnx_attention args
    cdef Strides strides[7]
    cdef Py_ssize_t shape[MAX_AXES]
    cdef int batch_axes = len(batch_shape), i
    cdef bint double = np.PyArray_TYPE(<np.ndarray> query) == np.NPY_DOUBLE
    cdef attnx_op op
    memset(&args, 0, sizeof(args))
    args.batch = 1
    for i in range(batch_axes):
        shape[i] = batch_shape[i]
        args.batch *= shape[i]
    args.batch_axes, args.batch_shape = batch_axes, shape
    describe(&args.query, &strides[0], query, batch_axes, 3)
    describe(&args.key, &strides[1], key, batch_axes, 3)
    describe(&args.value, &strides[2], value, batch_axes, 3)
    describe(&args.out, &strides[3], out, batch_axes, 3)
    describe(&args.mask, &strides[4], mask, batch_axes, 3)
    describe(&args.lse, &strides[5], lse, batch_axes, 2)
    args.query_starts, args.key_starts = <int64_t *> pointer(query_starts), <int64_t *> pointer(key_starts)
    args.query_lengths, args.key_lengths = <int64_t *> pointer(query_lengths), <int64_t *> pointer(key_lengths)
    args.query_offsets = <int64_t *> pointer(query_offsets)
    args.heads, args.group = heads, group
    args.query_len, args.key_len = query_len, key_len
    args.head_dim, args.value_dim = head_dim, value_dim
    args.scale, args.window_left, args.window_right = scale, window_left, window_right
    if options is not None:
        bias, slopes, relative, args.reach, sinks, args.softcap = options
        describe(&args.bias, &strides[6], bias, batch_axes, 3)
        args.slopes, args.relative, args.sinks = pointer(slopes), pointer(relative), pointer(sinks)
    if stage >= 0:
        args.stage = <attnx_stage> stage
        op = ATTNX_attention_weights_f64 if double else ATTNX_attention_weights_f32
    else:
        op = ATTNX_attention_f64 if double else ATTNX_attention_f32
    with nogil:
        run(op, &args, num_threads)
