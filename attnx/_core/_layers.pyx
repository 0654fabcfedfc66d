"""What layers are made of: checked arrays into the structs of linear maps and norms, and of whole lists of calls."""

cimport cython
cimport numpy as np
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._additive cimport describe_additive
from attnx._core._arrays cimport floats, pointer, row_stride
from attnx._core._attention cimport CallArrays, describe_call
from attnx._core._recurrent cimport describe_steps
from attnx._core._runtime cimport run, run_calls
from attnx._core.c_attnx cimport (
    ATTNX_additive_f32,
    ATTNX_append_f32,
    ATTNX_attention_f32,
    ATTNX_layer_norm_f32,
    ATTNX_linear_f32,
    ATTNX_recurrent_f32,
    ATTNX_recurrent_steps_f32,
    attnx_activation,
    attnx_additive,
    attnx_append,
    attnx_attention,
    attnx_call,
    attnx_layer_norm,
    attnx_linear,
    attnx_op,
    attnx_recurrent,
    attnx_recurrent_steps,
)

np.import_array()


cdef void describe_linear(attnx_linear *args, np.ndarray x, np.ndarray panels, np.ndarray bias, np.ndarray residual,
                          np.ndarray out, int activation) noexcept:
    memset(args, 0, sizeof(args[0]))
    args.x, args.x_row = floats(x), row_stride(x)
    args.weight, args.bias = floats(panels), floats(bias)
    args.residual, args.residual_row = floats(residual), row_stride(residual)
    args.out, args.out_row = floats(out), row_stride(out)
    args.rows, args.in_ = np.PyArray_DIMS(x)[0], np.PyArray_DIMS(x)[1]
    args.outs = np.PyArray_DIMS(out)[1]
    args.activation = <attnx_activation> activation


cdef void describe_norm(attnx_layer_norm *args, np.ndarray x, np.ndarray residual, np.ndarray weight, np.ndarray bias,
                        np.ndarray out, float eps) noexcept:
    memset(args, 0, sizeof(args[0]))
    args.x, args.x_row = floats(x), row_stride(x)
    args.residual, args.residual_row = floats(residual), row_stride(residual)
    args.weight, args.bias = floats(weight), floats(bias)
    args.out, args.out_row = floats(out), row_stride(out)
    args.rows, args.items = np.PyArray_DIMS(x)[0], np.PyArray_DIMS(x)[1]
    args.eps = eps


def linear(np.ndarray x, np.ndarray panels, np.ndarray bias, np.ndarray residual, np.ndarray out, int activation,
           int num_threads):
    """out = activation(x W^T + bias) + residual on rows; bias and residual may be None."""
    cdef attnx_linear args
    describe_linear(&args, x, panels, bias, residual, out, activation)
    with nogil:
        run(ATTNX_linear_f32, &args, num_threads)


def layer_norm(np.ndarray x, np.ndarray residual, np.ndarray weight, np.ndarray bias, np.ndarray out, float eps,
               int num_threads):
    """Normalise the rows of x + residual; residual, weight and bias may be None."""
    cdef attnx_layer_norm args
    describe_norm(&args, x, residual, weight, bias, out, eps)
    with nogil:
        run(ATTNX_layer_norm_f32, &args, num_threads)


cdef struct AttentionArgs:
    attnx_attention args
    CallArrays room


cdef struct AdditiveArgs:
    attnx_additive args
    CallArrays room


