"""A step of a recurrent layer: checked arrays into struct attnx_recurrent."""

cimport numpy as np
from libc.string cimport memset

from attnx._core._arrays cimport floats, row_stride
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport ATTNX_recurrent_f32, attnx_recurrent

np.import_array()


def step(np.ndarray x, np.ndarray h, np.ndarray state, np.ndarray cell, np.ndarray out, int num_threads):
    """Take state and cell (None: a GRU) to the next step in place, given the gates; the new state also to out."""
    cdef attnx_recurrent args
    memset(&args, 0, sizeof(args))
    args.x, args.x_row = floats(x), row_stride(x)
    args.h, args.h_row = floats(h), row_stride(h)
    args.state = args.next_state = floats(state)
    args.cell = args.next_cell = floats(cell)
    args.out, args.out_row = floats(out), row_stride(out)
    args.rows, args.hidden = np.PyArray_DIMS(state)[0], np.PyArray_DIMS(state)[1]
    with nogil:
        run(ATTNX_recurrent_f32, &args, num_threads)
