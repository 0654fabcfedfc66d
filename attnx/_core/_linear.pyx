"""Linear layers: checked arrays into struct attnx_linear."""

cimport numpy as np
from libc.string cimport memset

from attnx._core._arrays cimport floats, row_stride
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport ATTNX_linear_f32, attnx_activation, attnx_linear

np.import_array()


def linear(np.ndarray x, np.ndarray panels, np.ndarray bias, np.ndarray residual, np.ndarray out, int activation,
           int num_threads):
    """out = activation(x W^T + bias) + residual on rows; bias and residual may be None."""
    cdef attnx_linear args
    memset(&args, 0, sizeof(args))
    args.x, args.x_row = floats(x), row_stride(x)
    args.weight, args.bias = floats(panels), floats(bias)
    args.residual, args.residual_row = floats(residual), row_stride(residual)
    args.out, args.out_row = floats(out), row_stride(out)
    args.rows, args.in_ = np.PyArray_DIMS(x)[0], np.PyArray_DIMS(x)[1]
    args.outs = np.PyArray_DIMS(out)[1]
    args.activation = <attnx_activation> activation
    with nogil:
        run(ATTNX_linear_f32, &args, num_threads)
