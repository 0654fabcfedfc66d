/* The C surface of attnx: one const struct of arguments a kernel, and the table of kernels.
 *
 * Letters, as everywhere in attnx: B batch, H query heads, G key/value heads, L query length, S key length,
 * E query/key head dim, D value head dim. Strides count elements, never bytes. Every array has been checked by
 * the caller: the kernels trust the structs.
 */
#ifndef ATTNX_H
#define ATTNX_H

#include <stddef.h>
#include <stdint.h>

/* How elements lie in memory; the kernels of an element type convert the others as they read. */
enum attnx_storage { ATTNX_F32, ATTNX_F64, ATTNX_F16, ATTNX_BF16, ATTNX_BOOL };

/* An array of shape (batch..., heads, rows, items); the batch axes are those of the call. */
struct attnx_array {
    void *data;             /* NULL: not given */
    const ptrdiff_t *batch; /* one stride a batch axis */
    ptrdiff_t head, row, item;
    enum attnx_storage storage;
};

/* What attention_weights gives: scores (scaled), softcapped, biased and masked, or the weights. */
enum attnx_stage { ATTNX_STAGE_SCORES, ATTNX_STAGE_CAPPED, ATTNX_STAGE_BIASED, ATTNX_STAGE_WEIGHTS };

/* Scaled dot-product attention, or its weights alone. `real` is the element type of the kernel. */
struct attnx_attention {
    struct attnx_array query, key, value;
    struct attnx_array mask, bias;       /* bool or real (mask), real (bias): broadcast by strides of 0 */
    struct attnx_array out;              /* (..., H, L, D), or the weights (..., H, L, S), which are real */
    struct attnx_array lse;              /* (..., H, L), real */
    ptrdiff_t heads, group;              /* H, and H / G query heads for each key/value head */
    ptrdiff_t query_len, key_len;        /* L, S */
    ptrdiff_t head_dim, value_dim;       /* E, D */
    ptrdiff_t batch, batch_axes;         /* B flattened, and the axes that it has */
    const ptrdiff_t *batch_shape;        /* one extent a batch axis */
    const int64_t *query_starts;         /* packed rows: first row of each batch entry, B + 1 of them, or NULL */
    const int64_t *key_starts;           /* likewise */
    const int64_t *query_lengths;        /* B, or NULL */
    const int64_t *key_lengths;          /* B, or NULL */
    const int64_t *query_offsets;        /* position of the first query, B, or NULL for 0 */
    const void *sinks;                   /* (H,), real, or NULL */
    const void *slopes;                  /* ALiBi, (H,), real, or NULL */
    const void *relative;                /* (H, 2 * reach + 1), real: bias by key minus query position, or NULL */
    ptrdiff_t reach;                     /* farther positions take the table's ends */
    ptrdiff_t window_left, window_right; /* -1: unbounded; a causal call has window_right 0 */
    double scale, softcap;               /* softcap 0: none */
    enum attnx_stage stage;
};

/* What attention looks at: summary is attention (value_dim 0: without an output) that also writes entropy and top_k keys
 * of each query; received, from the lse and rest that it left, the weight that each key gets. The arrays are contiguous. */
struct attnx_summary {
    struct attnx_attention attention;
    void *rest;      /* (B, H, L), real: what rounding took from lse; NULL where nobody asks, like those that follow */
    void *entropy;   /* (B, H, L), real */
    ptrdiff_t top_k; /* 0: none */
    void *top_weights; /* (B, H, L, top_k), real: in falling order, 0 where fewer keys are visible */
    int64_t *top_keys; /* (B, H, L, top_k): of equal weights the first key first, -1 where fewer are visible */
    void *received;    /* (B, H, S), real */
};

/* Additive attention: one head; head_dim is U, and scores are score_weight . tanh(query_i + key_j), without a scale.
 * Neither bias, softcap, sinks nor window. */
struct attnx_additive {
    struct attnx_attention attention;
    struct attnx_array weights; /* (..., 1, L, S), real, or not given */
    struct attnx_array powers;  /* (..., 1, S, U rounded up to ATTNX_UNITS), real: of the keys, or not given */
    const void *score_weight;   /* (U,), real */
};

/* What additive attention needs of its keys, prepared once for many calls: rows of e^2x, each `out_row` long, 1 past the
 * last unit; a row with a number that is too large for that begins with -1. */
enum { ATTNX_UNITS = 32 };
struct attnx_additive_powers {
    const void *x;
    void *out;
    ptrdiff_t rows, units, x_row, out_row;
};

/* Softmax over `items` of each of `rows` rows; a row starts at row_offsets[r] elements, in x, mask and out. */
struct attnx_softmax {
    const void *x;
    const uint8_t *mask; /* NULL: everything is visible */
    void *out;
    ptrdiff_t axes;         /* axes before the reduced one */
    const ptrdiff_t *shape; /* their extents */
    const ptrdiff_t *x_strides, *mask_strides, *out_strides;
    ptrdiff_t rows, items, x_item, mask_item, out_item;
};

enum attnx_activation { ATTNX_ACTIVATION_NONE, ATTNX_ACTIVATION_RELU, ATTNX_ACTIVATION_GELU, ATTNX_ACTIVATION_TANH };

/* out = activation(x W^T + bias) + residual. W is packed in panels of ATTNX_PANEL columns: panel p holds
 * W[p * ATTNX_PANEL + c, k] at [(p * in + k) * ATTNX_PANEL + c], zero past the last output. */
