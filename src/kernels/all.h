/* Every kernel, in order: those of one noun after what they stand on, the general ones once for each element type. */
#include "real.h"
#include "storage.h"

#define R f32
#define real float
#define REAL_ROUND F32_ROUND
#define REAL_IS_F64 0
#define REAL_STORAGE ATTNX_F32
#include "exp.h"
#include "tanh.h"
#include "tile.h"
#include "softmax.h"
#include "fetch.h"
#include "score.h"
#include "mask.h"
#include "decode.h"
#include "attention.h"
#include "attention_run.h"
#include "attention_weights.h"
#include "top.h"
#include "summary.h"
#include "received.h"
#include "additive.h"
#include "rotary.h"
#undef R
#undef real
#undef REAL_ROUND
#undef REAL_IS_F64
#undef REAL_STORAGE
#undef ATTNX_TILE_ROWS

#define R f64
#define real double
#define REAL_ROUND F64_ROUND
#define REAL_IS_F64 1
#define REAL_STORAGE ATTNX_F64
#include "exp.h"
#include "tanh.h"
#include "tile.h"
#include "softmax.h"
#include "fetch.h"
#include "score.h"
#include "mask.h"
#include "decode.h"
#include "attention.h"
#include "attention_run.h"
#include "attention_weights.h"
#include "top.h"
#include "summary.h"
#include "received.h"
#include "additive.h"
#include "rotary.h"
#undef R
#undef real
#undef REAL_ROUND
#undef REAL_IS_F64
#undef REAL_STORAGE

#include "activation.h"
#include "linear.h"
#include "norm.h"
#include "recurrent.h"
#include "append.h"
