"""attnx: attention for Python services without a GPU. NumPy in, NumPy out.

Functions compute on arrays; `attnx.layers` holds weights and calls them; `attnx.models` reads whole models;
`attnx.view` shows what they attend to; `attnx.decoding` searches. What few programs call is loaded at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attnx import bias
from attnx.attention import attention_weights, scaled_dot_product_attention
from attnx.runtime import (
    available_isas,
    force_isa,
    get_num_threads,
    isa,
    set_num_threads,
    show_config,
)
from attnx.softmax import softmax

if TYPE_CHECKING:
    from attnx import decoding, layers, models, view
    from attnx.additive import additive_attention
    from attnx.cache import KVCache
    from attnx.layers import (
        GRU,
        LSTM,
        AdditiveAttention,
        LayerNorm,
        Linear,
        LuongAttention,
        MultiHeadAttention,
        TransformerDecoder,
        TransformerDecoderLayer,
        TransformerEncoder,
        TransformerEncoderLayer,
    )
    from attnx.luong import luong_attention
    from attnx.merge import merge_attention
    from attnx.rollout import attention_rollout, value_norm_weights
    from attnx.rotary import apply_rotary, rotary_tables
    from attnx.summary import AttentionSummary, attention_summary
    from attnx.varlen import varlen_attention

__version__ = "0.1.0"

# Loaded at first use, which halves what the import takes; whatever else is in __all__ is a layer. No name may be
# that of its module, which an import inside the package would put in its place: softmax is loaded above.
_HOMES = {
    "AttentionSummary": "summary",
    "KVCache": "cache",
    "additive_attention": "additive",
    "apply_rotary": "rotary",
    "attention_rollout": "rollout",
    "attention_summary": "summary",
    "luong_attention": "luong",
    "merge_attention": "merge",
    "rotary_tables": "rotary",
    "value_norm_weights": "rollout",
    "varlen_attention": "varlen",
}
_MODULES = {"decoding", "layers", "models", "view", *_HOMES.values()}

__all__ = [
    "GRU",
    "LSTM",
    "AdditiveAttention",
    "AttentionSummary",
    "KVCache",
    "LayerNorm",
    "Linear",
    "LuongAttention",
    "MultiHeadAttention",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "additive_attention",
    "apply_rotary",
    "attention_rollout",
    "attention_summary",
    "attention_weights",
    "available_isas",
    "bias",
    "decoding",
    "force_isa",
    "get_num_threads",
    "isa",
    "layers",
    "luong_attention",
    "merge_attention",
    "models",
    "rotary_tables",
    "scaled_dot_product_attention",
    "set_num_threads",
    "show_config",
    "softmax",
    "value_norm_weights",
    "varlen_attention",
    "view",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"attnx.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'attnx' has no attribute {name!r}")
    home = importlib.import_module(f"attnx.{_HOMES.get(name, 'layers')}")
    globals()[name] = value = getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