enum { ATTNX_PANEL = 16 }; /* a cache line */
struct attnx_linear {
    const float *x, *weight, *bias, *residual;
    float *out;
    ptrdiff_t rows, in, outs;
    ptrdiff_t x_row, out_row, residual_row;
    enum attnx_activation activation;
};

/* out = (z - mean(z)) / sqrt(var(z) + eps) * weight + bias over each row z = x + residual. */
struct attnx_layer_norm {
    const float *x, *residual, *weight, *bias;
    float *out;
    ptrdiff_t rows, items;
    ptrdiff_t x_row, out_row, residual_row;
    float eps;
};

/* A step of a recurrent layer after its linear maps, on whose gates it stands: new state (and cell, which makes it an
 * LSTM of four gates; without it a GRU of three). next_state and next_cell may be state and cell themselves. */
struct attnx_recurrent {
    const float *x, *h;                  /* (rows, gates * hidden): W_i input + b_i and W_h state + b_h */
    const float *state, *cell;           /* (rows, hidden); cell NULL: a GRU */
    float *next_state, *next_cell, *out; /* (rows, hidden); out is the new state once more, with rows of its own */
    ptrdiff_t rows, hidden;
    ptrdiff_t x_row, h_row, out_row;
};

/* A recurrent layer's way through its steps in one direction: `maps` makes step.h of the states, and `step` stands at the
 * first row of x and out, whose rows lie step by step. Step s has counts[s] rows, those of the first states, which it
 * takes along in place. */
struct attnx_recurrent_steps {
    struct attnx_linear maps;
    struct attnx_recurrent step;
    const int64_t *counts;
    ptrdiff_t steps, rows; /* rows: the sum of the counts */
    int backwards;         /* from the last step to the first */
};

/* Step i in their order: its maps and gates, of the rows that end or, backwards, begin at *row. */
static inline void attnx_step_at(const struct attnx_recurrent_steps *args, ptrdiff_t i, ptrdiff_t *row,
                                 struct attnx_linear *maps, struct attnx_recurrent *step) {
    const ptrdiff_t count = args->counts[args->backwards ? args->steps - 1 - i : i];
    *maps = args->maps;
    *step = args->step;
    if (args->backwards) *row -= count;
    maps->rows = step->rows = count;
    step->x += *row * step->x_row;
    step->out += *row * step->out_row;
    if (!args->backwards) *row += count;
}

/* Rows (batch, heads, items) that a cache (batch, heads, capacity, items) takes: those of entry b as row lengths[b] - 1. */
struct attnx_append {
    const float *rows;
    float *cache;
    const int64_t *lengths;
    ptrdiff_t batch, heads, items;
    ptrdiff_t rows_batch, rows_head;
    ptrdiff_t cache_batch, cache_head, cache_row;
};

/* Rotary positions: the first `pairs` pairs of each row turned by row p of the tables, the rest copied. Row (i, j, ...)
 * of the axes has the index q = sum of index * position stride, and p = positions[q], or q itself without positions. */
struct attnx_rotary {
    const void *x, *cos, *sin;
    void *out;
    const int64_t *positions; /* or NULL */
    ptrdiff_t axes;           /* axes before the items, at least 1 */
    const ptrdiff_t *shape;   /* their extents */
    const ptrdiff_t *x_strides, *out_strides, *position_strides;
    ptrdiff_t rows, items, pairs, cos_row, sin_row;
    enum attnx_storage storage, table_storage; /* of x and out; of cos and sin */
    int interleaved;
};

/* How a call is cut: `tasks` pieces of about `work` multiply-adds in all, `scratch` bytes for each thread.
 * `grain` tells the kernel's own way of cutting; only it reads that. */
struct attnx_plan {
    ptrdiff_t tasks;
    double work;
    size_t scratch;
    ptrdiff_t grain;
    ptrdiff_t run;   /* consecutive tasks that one thread does in order; 0 is 1 */
    ptrdiff_t spans; /* tasks that share the keys of a head; 0 where none do */
    ptrdiff_t parts; /* blocks of keys of a head that they may leave results of */
    size_t counters; /* at the start of `shared`: ptrdiff_t, zero at first */
    size_t shared_bytes;
    void *shared; /* memory of all tasks of the call */
};

/* A kernel: plan is called once with plan->tasks set to the number of threads at hand; run does one task. No result
 * depends on how a call is cut. */
struct attnx_kernel {
    void (*plan)(const void *args, struct attnx_plan *plan);
    void (*run)(const void *args, const struct attnx_plan *plan, ptrdiff_t task, void *scratch);
};

enum attnx_op {
#define ATTNX_OP(name, text, real) ATTNX_##name##_##real,
#include "ops.inc"
#undef ATTNX_OP
    ATTNX_OPS
};

struct attnx_table {
    const char *name;
    struct attnx_kernel kernels[ATTNX_OPS];
};

enum attnx_status { ATTNX_OK, ATTNX_NO_MEMORY, ATTNX_NO_SUCH_ISA };

/* Runs a kernel of the current table on at most num_threads threads. */
enum attnx_status attnx_run(enum attnx_op op, const void *args, int num_threads);

struct attnx_call {
    enum attnx_op op;
    const void *args;
};

/* Runs calls one after the other. Of more than one part, part p begins at call starts[p] and touches nothing that another
 * part writes: threads run parts beside each other. */
enum attnx_status attnx_run_calls(const struct attnx_call *calls, ptrdiff_t count, const ptrdiff_t *starts,
                                  ptrdiff_t parts, int num_threads);

/* Runs the kernels of all steps, one after the other. */
enum attnx_status attnx_run_steps(const struct attnx_recurrent_steps *args, int num_threads);

#endif
