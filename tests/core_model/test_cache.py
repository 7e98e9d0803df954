"""The retrieval cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from anybind.core_model.retrieval import RetrievalCache
from anybind.errors import ModelError, UserError

RNG = np.random.default_rng(0)
KEYS = RNG.normal(size=(30, 8)).astype(np.float32)
UNIT = KEYS / np.linalg.norm(KEYS, axis=1, keepdims=True)


def queries(n: int = 4) -> NDArray[np.float32]:
    rows = np.random.default_rng(1).normal(size=(n, 8)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("mode", ["released", "paper-normalised"])
def test_one_neighbour_at_full_weight_is_the_nearest_row(mode: Any) -> None:
    cache = RetrievalCache(KEYS, space="s", top_k=1, weight=1.0, mode=mode)
    q = queries()
    np.testing.assert_allclose(cache.apply(q), UNIT[(q @ UNIT.T).argmax(1)], atol=1e-6)


@pytest.mark.parametrize("mode", ["released", "paper", "paper-normalised"])
def test_weight_zero_changes_nothing(mode: Any) -> None:
    cache = RetrievalCache(KEYS, space="s", top_k=5, weight=0.0, mode=mode)
    np.testing.assert_allclose(cache.apply(queries()), queries(), atol=1e-6)


@pytest.mark.parametrize("mode", ["released", "paper", "paper-normalised"])
def test_a_batch_is_its_rows_one_by_one(mode: Any) -> None:
    cache = RetrievalCache(KEYS, space="s", top_k=5, mode=mode)
    one_by_one = np.concatenate([cache.apply(q[None]) for q in queries()])
    np.testing.assert_allclose(cache.apply(queries()), one_by_one, atol=1e-6)


def test_the_formulas() -> None:
    q = queries(1)[0]
    sims = UNIT @ q
    top = np.argsort(-sims)[:3]
    pulled = sims[top] @ UNIT[top]
    got = RetrievalCache(KEYS, space="s", top_k=3, weight=0.4, mode="paper").apply(q[None])[0]
    np.testing.assert_allclose(got, 0.6 * q + 0.4 * pulled, atol=1e-6)
    mode: Any = "paper-normalised"
    got = RetrievalCache(KEYS, space="s", top_k=3, weight=0.4, mode=mode).apply(q[None])[0]
    np.testing.assert_allclose(got, 0.6 * q + 0.4 * pulled / sims[top].sum(), atol=1e-6)
    share = np.exp(7 * sims[top]) / np.exp(7 * sims[top]).sum()
    pulled = share @ UNIT[top]
    released = 0.6 * q + 0.4 * pulled / np.linalg.norm(pulled)
    cache = RetrievalCache(KEYS, space="s", top_k=3, weight=0.4, temperature=7.0)
    got = cache.apply(q[None])[0]
    np.testing.assert_allclose(got, released / np.linalg.norm(released), atol=1e-6)


def test_search_gives_labels_and_similarities_best_first() -> None:
    cache = RetrievalCache(KEYS, space="s", labels=[f"l{i}" for i in range(30)], top_k=3)
    (hits,) = cache.search(UNIT[7:8])
    assert (hits[0].label, hits[0].row) == ("l7", 7)
    assert hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert [h.similarity for h in hits] == sorted((h.similarity for h in hits), reverse=True)


def test_more_neighbours_than_rows_are_all_rows() -> None:
    assert len(RetrievalCache(KEYS[:4], space="s", top_k=10).search(queries(1))[0]) == 4


def test_it_loads_from_a_file(tmp_path: Path) -> None:
    labels = [f"l{i}" for i in range(30)]
    path = tmp_path / "c.safetensors"
    save_file(
        {"embeddings": KEYS.astype(np.float16)},
        path,
        {"space": "hub", "labels": json.dumps(labels)},
    )
    cache = RetrievalCache.load(path, top_k=2)
    assert (cache.space, cache.labels[3], cache.top_k) == ("hub", "l3", 2)
    np.testing.assert_allclose(cache.rows, UNIT, atol=2e-3)


def test_wrong_rows_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        RetrievalCache(KEYS[:0], space="s")
    with pytest.raises(ModelError):
        RetrievalCache(KEYS, space="s", labels=["one"])
    with pytest.raises(UserError):
        RetrievalCache(KEYS, space="s").apply(np.ones((1, 3), np.float32))
    for name, data in (("a", b"nothing"), ("b", None)):
        path = tmp_path / name
        if data is None:
            save_file({"other": KEYS}, path)
        else:
            path.write_bytes(data)
        with pytest.raises(ModelError):
            RetrievalCache.load(path)
    with pytest.raises(ModelError):
        RetrievalCache.load(tmp_path / "missing")
