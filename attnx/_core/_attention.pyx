"""Attention: checked arrays into struct attnx_attention."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport Strides, describe, pointer
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport (
    ATTNX_attention_f32,
    ATTNX_attention_f64,
    ATTNX_attention_weights_f32,
    ATTNX_attention_weights_f64,
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
