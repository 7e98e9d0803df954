"""How a query and its neighbours become one embedding: by hand, and against the reference."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anybind.content import Embedding
from anybind.core_model.mixing import mix
from anybind.core_model.retrieval import RetrievalCache
from anybind.core_model.retrieval.formulas import combine
from anybind.core_model.retrieval.searcher import Searcher
from anybind.errors import UserError

PARITY = Path(
    os.environ.get("ANYBIND_PARITY_DIR") or Path(__file__).parent.parent / "data" / "parity"
)


def rows(n: int = 40, dim: int = 8, seed: int = 0) -> Any:
    made = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_three_numbers_by_hand() -> None:
    query = np.array([[0.6, 0.8]], np.float32)
    sims = np.array([[0.8, 0.6]], np.float32)
    values = np.array([[[0.0, 1.0], [1.0, 0.0]]], np.float32)
    found = np.ones((1, 2), bool)
    options: Any = {"weight": 0.25, "temperature": 10.0}
    paper = combine(query, sims, values, found, mode="paper", **options)
    np.testing.assert_allclose(
        paper, [[0.75 * 0.6 + 0.25 * 0.6, 0.75 * 0.8 + 0.25 * 0.8]], atol=1e-7
    )
    divided = combine(query, sims, values, found, mode="paper-normalised", **options)
    np.testing.assert_allclose(
        divided, [[0.45 + 0.25 * 0.6 / 1.4, 0.6 + 0.25 * 0.8 / 1.4]], atol=1e-6
    )
    share = 1 / (1 + np.exp(-2.0))  # softmax of (8, 6)
    pulled = np.array([1 - share, share]) / np.hypot(share, 1 - share)
    wanted = 0.75 * query[0] + 0.25 * pulled
    released = combine(query, sims, values, found, mode="released", **options)
    np.testing.assert_allclose(released[0], wanted / np.linalg.norm(wanted), atol=1e-6)


@pytest.mark.parametrize("case", ["unclip_cache", "unclip_nocache"])
def test_the_unclip_condition_is_that_of_the_reference(case: str) -> None:
    """Pre-norm outputs, the point one divided by 5, mixed; cached, and given their norm back."""
    with np.load(PARITY / "llm_tiny_io.npz") as io:
        raws = io["feature_a"][0], io["feature_b"][0] / 5
        parts = [
            replace(Embedding.of(r / np.linalg.norm(r)), space="s", raw=np.asarray(r)) for r in raws
        ]
        mixed = mix(parts, [0.7, 0.9]).raw
        assert mixed is not None
        got = mixed[None]
        if case == "unclip_cache":
            got = RetrievalCache(io["cache_keys"], space="s").apply_to_raw(got)
        np.testing.assert_allclose(got, io[f"{case}.embed"], atol=2e-6)


@pytest.mark.parametrize("mode", ["released", "paper", "paper-normalised"])
def test_missing_neighbours_count_for_nothing(mode: Any) -> None:
    query, values = rows(2), np.zeros((2, 3, 8), np.float32)
    values[:, :2] = rows(4).reshape(2, 2, 8)
    sims = np.full((2, 3), 0.5, np.float32)
    found = np.array([[True, True, False]] * 2)
    options: Any = {"mode": mode, "weight": 0.5, "temperature": 20.0}
    np.testing.assert_allclose(
        combine(query, sims, values, found, **options),
        combine(query, sims[:, :2], values[:, :2], found[:, :2], **options),
        atol=1e-6,
    )
    alone = combine(query, sims, values, np.zeros((2, 3), bool), **options)
    np.testing.assert_allclose(alone, query, atol=1e-6)


def test_an_index_that_finds_fewer_than_k() -> None:
    """Each row in a list of its own, one list searched: one neighbour, the rest is -1."""
    import faiss

    made = rows(4)
    coarse = faiss.IndexFlatIP(8)
    index = faiss.IndexIVFFlat(coarse, 8, 4, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(made)
    index.add(made)
    index.nprobe = 1
    searcher = Searcher(index, exact=True)
    _, ids = searcher.search(made, 3)
    assert (ids[:, 1:] == -1).all()
    cache = RetrievalCache(searcher, space="s", top_k=3, weight=1.0)
    assert [len(h) for h in cache.search(made)] == [1] * 4
    np.testing.assert_allclose(cache.apply(made), made, atol=1e-6)  # made its direct map itself


def test_weight_zero_gives_the_query_at_norm_one() -> None:
    short = rows(3) * 0.4
    got = RetrievalCache(rows(), space="s", weight=0.0).apply(short)
    np.testing.assert_allclose(got, rows(3), atol=1e-6)


def test_the_query_is_not_brought_to_norm_one() -> None:
    """A shorter mix has smaller similarities, hence a flatter softmax."""
    cache = RetrievalCache(rows(), space="s", top_k=5, weight=1.0)
    query = rows(1, seed=3)
    assert np.abs(cache.apply(query) - cache.apply(0.3 * query)).max() > 1e-3


@pytest.mark.parametrize(
    "options", [{"mode": "softmax"}, {"top_k": 0}, {"weight": 1.5}, {"weight": float("nan")},
                {"temperature": -1.0}, {"device": "tpu"}]
)  # fmt: skip
def test_settings_that_make_no_cache(options: Any) -> None:
    with pytest.raises(UserError):
        RetrievalCache(rows(), space="s", **options)


def test_queries_that_are_no_numbers() -> None:
    cache = RetrievalCache(rows(), space="s")
    bad = rows(2)
    bad[1, 3] = np.nan
    with pytest.raises(UserError, match="finite"):
        cache.apply(bad)
    assert cache.apply(bad[:0]).shape == (0, 8)
