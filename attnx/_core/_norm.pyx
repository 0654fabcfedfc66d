"""Layer normalisation: checked arrays into struct attnx_layer_norm."""

cimport numpy as np
from libc.string cimport memset

from attnx._core._arrays cimport floats, row_stride
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport ATTNX_layer_norm_f32, attnx_layer_norm

np.import_array()


def layer_norm(np.ndarray x, np.ndarray residual, np.ndarray weight, np.ndarray bias, np.ndarray out, float eps,
               int num_threads):
    """Normalise the rows of x + residual; residual, weight and bias may be None."""
    cdef attnx_layer_norm args
    memset(&args, 0, sizeof(args))
    args.x, args.x_row = floats(x), row_stride(x)
    args.residual, args.residual_row = floats(residual), row_stride(residual)
    args.weight, args.bias = floats(weight), floats(bias)
    args.out, args.out_row = floats(out), row_stride(out)
    args.rows, args.items = np.PyArray_DIMS(x)[0], np.PyArray_DIMS(x)[1]
    args.eps = eps
    with nogil:
        run(ATTNX_layer_norm_f32, &args, num_threads)
