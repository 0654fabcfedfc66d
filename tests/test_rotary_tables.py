"""rotary_tables against formulas, numbers worked out by hand, and transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import Array

import attnx

TRAINED = "original_max_position_embeddings"
LINEAR: dict[str, Any] = {"rope_type": "linear", "factor": 4.0}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "factor": 2.0, TRAINED: 100}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 8.0, TRAINED: 4096}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    TRAINED: 8192,
}  # fmt: skip


def frequencies(cos: Array, sin: Array) -> tuple[Array, Array]:
    """Return what the tables hold at position 1: angles, and the factor of both."""
    c, s = cos[1].astype(float), sin[1].astype(float)
    return np.arctan2(s, c), np.hypot(c, s)


@pytest.mark.parametrize(
    ("length", "dim"), [(0, 8), (1, 2), (7, 0), (1023, 6), (1024, 6), (2500, 64)]
)
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_plain_tables_are_right_to_a_rounding(length: int, dim: int, base: float) -> None:
    cos, sin = attnx.rotary_tables(length, dim, base=base)
    angles = np.arange(length)[:, None] * base ** (-np.arange(0, dim, 2) / max(dim, 1))
    for table, truth in ((cos, np.cos(angles)), (sin, np.sin(angles))):
        assert table.shape == (length, dim // 2)
        assert table.dtype == np.float32
        np.testing.assert_allclose(table, truth, rtol=0, atol=2.0**-25 + 1e-11)


@pytest.mark.parametrize(
    "scaling", [None, {}, {"rope_type": "default"}, {"type": "default", "factor": None}]
)
def test_no_scaling(scaling: dict[str, Any] | None) -> None:
    for table, plain in zip(
        attnx.rotary_tables(30, 12, scaling=scaling), attnx.rotary_tables(30, 12), strict=True
    ):
        np.testing.assert_array_equal(table, plain)


def test_linear_divides_positions() -> None:
    scaled, plain = attnx.rotary_tables(41, 16, scaling=LINEAR), attnx.rotary_tables(11, 16)
    for table, unscaled in zip(scaled, plain, strict=True):
        np.testing.assert_allclose(table[::4], unscaled, atol=1e-7)


def test_dynamic_changes_nothing_up_to_the_trained_length() -> None:
    for length in (2, 99, 100):
        for table, plain in zip(
            attnx.rotary_tables(length, 16, scaling=DYNAMIC),
            attnx.rotary_tables(length, 16),
            strict=True,
        ):
            np.testing.assert_array_equal(table, plain)
    for table, plain in zip(
        attnx.rotary_tables(300, 2, scaling=DYNAMIC), attnx.rotary_tables(300, 2), strict=True
    ):
        np.testing.assert_array_equal(table, plain)


def test_dynamic_grows_the_base_with_the_length() -> None:
    # 2 * 300 / 100 - 1 = 5; dim / (dim - 2) = 4 / 2: the base is 10000 * 25 = 250000, of which the root is 500.
    angles, factor = frequencies(*attnx.rotary_tables(300, 4, scaling=DYNAMIC))
    np.testing.assert_allclose(angles, [1, 1 / 500], rtol=3e-7)
    np.testing.assert_allclose(factor, 1, rtol=1e-7)
    other = {"max_position_embeddings" if k == TRAINED else k: v for k, v in DYNAMIC.items()}
    np.testing.assert_array_equal(
        attnx.rotary_tables(300, 4, scaling=other)[1],
        attnx.rotary_tables(300, 4, scaling=DYNAMIC)[1],
    )


def test_llama3_keeps_short_waves_and_divides_long_ones() -> None:
    # Wavelengths of base 10**6, dim 8: 2 pi, 198.7, 6283.2, 198691.8; the bands end at 2048 and 8192.
    angles, factor = frequencies(*attnx.rotary_tables(2, 8, base=1e6, scaling=LLAMA3))
    turns = 8192 * 1e-3 / (2 * math.pi)  # 1.3038: kept to (1.3038 - 1) / (4 - 1)
    kept = (turns - 1) / 3
    assert 0.1 < kept < 0.11
    expected = [1, 10**-1.5, 1e-3 * (kept + (1 - kept) / 8), 10**-4.5 / 8]
    np.testing.assert_allclose(angles, expected, rtol=3e-7)
    np.testing.assert_allclose(factor, 1, rtol=1e-7)


def test_yarn_blends_from_pair_to_pair() -> None:
    # dim 16, base 10000: turns(j) = 4096 / (2 pi 10000**(j / 8)) is 32 at j = 2.618 and 1 at j = 5.628: from 2 to 6.
    angles, factor = frequencies(*attnx.rotary_tables(2, 16, scaling=YARN))
    divided = np.array([0, 0, 0, 0.25, 0.5, 0.75, 1, 1])
    plain = 10.0 ** (-np.arange(8) / 2)
    np.testing.assert_allclose(angles, plain * (divided / 8 + 1 - divided), rtol=3e-7)
    np.testing.assert_allclose(factor, 0.1 * math.log(8) + 1, rtol=2e-7)
    # Trained on 64 positions nothing turns 32 times: from 0 to 3, pair 2.016 rounded up.
    angles, _ = frequencies(*attnx.rotary_tables(2, 16, scaling=YARN | {TRAINED: 64}))
    early = np.minimum(np.arange(8) / 3, 1)
    np.testing.assert_allclose(angles, plain * (early / 8 + 1 - early), rtol=3e-7)
    angles, _ = frequencies(*attnx.rotary_tables(2, 16, scaling=YARN | {"truncate": False}))
    low, high = (8 * math.log10(4096 / (turns * 2 * math.pi)) / 4 for turns in (32, 1))
    divided = np.clip((np.arange(8) - low) / (high - low), 0, 1)
    assert 0 < divided[3] < divided[5] < 1
    np.testing.assert_allclose(angles, plain * (divided / 8 + 1 - divided), rtol=3e-7)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"attention_factor": 1.7}, 1.7),
        ({"mscale": 0.707, "mscale_all_dim": 0.9}, 1.1470165 / 1.1871497),
        ({"mscale": 0.707}, 1.2079442),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 0}, 1.2079442),
        ({"factor": 0.5}, 1.0),
    ],
)
def test_yarn_attention_factor(options: dict[str, float], expected: float) -> None:
    _, factor = frequencies(*attnx.rotary_tables(2, 16, scaling=YARN | options))
    np.testing.assert_allclose(factor, expected, rtol=3e-7)


def test_theta_in_the_dict() -> None:
    expected = attnx.rotary_tables(9, 8, base=500.0, scaling=LINEAR)
    for base in ({}, {"base": 500.0}):
        tables = attnx.rotary_tables(9, 8, scaling=LINEAR | {"rope_theta": 500}, **base)
        np.testing.assert_array_equal(tables, expected)
    old = {"type": "linear", "factor": 4}
    np.testing.assert_array_equal(attnx.rotary_tables(9, 8, base=500.0, scaling=old), expected)


@pytest.mark.parametrize("scaling", [DYNAMIC, YARN, LLAMA3, LINEAR])
def test_every_needed_key_is_missed(scaling: dict[str, Any]) -> None:
    for key in scaling.keys() - {"rope_type"}:
        for lacking in ({k: v for k, v in scaling.items() if k != key}, scaling | {key: None}):
            with pytest.raises(ValueError, match=f"'{key}'"):
                attnx.rotary_tables(8, 8, scaling=lacking)
        for bad in (0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"'{key}'"):
                attnx.rotary_tables(8, 8, scaling=scaling | {key: bad})
        with pytest.raises(TypeError, match=f"'{key}'"):
            attnx.rotary_tables(8, 8, scaling=scaling | {key: "8"})


@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "length", {"length": 8.0}),
        (ValueError, "length", {"length": -1}),
        (TypeError, "dim", {"dim": 8.0}),
        (ValueError, "dim", {"dim": 7}),
        (ValueError, "dim", {"dim": -2}),
        (ValueError, "base", {"base": 1.0}),
        (ValueError, "base", {"base": math.nan}),
        (TypeError, "base", {"base": "10000"}),
        (ValueError, "^base must be above 1", {"base": 0}),
        (ValueError, "rope_theta", {"scaling": LINEAR | {"rope_theta": 0.5}}),
        (ValueError, "rope_type", {"scaling": {"rope_type": ["linear"]}}),
        (TypeError, "scaling", {"scaling": "linear"}),
        (ValueError, "rope_type", {"scaling": {"rope_type": "longrope", "factor": 2.0}}),
        (ValueError, "rope_type", {"scaling": {"type": "mrope"}}),
        (ValueError, "beta_fast", {"scaling": LINEAR | {"beta_fast": 32}}),
        (ValueError, "factor", {"scaling": {"factor": 2.0}}),
        (ValueError, "betafast", {"scaling": YARN | {"betafast": 32}}),
        (ValueError, "beta_fast", {"scaling": YARN | {"beta_fast": 1, "beta_slow": 2}}),
        (TypeError, "truncate", {"scaling": YARN | {"truncate": 1}}),
        (ValueError, "attention_factor", {"scaling": YARN | {"attention_factor": 0}}),
        (ValueError, "high_freq_factor", {"scaling": LLAMA3 | {"high_freq_factor": 1.0}}),
        (ValueError, "rope_theta", {"base": 500.0, "scaling": LINEAR | {"rope_theta": 600.0}}),
        (ValueError, "max_position_embeddings", {"scaling": DYNAMIC | {"max_position_embeddings": 9}}),
    ],
)  # fmt: skip
def test_bad_input(error: type[Exception], name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=name):
        attnx.rotary_tables(**{"length": 8, "dim": 8} | arguments)


@pytest.mark.torch
@pytest.mark.parametrize("dim", [32, 64, 80, 128])
@pytest.mark.parametrize(
    "scaling",
    [
        LINEAR,
        DYNAMIC | {TRAINED: 2048},
        YARN,
        YARN | {"truncate": False, "beta_fast": 16.0, "beta_slow": 2.0},
        YARN | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.9},
        YARN | {"attention_factor": 1.7},
        LLAMA3,
    ],
)
def test_transformers(dim: int, scaling: dict[str, Any]) -> None:
    """The frequencies and the factor of transformers, which computes in float32."""
    ropes = pytest.importorskip("transformers.modeling_rope_utils")
    transformers = pytest.importorskip("transformers")
    theirs = dict(scaling)
    limit = theirs.pop(TRAINED, 4096) if scaling["rope_type"] == "dynamic" else 2**17
    config = transformers.LlamaConfig(
        head_dim=dim, max_position_embeddings=limit, rope_parameters=theirs | {"rope_theta": 5e4}
    )
    compute = ropes.ROPE_INIT_FUNCTIONS[scaling["rope_type"]]
    frequency, factor = compute(config, "cpu", seq_len=9000)
    cos, sin = attnx.rotary_tables(9000, dim, base=5e4, scaling=scaling)
    position = np.arange(0, 9000, 100)[:, None]
    angles = position * frequency.double().numpy()
    slack = 1e-6 * np.abs(angles) + 2e-7
    assert (np.abs(cos[::100] - factor * np.cos(angles)) <= factor * slack).all()
    assert (np.abs(sin[::100] - factor * np.sin(angles)) <= factor * slack).all()
