"""A recurrent layer's way through its steps: checked arrays into struct attnx_recurrent_steps."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport floats, row_stride
from attnx._core._runtime cimport run_steps
from attnx._core.c_attnx cimport attnx_linear, attnx_recurrent, attnx_recurrent_steps

np.import_array()


cdef int describe_steps(attnx_recurrent_steps *args, np.ndarray x, weight, states, np.ndarray counts, bint backwards,
                        np.ndarray gates, np.ndarray out) except -1:
    cdef attnx_linear *maps = &args.maps
    cdef attnx_recurrent *step = &args.step
    cdef np.ndarray state = states[0]
    cdef np.ndarray cell = states[1] if len(states) > 1 else None
    cdef np.ndarray panels, bias
    panels, bias = weight
    memset(args, 0, sizeof(args[0]))
    step.x, step.x_row = floats(x), row_stride(x)
    step.h, step.h_row = floats(gates), row_stride(gates)
    step.state = step.next_state = floats(state)
    step.cell = step.next_cell = floats(cell)
    step.out, step.out_row = floats(out), row_stride(out)
    step.hidden = maps.in_ = np.PyArray_DIMS(state)[1]
    maps.x, maps.x_row = floats(state), row_stride(state)
    maps.weight, maps.bias = floats(panels), floats(bias)
    maps.out, maps.out_row = floats(gates), row_stride(gates)
    maps.outs = np.PyArray_DIMS(gates)[1]
    args.counts, args.steps = <const int64_t *> np.PyArray_DATA(counts), np.PyArray_DIMS(counts)[0]
    args.rows, args.backwards = np.PyArray_DIMS(x)[0], backwards
    return 0


def steps(np.ndarray x, weight, states, np.ndarray counts, bint backwards, np.ndarray gates, np.ndarray out,
          int num_threads):
    """Take states (a state, or state and cell) in place through all steps; weight: panels, and a bias or None."""
    cdef attnx_recurrent_steps args
    describe_steps(&args, x, weight, states, counts, backwards, gates, out)
    with nogil:
        run_steps(&args, num_threads)