@cython.final
@cython.auto_pickle(False)
cdef class Calls:
    """Kernel calls between float32 arrays that stay, made once and run again and again, without Python between them."""

    cdef bytearray table  # of struct attnx_call
    cdef list kept  # their arguments, and all arrays that these point at
    cdef bytearray starts  # of each part, a Py_ssize_t

    def __cinit__(self):
        self.table, self.kept, self.starts = bytearray(), [], bytearray()

    cdef void *add(self, attnx_op op, Py_ssize_t size, arrays) except NULL:
        cdef bytearray args = bytearray(size)
        cdef attnx_call call
        call.op, call.args = op, PyByteArray_AS_STRING(args)
        self.kept.append((args, arrays))
        self.table += (<char *> &call)[:sizeof(call)]
        return PyByteArray_AS_STRING(args)

    def begin_part(self):
        """Let what follows be a part of its own: where there are several, one thread runs it."""
        cdef Py_ssize_t start = len(self.kept)
        self.starts += (<char *> &start)[:sizeof(start)]

    def linear(self, np.ndarray x, np.ndarray panels, np.ndarray bias, np.ndarray residual, np.ndarray out,
               int activation):
        """Add a call of `linear`."""
        cdef void *args = self.add(ATTNX_linear_f32, sizeof(attnx_linear), (x, panels, bias, residual, out))
        describe_linear(<attnx_linear *> args, x, panels, bias, residual, out, activation)

    def layer_norm(self, np.ndarray x, np.ndarray weight, np.ndarray bias, np.ndarray out, float eps):
        """Add a call of `layer_norm`."""
        cdef void *args = self.add(ATTNX_layer_norm_f32, sizeof(attnx_layer_norm), (x, weight, bias, out))
        describe_norm(<attnx_layer_norm *> args, x, None, weight, bias, out, eps)

    def attention(self, call, np.ndarray out):
        """Add a checked call of attention."""
        cdef AttentionArgs *args = <AttentionArgs *> self.add(ATTNX_attention_f32, sizeof(AttentionArgs), (call, out))
        describe_call(&args.args, &args.room, call, out, None)

    def additive(self, arrays, np.ndarray score_weight, key_lengths, np.ndarray out):
        """Add a call of additive attention on (query, key, value, mask, powers) of one batch axis."""
        cdef AdditiveArgs *args = <AdditiveArgs *> self.add(
            ATTNX_additive_f32, sizeof(AdditiveArgs), (arrays, score_weight, key_lengths, out))
        describe_additive(&args.args, &args.room, arrays, score_weight, (<object> out).shape[:1], key_lengths, out)

    def steps(self, np.ndarray x, weight, states, np.ndarray counts, bint backwards, np.ndarray gates, np.ndarray out):
        """Add a recurrent layer's way through its steps in one direction, on one thread."""
        cdef void *args = self.add(
            ATTNX_recurrent_steps_f32, sizeof(attnx_recurrent_steps), (x, weight, states, counts, gates, out))
        describe_steps(<attnx_recurrent_steps *> args, x, weight, states, counts, backwards, gates, out)

    def gru(self, np.ndarray x, np.ndarray h, np.ndarray state, np.ndarray out):
        """Add what takes the state of a GRU through a step, in place and to out, from the two parts of its gates."""
        cdef attnx_recurrent *args = <attnx_recurrent *> self.add(
            ATTNX_recurrent_f32, sizeof(attnx_recurrent), (x, h, state, out))
        args.x, args.x_row, args.h, args.h_row = floats(x), row_stride(x), floats(h), row_stride(h)
        args.state, args.next_state, args.out, args.out_row = floats(state), floats(state), floats(out), row_stride(out)
        args.rows, args.hidden = np.PyArray_DIMS(state)[0], np.PyArray_DIMS(state)[1]

    def append(self, np.ndarray rows, np.ndarray cache, np.ndarray lengths):
        """Add what writes rows (B, G, D) into a cache (B, G, capacity, D), of entry b as its row lengths[b] - 1."""
        cdef attnx_append *args = <attnx_append *> self.add(
            ATTNX_append_f32, sizeof(attnx_append), (rows, cache, lengths))
        cdef np.npy_intp *shape = np.PyArray_DIMS(rows)
        cdef np.npy_intp *steps = np.PyArray_STRIDES(cache)
        cdef Py_ssize_t size = sizeof(float)
        args.rows, args.cache, args.lengths = floats(rows), floats(cache), <const int64_t *> pointer(lengths)
        args.batch, args.heads, args.items = shape[0], shape[1], shape[2]
        args.rows_batch, args.rows_head = row_stride(rows), np.PyArray_STRIDES(rows)[1] // size
        args.cache_batch, args.cache_head, args.cache_row = steps[0] // size, steps[1] // size, steps[2] // size

    def run(self, int num_threads):
        """Run the calls in order, the parts beside each other."""
        cdef const attnx_call *calls = <const attnx_call *> PyByteArray_AS_STRING(self.table)
        cdef const Py_ssize_t *starts = <const Py_ssize_t *> PyByteArray_AS_STRING(self.starts)
        cdef Py_ssize_t count = len(self.kept), parts = len(self.starts) // <Py_ssize_t> sizeof(Py_ssize_t)
        with nogil:
            run_calls(calls, count, starts, parts, num_threads)
