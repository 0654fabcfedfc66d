"""The C surface, src/attnx.h and its neighbours: the only extern declarations."""

from libc.stdint cimport int64_t, uint8_t


cdef extern from "attnx.h" nogil:
    ctypedef enum attnx_storage "enum attnx_storage":
        ATTNX_F32
        ATTNX_F64
        ATTNX_F16
        ATTNX_BF16
        ATTNX_BOOL

    cdef struct attnx_array:
        void *data
        const Py_ssize_t *batch
        Py_ssize_t head, row, item
        attnx_storage storage

    ctypedef enum attnx_stage "enum attnx_stage":
        pass

    cdef struct attnx_attention:
        attnx_array query, key, value, mask, bias, out, lse
        Py_ssize_t heads, group
        Py_ssize_t query_len, key_len
        Py_ssize_t head_dim, value_dim
        Py_ssize_t batch, batch_axes
        const Py_ssize_t *batch_shape
        const int64_t *query_starts
        const int64_t *key_starts
        const int64_t *query_lengths
        const int64_t *key_lengths
        const int64_t *query_offsets
        const void *sinks
        const void *slopes
        const void *relative
        Py_ssize_t reach
        Py_ssize_t window_left, window_right
        double scale, softcap
        attnx_stage stage

    cdef struct attnx_summary:
        attnx_attention attention
        void *rest
        void *entropy
        Py_ssize_t top_k
        void *top_weights
        int64_t *top_keys
        void *received

    cdef struct attnx_additive:
        attnx_attention attention
        attnx_array weights, powers
        const void *score_weight

    cdef struct attnx_additive_powers:
        const void *x
        void *out
        Py_ssize_t rows, units, x_row, out_row

    cdef struct attnx_softmax:
        const void *x
        const uint8_t *mask
        void *out
        Py_ssize_t axes
        const Py_ssize_t *shape
        const Py_ssize_t *x_strides
        const Py_ssize_t *mask_strides
        const Py_ssize_t *out_strides
        Py_ssize_t rows, items, x_item, mask_item, out_item

    ctypedef enum attnx_activation "enum attnx_activation":
        pass

    cdef struct attnx_linear:
        const float *x
        const float *weight
        const float *bias
        const float *residual
        float *out
        Py_ssize_t rows, in_ "in", outs
        Py_ssize_t x_row, out_row, residual_row
        attnx_activation activation

    cdef struct attnx_layer_norm:
        const float *x
        const float *residual
        const float *weight
        const float *bias
        float *out
        Py_ssize_t rows, items
        Py_ssize_t x_row, out_row, residual_row
        float eps

    cdef struct attnx_recurrent:
        const float *x
        const float *h
        const float *state
        const float *cell
        float *next_state
        float *next_cell
        float *out
        Py_ssize_t rows, hidden
        Py_ssize_t x_row, h_row, out_row

    cdef struct attnx_recurrent_steps:
        attnx_linear maps
        attnx_recurrent step
        const int64_t *counts
        Py_ssize_t steps, rows
        int backwards

    cdef struct attnx_append:
        const float *rows
        float *cache
        const int64_t *lengths
        Py_ssize_t batch, heads, items
        Py_ssize_t rows_batch, rows_head
        Py_ssize_t cache_batch, cache_head, cache_row

    cdef struct attnx_rotary:
        const void *x
        const void *cos
        const void *sin
        void *out
        const int64_t *positions
        Py_ssize_t axes
        const Py_ssize_t *shape
        const Py_ssize_t *x_strides
        const Py_ssize_t *out_strides
        const Py_ssize_t *position_strides
        Py_ssize_t rows, items, pairs, cos_row, sin_row
        attnx_storage storage, table_storage
        int interleaved

    ctypedef enum attnx_op "enum attnx_op":
        ATTNX_attention_f32
        ATTNX_attention_f64
        ATTNX_attention_weights_f32
        ATTNX_attention_weights_f64
        ATTNX_summary_f32
        ATTNX_summary_f64
        ATTNX_received_f32
        ATTNX_received_f64
        ATTNX_additive_f32
        ATTNX_additive_f64
        ATTNX_additive_powers_f32
        ATTNX_additive_powers_f64
        ATTNX_softmax_f32
        ATTNX_softmax_f64
        ATTNX_linear_f32
        ATTNX_layer_norm_f32
        ATTNX_recurrent_f32
        ATTNX_recurrent_steps_f32
        ATTNX_append_f32
        ATTNX_rotary_f32
        ATTNX_rotary_f64

    ctypedef enum attnx_status "enum attnx_status":
        ATTNX_OK
        ATTNX_NO_MEMORY
        ATTNX_NO_SUCH_ISA

    cdef struct attnx_table:
        const char *name

    attnx_status attnx_run(attnx_op op, const void *args, int num_threads)

    cdef struct attnx_call:
        attnx_op op
        const void *args

    attnx_status attnx_run_calls(const attnx_call *calls, Py_ssize_t count, const Py_ssize_t *starts, Py_ssize_t parts,
                                 int num_threads)
    attnx_status attnx_run_steps(const attnx_recurrent_steps *args, int num_threads)

    enum:
        ATTNX_PANEL
        ATTNX_UNITS

cdef extern from "dispatch.h" nogil:
    const char *attnx_isa_available(int i)
    const attnx_table *attnx_table_now "attnx_table"()
    attnx_status attnx_isa_force(const char *name)
    const char *attnx_compiler()
    const char *attnx_build_flags()

cdef extern from "threads.h" nogil:
    int attnx_openmp_limit()
