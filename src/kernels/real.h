/* Joining a word or a kernel's name with the element type of the current pass: V(load) is f32_load, K(tile) tile_f32.
 * all.h includes every kernel twice, with R as f32 and as f64. */
#define ATTNX_JOIN_(a, b) a##_##b
#define ATTNX_JOIN(a, b) ATTNX_JOIN_(a, b)
#define V(word) ATTNX_JOIN(R, word)
#define K(name) ATTNX_JOIN(name, R)
