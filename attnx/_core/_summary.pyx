"""What attention looks at: checked arrays into struct attnx_summary."""

cimport numpy as np
from libc.stdint cimport int64_t
from libc.string cimport memset

from attnx._core._arrays cimport pointer
from attnx._core._attention cimport CallArrays, describe_call
from attnx._core._runtime cimport run
from attnx._core.c_attnx cimport (
    ATTNX_received_f32,
    ATTNX_received_f64,
    ATTNX_summary_f32,
    ATTNX_summary_f64,
    attnx_op,
    attnx_summary,
)

np.import_array()


def summary(call, np.ndarray out, np.ndarray lse, arrays, int num_threads):
    """Run a call whose value dim is that of out; `arrays`: rest, entropy, top weights and keys, contiguous or None."""
    cdef attnx_summary args
    cdef CallArrays room
    cdef bint double = np.PyArray_TYPE(<np.ndarray> call[0]) == np.NPY_DOUBLE
    cdef attnx_op op = ATTNX_summary_f64 if double else ATTNX_summary_f32
    memset(&args, 0, sizeof(args))
    describe_call(&args.attention, &room, call, out, lse)
    args.attention.value_dim = np.PyArray_DIMS(out)[out.ndim - 1]
    rest, entropy, top_weights, top_keys = arrays
    args.rest, args.entropy = pointer(rest), pointer(entropy)
    args.top_weights, args.top_keys = pointer(top_weights), <int64_t *> pointer(top_keys)
    if top_keys is not None:
        args.top_k = np.PyArray_DIMS(<np.ndarray> top_keys)[(<np.ndarray> top_keys).ndim - 1]
    with nogil:
        run(op, &args, num_threads)


def received(call, np.ndarray lse, np.ndarray rest, np.ndarray out, int num_threads):
    """Write the weight that each key gets, from the lse and rest that `summary` left."""
    cdef attnx_summary args
    cdef CallArrays room
    cdef bint double = np.PyArray_TYPE(<np.ndarray> call[0]) == np.NPY_DOUBLE
    cdef attnx_op op = ATTNX_received_f64 if double else ATTNX_received_f32
    memset(&args, 0, sizeof(args))
    describe_call(&args.attention, &room, call, None, lse)
    args.rest, args.received = pointer(rest), pointer(out)
    with nogil:
        run(op, &args, num_threads)
