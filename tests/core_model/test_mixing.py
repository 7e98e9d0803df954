"""Mixing by weight."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind.content import Embedding, Provenance
from anybind.core_model import RetrievalCache
from anybind.core_model.mixing import add, generator_feature, interpolate, mix, subtract
from anybind.errors import UserError

PARITY = Path(
    os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parent.parent / "data" / "parity"
)


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


def test_sums_and_differences_have_unit_norm() -> None:
    a, b, c = embedding(0), embedding(1), embedding(2)
    for got, row, raw in (
        (add(a, b, c), a.data + b.data + c.data, a.raw + b.raw + c.raw),
        (subtract(a, b), a.data - b.data, a.raw - b.raw),
    ):
        np.testing.assert_allclose(got.data, row / np.linalg.norm(row), atol=1e-6)
        np.testing.assert_allclose(got.raw, raw, atol=1e-6)
        assert got.space == "s" and got.data.dtype == np.float32
    assert subtract(a, b).provenance == Provenance("subtract", ("image/0", "image/1"))


@given(st.floats(0, 1), st.booleans())
def test_a_way_leads_from_one_to_the_other(t: float, spherical: bool) -> None:
    a, b = embedding(0), embedding(1)
    got = interpolate(a, b, t, spherical=spherical)
    assert np.linalg.norm(got.data) == pytest.approx(1, abs=1e-5)
    angle = np.arccos(a.data @ b.data)
    if spherical:  # even speed on the great circle
        assert got.data @ a.data == pytest.approx(np.cos(t * angle), abs=1e-5)
        assert got.data @ b.data == pytest.approx(np.cos((1 - t) * angle), abs=1e-5)
    else:
        row = (1 - t) * a.data + t * b.data
        np.testing.assert_allclose(got.data, row / np.linalg.norm(row), atol=1e-6)
    for end, same in ((0, a), (1, b)):
        there = interpolate(a, b, end, spherical=spherical).data
        np.testing.assert_allclose(there, same.data, atol=1e-6)


def test_a_mixture_that_is_shorter_weighs_as_much_on_the_way() -> None:
    a, b = embedding(0), embedding(1)
    short = replace(a, lazy=Embedding.of(a.data * 0.5).lazy)
    np.testing.assert_allclose(
        interpolate(short, b, 0.3).data, interpolate(a, b, 0.3).data, atol=1e-6
    )


def opposite(of: Embedding) -> Embedding:
    return replace(Embedding.of(-of.data), space=of.space)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b: add(a),
        lambda a, b: add(a, opposite(a)),
        lambda a, b: subtract(a, a),
        lambda a, b: interpolate(a, opposite(a), 0.5),
        lambda a, b: interpolate(a, opposite(a), 0.2, spherical=True),
        lambda a, b: interpolate(a, b, 1.5),
        lambda a, b: interpolate(a, b, float("nan")),
        lambda a, b: add(a, embedding(1, "other")),
        lambda a, b: subtract(a, embedding(1, "other")),
        lambda a, b: interpolate(a, embedding(1, "other"), 0.5, spherical=True),
        lambda a, b: add(a, replace(Embedding.of(np.ones(3, np.float32)), space="s")),
    ],
)
def test_what_has_no_direction_or_no_common_space_is_a_user_error(wrong: Any) -> None:
    with pytest.raises(UserError):
        wrong(embedding(0), embedding(1))


def from_modality(seed: int, kind: str) -> Embedding:
    return replace(embedding(seed), provenance=Provenance(f"encoder:{kind}"))


def test_raw_outputs_of_points_are_divided_once() -> None:
    image, point = from_modality(0, "image"), from_modality(1, "point")
    got = mix([image, point], [1, 3])
    wanted = (image.raw + 3 * point.raw / 5) / (4 + 1e-6)
    np.testing.assert_allclose(got.raw, wanted, atol=1e-6)
    plain = mix([image, point], [1, 3], raw_divisors={})
    np.testing.assert_allclose(plain.raw, (image.raw + 3 * point.raw) / 4, atol=1e-5)
    np.testing.assert_array_equal(plain.data, got.data)
    # A mixture has been divided already.
    np.testing.assert_allclose(mix([got]).raw, got.raw, atol=1e-5)


def test_the_feature_for_generators_is_that_of_the_released_code() -> None:
    arrays = np.load(PARITY / "llm_tiny_io.npz")
    rows = {"image": arrays["feature_a"][0], "point": arrays["feature_b"][0]}
    given = [
        replace(
            Embedding.of(row / np.linalg.norm(row)), space="s", raw=row,
            provenance=Provenance(f"encoder:{kind}"),
        )
        for kind, row in rows.items()
    ]  # fmt: skip
    got = generator_feature(given, [0.7, 0.9])
    np.testing.assert_allclose(got, arrays["unclip_nocache.embed"][0], atol=1e-5)
    cache = RetrievalCache(
        arrays["cache_keys"], space="s", top_k=10, temperature=20.0, weight=0.5, mode="released"
    )
    got = generator_feature(given, [0.7, 0.9], cache=cache)
    np.testing.assert_allclose(got, arrays["unclip_cache.embed"][0], atol=1e-5)
    with pytest.raises(UserError, match="raw"):
        generator_feature([replace(given[0], raw=None)])


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
