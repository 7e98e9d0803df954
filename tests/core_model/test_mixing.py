"""Mixing by weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.content import Embedding, Provenance
from anybind.core_model.mixing import mix
from anybind.errors import UserError


def embedding(seed: int, space: str = "s", raw: bool = True) -> Embedding:
    row = np.random.default_rng(seed).normal(size=6).astype(np.float32)
    made = Embedding.of((row / np.linalg.norm(row)).astype(np.float32))
    provenance = Provenance("encoder:image", (f"image/{seed}",))
    return replace(made, space=space, raw=row if raw else None, provenance=provenance)


def test_the_formula() -> None:
    a, b = embedding(0), embedding(1)
    got = mix([a, b], [0.7, 0.9])
    np.testing.assert_allclose(got.data, (0.7 * a.data + 0.9 * b.data) / (1.6 + 1e-6), atol=1e-7)
    np.testing.assert_allclose(got.raw, (0.7 * a.raw + 0.9 * b.raw) / (1.6 + 1e-6), atol=1e-6)
    assert got.space == "s" and got.data.dtype == np.float32
    assert got.provenance.sources == ("image/0", "image/1")


@given(st.lists(st.floats(0.5, 10), min_size=1, max_size=5), st.floats(1, 100))
def test_the_scale_of_the_weights_does_not_matter(weights: list[float], scale: float) -> None:
    parts = [embedding(i) for i in range(len(weights))]
    one, other = mix(parts, weights).data, mix(parts, [w * scale for w in weights]).data
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_equal_weights_are_the_mean_and_zero_leaves_out() -> None:
    parts = [embedding(i) for i in range(3)]
    np.testing.assert_allclose(mix(parts).data, sum(p.data for p in parts) / 3, atol=1e-6)
    np.testing.assert_allclose(mix(parts, [0, 1, 0]).data, parts[1].data, atol=2e-6)


def test_without_a_raw_output_everywhere_there_is_none() -> None:
    assert mix([embedding(0), embedding(1, raw=False)]).raw is None


@pytest.mark.parametrize(
    ("parts", "weights"),
    [
        ([], None),
        ([embedding(0)], [1.0, 2.0]),
        ([embedding(0)], [-1.0]),
        ([embedding(0), embedding(1)], [0.0, 0.0]),
        ([embedding(0)], [float("nan")]),
        ([embedding(0)], [float("inf")]),
        ([embedding(0, "a"), embedding(1, "b")], None),
    ],
)
def test_what_makes_no_mixture_is_a_user_error(parts: Any, weights: Any) -> None:
    with pytest.raises(UserError):
        mix(parts, weights)
