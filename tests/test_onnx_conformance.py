"""The node cases of the installed onnx for Attention and RotaryEmbedding, on attnx's functions.

The two mappings below are the whole of what an ONNX runtime on attnx would need.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import Array

import attnx

STAGES = ("scores", "capped", "biased", "weights")  # qk_matmul_output_mode


def attention(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    """Attention 23, 24 and 25."""
    query, key, value = inputs["Q"], inputs["K"], inputs["V"]
    packed = query.ndim == 3  # (B, L, H * E)
    if packed:
        query = split_heads(query, attributes["q_num_heads"])
        key, value = (split_heads(x, attributes["kv_num_heads"]) for x in (key, value))
    offset: Any = 0
    if "past_key" in inputs:
        offset = inputs["past_key"].shape[2]
        key = np.concatenate([inputs["past_key"], key], axis=2)
        value = np.concatenate([inputs["past_value"], value], axis=2)
    lengths = inputs.get("nonpad_kv_seqlen")
    if lengths is not None:
        offset = lengths - query.shape[2]
    sides = (attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    window = tuple(None if side == -1 else side for side in sides)
    options = {
        "attn_mask": filled_up(inputs.get("attn_mask"), key.shape[2]),
        "is_causal": bool(attributes.get("is_causal", 0)),
        "query_offset": offset,
        "window": None if window == (None, None) else window,
        "scale": attributes.get("scale"),
        "softcap": attributes.get("softcap") or None,  # 0 is off
    }
    out = attnx.scaled_dot_product_attention(query, key, value, key_lengths=lengths, **options)
    if packed:
        out = out.swapaxes(1, 2).reshape(*inputs["Q"].shape[:2], -1)
    mode = attributes.get("qk_matmul_output_mode", 0)
    if mode > 1:  # the earlier stages know nothing of lengths
        options["key_lengths"] = lengths
    scores = attnx.attention_weights(query, key, stage=STAGES[mode], **options)
    return {"Y": out, "present_key": key, "present_value": value, "qk_matmul_output": scores}


def rotary_embedding(inputs: dict[str, Array], attributes: dict[str, Any]) -> dict[str, Array]:
    """RotaryEmbedding 23; how much of a head is turned, the tables say."""
    x, cos, sin = inputs["input"], inputs["cos_cache"], inputs["sin_cache"]
    packed = x.ndim == 3
    if packed:
        x = split_heads(x, attributes["num_heads"])
    interleaved = bool(attributes.get("interleaved", 0))
    positions = inputs.get("position_ids")
    if positions is None:  # a table for each batch entry
        each = (
            attnx.apply_rotary(x[b], cos[b], sin[b], interleaved=interleaved) for b in range(len(x))
        )
        out = np.stack(list(each))
    else:
        out = attnx.apply_rotary(x, cos, sin, interleaved=interleaved, positions=positions)
    if packed:
        out = out.swapaxes(1, 2).reshape(inputs["input"].shape)
    return {"output": out}


def split_heads(x: Array, heads: int) -> Array:
    """Return (B, H, L, D) of packed (B, L, H * D), without a copy."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def filled_up(mask: Array | None, keys: int) -> Array | None:
    """A mask may be shorter than the keys: the rest is not seen."""
    if mask is None or mask.shape[-1] == keys:
        return mask
    missing = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
    return np.pad(mask, missing, constant_values=False if mask.dtype == bool else -np.inf)


# --- the cases -----------------------------------------------------------------------------------


@cache
def cases() -> tuple[Any, ...]:
    """Every node case of the installed onnx; making them takes some seconds and some warnings."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(collect_testcases())


def cases_of(operator: str) -> list[Any]:
    """Those of one operator of ONNX itself: "_expanded" ones run other operators on the same data."""
    found = []
    for case in cases():
        nodes = case.model.graph.node
        if len(nodes) == 1 and (nodes[0].domain, nodes[0].op_type) == ("", operator):
            found.append(case)
    return found


def failure(case: Any, function: Callable[..., dict[str, Array]]) -> str | None:
    """Run a case; what differs, or None."""
    from onnx import helper

    node = case.model.graph.node[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for given, expected in case.data_sets:
        inputs = dict(zip((name for name in node.input if name), given, strict=True))
        results = function(inputs, attributes)
        names = [name for name in node.output if name]
        for name, wanted in zip(names, expected, strict=True):
            found = results[name]
            if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
                return f"{name}: {found.dtype} {found.shape}, not {wanted.dtype} {wanted.shape}"
            # 16-bit expectations are rounded at every step, ours once.
            eps = 0.0 if wanted.dtype == np.float32 else float(ml_dtypes.finfo(wanted.dtype).eps)
            finite = wanted[np.isfinite(wanted)].astype(np.float64)
            atol = case.atol + 4 * eps * np.abs(finite).max(initial=0)
            try:
                np.testing.assert_allclose(
                    found.astype(np.float64), wanted.astype(np.float64), case.rtol, atol
                )
            except AssertionError as error:
                return f"{name}: {error}"
    return None


@pytest.mark.parametrize(
    ("operator", "function", "least"),
    [("Attention", attention, 93), ("RotaryEmbedding", rotary_embedding, 8)],
)
def test_every_case(
    isa: str,
    capsys: pytest.CaptureFixture[str],
    operator: str,
    function: Callable[..., dict[str, Array]],
    least: int,
) -> None:
    found = cases_of(operator)
    failures = {case.name: text for case in found if (text := failure(case, function))}
    with capsys.disabled():
        print(f"\nonnx {operator}: {len(found) - len(failures)} of {len(found)} cases ({isa})")
    assert failures == {}
    assert len(found) >= least, "the installed onnx has lost cases"
    if operator == "Attention":
        versions = {case.model.opset_import[0].version for case in found}
        assert versions >= {23, 24, 25}


def test_a_wrong_mapping_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these changes one meaning; some case must fail for it."""
    right = attnx.scaled_dot_product_attention

    def wrong(name: str, change: Callable[[Any], Any]) -> list[str]:
        def function(*args: Any, **options: Any) -> Any:
            return right(*args, **options | {name: change(options[name])})

        monkeypatch.setattr(attnx, "scaled_dot_product_attention", function)
        return [case.name for case in cases_of("Attention") if failure(case, attention)]

    assert wrong("query_offset", lambda offset: 0)
    assert wrong("key_lengths", lambda lengths: None)
    assert wrong("softcap", lambda softcap: None)
    assert wrong("window", lambda window: None)
    assert wrong("window", lambda window: None if window is None else (window[0] + 1, window[1]))
    assert wrong("is_causal", lambda is_causal: not is_causal)
    assert wrong("attn_mask", lambda mask: None)
    assert wrong("scale", lambda scale: None)
    assert not wrong("scale", lambda scale: scale)
