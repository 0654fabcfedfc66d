"""Attention: checked arrays into struct attnx_attention."""

cimport numpy as np
from libc.math cimport sqrt
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport MAX_AXES, Strides, apart, describe, plain, pointer
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport (
    ATTNX_attention_f32,
    ATTNX_attention_f64,
    ATTNX_attention_weights_f32,
    ATTNX_attention_weights_f64,
    attnx_array,
    attnx_attention,
    attnx_op,
    attnx_stage,
)

np.import_array()


cdef int describe_call(attnx_attention *args, CallArrays *room, call, np.ndarray out, np.ndarray lse) except -1:
    """Fill in the struct of a checked `attnx._attention_call.Attention`; `room` has to live as long."""
    (query, key, value, mask, batch_shape, query_starts, key_starts, query_lengths, key_lengths, query_offsets,
     heads, group, query_len, key_len, head_dim, value_dim, scale, window_left, window_right, options, _) = call
    cdef Strides *strides = room.strides
    cdef int batch_axes = len(batch_shape), i
    memset(args, 0, sizeof(args[0]))
    args.batch = 1
    for i in range(batch_axes):
        room.shape[i] = batch_shape[i]
        args.batch *= room.shape[i]
    args.batch_axes, args.batch_shape = batch_axes, room.shape
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
    return 0


def attention(call, np.ndarray out, np.ndarray lse, int num_threads, int stage=-1):
    """Run one call, a checked `attnx._attention_call.Attention`; `lse` may be None, a `stage` asks for the weights."""
    cdef attnx_attention args
    cdef CallArrays room
    cdef bint double = np.PyArray_TYPE(<np.ndarray> call[0]) == np.NPY_DOUBLE
    cdef attnx_op op
    describe_call(&args, &room, call, out, lse)
    if stage >= 0:
        args.stage = <attnx_stage> stage
        op = ATTNX_attention_weights_f64 if double else ATTNX_attention_weights_f32
    else:
        op = ATTNX_attention_f64 if double else ATTNX_attention_f32
    with nogil:
        run(op, &args, num_threads)


def usual(query, key, value, bint is_causal, bint rows_first, out, int num_threads):
    """Return the attention of three plain arrays of one real dtype and one batch, without options.

    None, and nothing has been done, where anything is less plain: Python then asks all the questions, which cost three
    microseconds of a call that needs ten.
    """
    cdef attnx_attention args
    cdef CallArrays room
    if not (plain(query) and plain(key) and plain(value)):
        return None
    if not shapes_agree(&args, &room, query, key, value, rows_first):
        return None
    cdef int axes = np.PyArray_NDIM(<np.ndarray> query), kind = np.PyArray_TYPE(<np.ndarray> query), i
    cdef np.npy_intp shape[MAX_AXES]
    for i in range(axes - 1):
        shape[i] = np.PyArray_DIMS(<np.ndarray> query)[i]
    shape[axes - 1] = args.value_dim
    if out is None:
        out = np.PyArray_EMPTY(axes, shape, kind, 0)
    elif not (plain(out) and np.PyArray_TYPE(out) == kind and np.PyArray_NDIM(out) == axes
              and np.PyArray_CompareLists(shape, np.PyArray_DIMS(out), axes) and apart(out, query, key, value)):
        return None
    describe_rows(&args.query, &room.strides[0], query, rows_first)
    describe_rows(&args.key, &room.strides[1], key, rows_first)
    describe_rows(&args.value, &room.strides[2], value, rows_first)
    describe_rows(&args.out, &room.strides[3], out, rows_first)
    args.scale, args.window_left, args.window_right = 1 / sqrt(<double> args.head_dim), -1, 0 if is_causal else -1
    cdef attnx_op op = ATTNX_attention_f64 if kind == np.NPY_DOUBLE else ATTNX_attention_f32
    with nogil:
        run(op, &args, num_threads)
    return out


cdef bint shapes_agree(attnx_attention *args, CallArrays *room, np.ndarray q, np.ndarray k, np.ndarray v,
                       bint rows_first):
    """Say whether three arrays are of one real dtype and batch, nothing in them is empty, and fill in their sizes."""
    cdef int kind = np.PyArray_TYPE(q), axes = np.PyArray_NDIM(q), i
    cdef int head = axes - 2 if rows_first else axes - 3, row = axes - 3 if rows_first else axes - 2, last = axes - 1
    cdef np.npy_intp *x = np.PyArray_DIMS(q)
    cdef np.npy_intp *y = np.PyArray_DIMS(k)
    cdef np.npy_intp *z = np.PyArray_DIMS(v)
    if kind == np.NPY_FLOAT16 or np.PyArray_TYPE(k) != kind or np.PyArray_TYPE(v) != kind:
        return False
    if np.PyArray_NDIM(k) != axes or np.PyArray_NDIM(v) != axes or not np.PyArray_CompareLists(x, y, axes - 3):
        return False
    if not np.PyArray_CompareLists(y, z, axes - 1) or x[last] != y[last]:
        return False
    if np.PyArray_SIZE(q) == 0 or np.PyArray_SIZE(k) == 0 or z[last] == 0 or x[head] % y[head]:
        return False
    memset(args, 0, sizeof(args[0]))
    args.batch, args.batch_axes, args.batch_shape = 1, axes - 3, room.shape
    for i in range(axes - 3):
        room.shape[i] = x[i]
        args.batch *= x[i]
    args.heads, args.group, args.query_len, args.key_len = x[head], x[head] // y[head], x[row], y[row]
    args.head_dim, args.value_dim = x[last], z[last]
    return True


cdef void describe_rows(attnx_array *to, Strides *strides, np.ndarray array, bint rows_first) noexcept:
    """Fill in data and strides of an array whose batch axes are all there."""
    describe(to, strides, array, np.PyArray_NDIM(array) - 3, 3)
    if rows_first:
        to.head, to.row = to.row, to.head
