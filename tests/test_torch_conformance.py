"""PyTorch and models written in it as a second oracle, independent of attnx/reference.py."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import Array, make_qkv
from numpy.typing import DTypeLike

import attnx

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
functional = torch.nn.functional

L, S = 37, 150
RNG = np.random.default_rng(0)
APART = np.arange(S) - np.arange(L)[:, None]
MASKS: dict[str, Any] = {
    "none": None,
    "bool": RNG.random((L, S)) < 0.6,
    "bool, rows that see nothing": (RNG.random((2, 1, L, S)) < 0.6) & (RNG.random((L, 1)) < 0.7),
    "float": RNG.standard_normal((4, L, S)),
    "float with -inf": np.where(RNG.random((L, S)) < 0.5, -np.inf, RNG.standard_normal((L, S))),
}


def tensor(x: Array | None) -> Any:
    """Return a tensor of the same numbers; PyTorch reads no ml_dtypes."""
    if x is not None and x.dtype == ml_dtypes.bfloat16:
        return torch.tensor(x.astype(np.float32)).to(torch.bfloat16)
    return None if x is None else torch.tensor(x)


def assert_near(found: Array, theirs: Any, times: float = 32) -> None:
    """Hold values of about one: so many roundings of the type."""
    eps = float(ml_dtypes.finfo(found.dtype).eps)
    wanted = theirs.to(torch.float64).numpy()
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0, atol=times * eps)


@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_sdpa(isa: str, dtype: DTypeLike, mask: str) -> None:
    """L != S: the causal triangle starts at the first key in both. PyTorch takes it or a mask."""
    causal = mask == "causal"
    args = make_qkv(L, S, 24, heads=4, kv_heads=2, dtype=dtype)
    attn_mask = MASKS.get(mask)
    if attn_mask is not None and attn_mask.dtype != bool:
        attn_mask = attn_mask.astype(dtype)
    for scale in (None, 0.3):
        theirs = functional.scaled_dot_product_attention(
            *map(tensor, args), attn_mask=tensor(attn_mask), is_causal=causal, scale=scale,
            enable_gqa=True,
        )  # fmt: skip
        ours = attnx.scaled_dot_product_attention(
            *args, attn_mask, is_causal=causal, scale=scale
        )  # fmt: skip
        assert_near(ours, theirs)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
def test_sdpa_in_16_bits(isa: str, stored: DTypeLike) -> None:
    args = make_qkv(L, S, 24, heads=4, dtype=stored)
    theirs = functional.scaled_dot_product_attention(*map(tensor, args), is_causal=True)
    ours = attnx.scaled_dot_product_attention(*args, is_causal=True)
    assert_near(ours, theirs, times=4)


# PyTorch's own definition of the options that its fused function does not have.
SOFTCAP, SLOPES = 1.5, (0.5, 0.1, 0.02, 0.0)
FLEX: dict[str, Any] = {
    "softcap": (
        {"softcap": SOFTCAP},
        lambda score, b, h, i, j: SOFTCAP * torch.tanh(score / SOFTCAP),
        None,
    ),
    "alibi after softcap": (
        {"softcap": SOFTCAP, "bias": attnx.bias.ALiBi(SLOPES)},
        lambda score, b, h, i, j: (
            SOFTCAP * torch.tanh(score / SOFTCAP) - torch.tensor(SLOPES)[h] * (i - j).abs()
        ),
        None,
    ),
    "window": (
        {"window": (20, 3), "query_offset": 60},
        None,
        lambda b, h, i, j: (j >= i + 60 - 20) & (j <= i + 60 + 3),
    ),
    "causal window": (
        {"window": (20, None), "is_causal": True},
        None,
        lambda b, h, i, j: (j <= i) & (i - j <= 20),
    ),
    "lengths": (
        {"key_lengths": [100, 0], "is_causal": True, "query_offset": [63, 5]},
        None,
        lambda b, h, i, j: (j < torch.tensor([100, 0])[b]) & (j <= i + torch.tensor([63, 5])[b]),
    ),
}


@pytest.mark.parametrize("case", FLEX)
def test_flex_attention(isa: str, case: str) -> None:
    """Run uncompiled, it is PyTorch's definition in plain tensors; its lse is natural too."""
    from torch.nn.attention import flex_attention as flex

    options, score_mod, mask_mod = FLEX[case]
    args = make_qkv(L, S, 16, heads=4, kv_heads=2)
    block_mask = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        if mask_mod is not None:
            block_mask = flex.create_block_mask(mask_mod, 2, 4, L, S, device="cpu")
        theirs, aux = flex.flex_attention(
            *map(tensor, args), score_mod=score_mod, block_mask=block_mask, enable_gqa=True,
            return_aux=flex.AuxRequest(lse=True),
        )  # fmt: skip
    ours, lse = attnx.scaled_dot_product_attention(*args, return_lse=True, **options)
    assert_near(ours, theirs)
    np.testing.assert_allclose(lse, aux.lse.numpy(), rtol=0, atol=1e-5)


