"""A recurrent layer's way through its steps: checked arrays into struct attnx_linear and struct attnx_recurrent."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport floats, row_stride
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport ATTNX_linear_f32, ATTNX_recurrent_f32, attnx_linear, attnx_recurrent

np.import_array()


cdef int step(attnx_linear *maps, attnx_recurrent *gates, Py_ssize_t count, Py_ssize_t row, int num_threads) except -1 nogil:
    """Take the first `count` states to their next step, whose rows of the input and the output begin with `row`."""
    cdef attnx_recurrent now = gates[0]
    maps.rows = now.rows = count
    now.x += row * now.x_row
    now.out += row * now.out_row
    run(ATTNX_linear_f32, maps, num_threads)
    run(ATTNX_recurrent_f32, &now, num_threads)
    return 0


def direction(np.ndarray x, np.ndarray panels, np.ndarray bias, np.ndarray state, np.ndarray cell, np.ndarray counts,
              bint backwards, np.ndarray gates, np.ndarray out, int num_threads):
    """Take state and cell (None: a GRU) in place through all steps of one direction, each state also to out."""
    cdef attnx_linear maps
    cdef attnx_recurrent args
    cdef const int64_t *count = <const int64_t *> np.PyArray_DATA(counts)
    cdef Py_ssize_t steps = np.PyArray_DIMS(counts)[0], at = 0, i
    memset(&maps, 0, sizeof(maps))
    memset(&args, 0, sizeof(args))
    args.x, args.x_row = floats(x), row_stride(x)
    args.h, args.h_row = floats(gates), row_stride(gates)
    args.state = args.next_state = floats(state)
    args.cell = args.next_cell = floats(cell)
    args.out, args.out_row = floats(out), row_stride(out)
    args.hidden = maps.in_ = np.PyArray_DIMS(state)[1]
    maps.x, maps.x_row = floats(state), row_stride(state)
    maps.weight, maps.bias = floats(panels), floats(bias)
    maps.out, maps.out_row = floats(gates), row_stride(gates)
    maps.outs = np.PyArray_DIMS(gates)[1]
    with nogil:
        if backwards:
            at = np.PyArray_DIMS(x)[0]
            for i in range(steps - 1, -1, -1):
                at -= count[i]
                step(&maps, &args, count[i], at, num_threads)
        else:
            for i in range(steps):
                step(&maps, &args, count[i], at, num_threads)
                at += count[i]