def test_sinks_are_those_of_gpt_oss(isa: str) -> None:
    """The model's own attention adds the sink's column, takes the softmax and drops the column."""
    model = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    args = make_qkv(L, S, 16, heads=4, kv_heads=2)
    sinks = np.array([0.7, -1.0, 4.0, 0.0], np.float32)
    module = SimpleNamespace(sinks=tensor(sinks), num_key_value_groups=2, training=False)
    mask = np.where(APART <= 20, 0, np.finfo(np.float32).min).astype(np.float32)
    theirs, weights = model.eager_attention_forward(
        module, *map(tensor, args), tensor(mask)[None, None], scaling=0.25
    )
    options: dict[str, Any] = {"sinks": sinks, "is_causal": True, "query_offset": 20}
    ours = attnx.scaled_dot_product_attention(*args, **options)
    assert_near(ours, theirs.transpose(1, 2))
    assert_near(attnx.attention_weights(*args[:2], **options), weights)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("buckets", [4, 7, 32, 64])
def test_buckets_are_those_of_t5(buckets: int, bidirectional: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    table = np.arange(buckets, dtype=np.float64)[:, None]
    for max_distance in (buckets, 33, 100, 128, 129, 500, 2048):
        if max_distance <= buckets // 2:
            continue
        reach = max_distance + 70
        bias = attnx.bias.RelativePosition(table, bidirectional, max_distance)
        query, key = np.zeros((1, 1, 3)), np.zeros((1, 2 * reach, 3))
        found = attnx.attention_weights(
            query, key, bias=bias, query_offset=reach, stage="biased"
        )  # fmt: skip
        theirs = t5.T5Attention._relative_position_bucket(
            torch.arange(2 * reach) - reach, bidirectional, buckets, max_distance
        )
        np.testing.assert_array_equal(found[0, 0], theirs.numpy())


def test_multi_head_masks_are_the_other_way_round(isa: str) -> None:
    """torch.nn.MultiheadAttention: True hides; attnx's layer: True may attend, padding is lengths."""
    theirs = torch.nn.MultiheadAttention(24, 4, batch_first=True).eval()
    ours = attnx.layers.MultiHeadAttention(24, 4)
    ours.load_state_dict({name: x.numpy() for name, x in theirs.state_dict().items()})
    x = RNG.standard_normal((2, 9, 24)).astype(np.float32)
    hidden = np.triu(np.ones((9, 9), bool), 1)
    padding = np.arange(9) >= np.array([9, 5])[:, None]
    with torch.no_grad():
        wanted, weights = theirs(
            *[torch.tensor(x)] * 3, attn_mask=torch.tensor(hidden),
            key_padding_mask=torch.tensor(padding), average_attn_weights=False,
        )  # fmt: skip
    found, found_weights = ours(x, attn_mask=~hidden, key_lengths=[9, 5], need_weights=True)
    assert_near(found, wanted)
    assert_near(found_weights, weights)
