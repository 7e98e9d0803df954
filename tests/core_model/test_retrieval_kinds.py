"""Every kind of index: built in blocks, saved, mapped, searched, applied; and files that are no index."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from anybind.core_model.retrieval import RetrievalCache, build_from_embeddings, guard, indexing
from anybind.core_model.retrieval.build import Options
from anybind.core_model.retrieval.faiss_files import inspect
from anybind.core_model.retrieval.rows import map_rows
from anybind.errors import AnybindError, MissingExtra, ModelError, UserError

DIM, ROWS = 32, 5000


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that another test has checked counts as checked."""
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))
    faiss.omp_set_num_threads(1)


def clustered(n: int, seed: int) -> NDArray[np.float32]:
    centres = np.random.default_rng(0).normal(size=(150, DIM))
    rng = np.random.default_rng(seed)
    made = centres[rng.integers(0, 150, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


KEYS, QUERIES = clustered(ROWS, 1), clustered(40, 2)
NEAREST = np.argsort(-(QUERIES @ KEYS.T), axis=1)[:, :10]


def recall(cache: RetrievalCache) -> float:
    found = cache.search(QUERIES, 10)
    return float(
        np.mean(
            [len({h.row for h in f} & set(e)) for f, e in zip(found, NEAREST.tolist(), strict=True)]
        )
        / 10
    )


@pytest.mark.parametrize(
    ("kind", "rows", "floor"),
    [
        ("flat", "auto", 1.0), ("ivf", "auto", 0.95), ("hnsw", "auto", 0.97), ("sq8", "keep", 0.999),
        ("sq8", "drop", 0.95), ("pq", "keep", 0.95), ("pq", "drop", 0.6), ("ivfpq", "keep", 0.9),
        ("ivfpq", "drop", 0.6),
    ],
)  # fmt: skip
def test_a_kind(
    kind: Any, rows: Any, floor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "keys.safetensors", tmp_path / "cache"
    labels = json.dumps([f"l{i}" for i in range(ROWS)])
    save_file({"embeddings": KEYS * 3}, source, {"space": "s", "labels": labels})
    for name in ("rows", "indexing"):  # several blocks, the last one smaller
        module: Any = __import__(f"anybind.core_model.retrieval.{name}", fromlist=["x"])
        blocks = module.blocks
        monkeypatch.setattr(module, "blocks", lambda r, size=1500, b=blocks: b(r, size))
    report = build_from_embeddings(source, out, options=Options(kind=kind, rows_file=rows))
    plan = report.meta.plan
    assert abs(report.index_bytes / plan.index_bytes - 1) < 0.05
    assert report.rows_bytes >= plan.rows_bytes and bool(report.rows_bytes) == plan.keep_rows
    assert not (out / "building").exists()

    cache = RetrievalCache.load(out)
    assert (cache.space, len(cache), cache.dim) == ("s", ROWS, DIM)
    assert recall(cache) >= floor
    hit = cache.search(KEYS[7:8], 3)[0][0]
    if rows != "drop":
        assert (hit.row, hit.label) == (7, "l7") and hit.similarity == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(cache.rows[5:9], KEYS[5:9], atol=1e-6)
    else:
        assert hit.label == f"l{hit.row}" and np.linalg.norm(cache.rows[5] - KEYS[5]) < 0.7
    one_by_one = np.concatenate([cache.apply(q[None]) for q in QUERIES])
    np.testing.assert_allclose(cache.apply(QUERIES), one_by_one, atol=1e-6)

    nearest = RetrievalCache.load(out, top_k=1, weight=1.0)
    top = [h[0].row for h in nearest.search(QUERIES, 1)]
    stored = nearest.rows[top]
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(nearest.apply(QUERIES), stored, atol=1e-5)

    (guard.home() / "checked").rename(tmp_path / "elsewhere")  # a file of someone else
    copied = RetrievalCache.load(out)
    np.testing.assert_array_equal(copied.apply(QUERIES), cache.apply(QUERIES))


def test_a_flat_file_is_what_faiss_would_write(tmp_path: Path) -> None:
    index = faiss.IndexFlatIP(DIM)
    index.add(indexing.sample(KEYS, ROWS))
    np.save(tmp_path / "k.npy", KEYS)
    build_from_embeddings(
        tmp_path / "k.npy", tmp_path / "c", space="s", options=Options(kind="flat")
    )
    assert (tmp_path / "c" / "index.faiss").read_bytes() == bytes(faiss.serialize_index(index))


@pytest.mark.parametrize(
    "factory",
    ["Flat", "IVF16,Flat", "HNSW16,Flat", "SQ8", "IVF16,SQ8", "PQ8np", "OPQ8,IVF16,PQ8np", "IDMap,Flat",
     "IDMap2,Flat", "IVF16_HNSW8,Flat", "IVF16,PQ8np,RFlat"],
)  # fmt: skip
def test_a_bare_index_as_released(factory: str, tmp_path: Path) -> None:
    """No metadata, keys are values, the lists without a direct map."""
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    if factory.startswith("OPQ"):
        faiss.downcast_VectorTransform(index.chain.at(0)).niter = 2
    index.train(KEYS)
    ids = np.arange(ROWS)[::-1].copy() if "IDMap" in factory else np.arange(ROWS)
    index.add_with_ids(KEYS, ids) if "IDMap" in factory else index.add(KEYS)
    faiss.write_index(index, str(tmp_path / "knn.index"))
    cache = RetrievalCache.load(tmp_path / "knn.index", bundle_space="joint", top_k=10)
    assert cache.space == "joint"
    sims, found = index.search(QUERIES, 10)
    values = np.empty((ROWS, DIM), np.float32)
    values[ids] = cache.rows[ids]
    if inspect(tmp_path / "knn.index").exact:
        np.testing.assert_allclose(values[ids], KEYS, atol=1e-6 if "PQ" not in factory else 1)
    share = np.exp(20 * sims) / np.exp(20 * sims).sum(1, keepdims=True)
    pulled = np.einsum("bk,bkc->bc", share, values[found])
    pulled /= np.linalg.norm(pulled, axis=1, keepdims=True)
    wanted = 0.5 * QUERIES + 0.5 * pulled
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(cache.apply(QUERIES), wanted, atol=2e-5)


def test_indexes_that_make_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "knn.index"
    for index, rows, says in (
        (faiss.IndexFlatL2(DIM), KEYS, "L2"),
        (faiss.IndexFlatIP(DIM), KEYS * 2, "norm 1"),
        (faiss.IndexFlatIP(DIM), KEYS[:0], "no rows"),
        (faiss.index_factory(DIM, "IVF16,PQ8x4fs", faiss.METRIC_INNER_PRODUCT), KEYS, "not read"),
    ):
        if not index.is_trained:
            index.train(rows)
        index.add(rows)
        faiss.write_index(index, str(path))
        with pytest.raises(ModelError, match=says):
            RetrievalCache.load(path, bundle_space="s")


def test_lists_that_lie_in_another_file_are_refused(tmp_path: Path) -> None:
    index = faiss.index_factory(DIM, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(KEYS)
    index.add(KEYS)
    lists = faiss.OnDiskInvertedLists(4, 4 * DIM, str(tmp_path / "lists.data"))
    lists.merge_from_1(index.invlists)
    index.replace_invlists(lists, False)
    faiss.write_index(index, str(tmp_path / "i.index"))
    with pytest.raises(ModelError, match="ilod"):
        RetrievalCache.load(tmp_path / "i.index")


def written(factory: str, n: int = 300) -> bytes:
    index = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT)
    keys = np.ascontiguousarray(KEYS[:n, :8])
    index.train(keys)
    index.add(keys)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.make_direct_map()
    return bytes(faiss.serialize_index(index))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flipped, overwritten by extreme numbers, cut, or lengthened; mostly near the sizes."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(min(len(made), rng.choice((64, 256, len(data)))))
        kind = rng.randrange(5)
        if kind == 0:
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[place] = rng.randrange(256)
        elif kind == 2:
            number = rng.choice((0, 1, -1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)))
            made[place : place + 8] = number.to_bytes(8, "little", signed=True)
        elif kind == 3 and len(made) > 80:
            del made[rng.randrange(40, len(made)) :]
        else:
            made[place:place] = rng.randbytes(rng.randrange(1, 16))
    return bytes(made)


FUZZED = ("Flat", "IVF8,Flat", "HNSW8,Flat", "PQ4x4np", "IVF8,SQ8", "OPQ4,IVF8,PQ4x4np")


def test_fuzzed_headers_give_our_error_or_pass(tmp_path: Path) -> None:
    rng, path = random.Random(5), tmp_path / "f.index"
    samples = [written(f) for f in FUZZED]
    refused = 0
    for number in range(5000):
        path.write_bytes(mutated(samples[number % len(samples)], rng))
        try:
            inspect(path, deep=number % 2 == 0)
        except ModelError:
            refused += 1
    assert 1000 < refused < 5000


def test_fuzzed_indexes_end_to_end(tmp_path: Path) -> None:
    """What the walk lets through goes to FAISS in a process of its own; ours lives on."""
    rng, path = random.Random(6), tmp_path / "f.index"
    samples = [written(f) for f in FUZZED]
    tried = 0
    while tried < 6:
        path.write_bytes(mutated(samples[rng.randrange(len(samples))], rng))
        try:
            inspect(path, deep=True)
        except ModelError:
            continue
        tried += 1
        try:
            cache = RetrievalCache.load(path, bundle_space="s")
        except ModelError:
            continue
        assert cache.apply(np.ones((2, cache.dim), np.float32)).shape == (2, cache.dim)


def test_a_process_that_falls_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "i.index"
    path.write_bytes(written("Flat"))
    monkeypatch.setattr(guard.sys, "executable", "/bin/false")
    with pytest.raises(ModelError, match="not a sound"):
        guard.read_index(path)
    assert not guard.known(path)
    monkeypatch.undo()


def test_a_checked_file_that_changes_is_checked_again(tmp_path: Path) -> None:
    path = tmp_path / "i.index"
    path.write_bytes(written("IVF8,Flat"))
    assert not guard.known(path)
    guard.read_index(path)
    assert guard.known(path)
    path.write_bytes(written("Flat"))
    assert not guard.known(path)


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="this FAISS has a GPU part")
def test_without_a_gpu_part_the_error_says_so() -> None:
    with pytest.raises(MissingExtra, match=r"anybind\[faissgpu\]"):
        RetrievalCache(KEYS, space="s", device="cuda")


def test_probes(tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", KEYS)
    build_from_embeddings(
        tmp_path / "k.npy", tmp_path / "c", space="s", options=Options(kind="ivf")
    )
    few, all_ = (RetrievalCache.load(tmp_path / "c", probes=p) for p in (1, 10_000))
    assert recall(few) < recall(all_) == 1.0
    build_from_embeddings(
        tmp_path / "k.npy", tmp_path / "f", space="s", options=Options(kind="flat")
    )
    with pytest.raises(UserError, match="lists"):
        RetrievalCache.load(tmp_path / "f", probes=2)


def test_embeddings_that_make_no_cache(tmp_path: Path) -> None:
    bad = KEYS[:300].copy()
    bad[17] = 0
    np.save(tmp_path / "zero.npy", bad)
    with pytest.raises(ModelError, match="Row 17"):
        build_from_embeddings(tmp_path / "zero.npy", tmp_path / "o", space="s")
    np.save(tmp_path / "ints.npy", np.ones((3, 3), int))
    np.save(tmp_path / "one.npy", np.ones(3, np.float32))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "zero.npy").read_bytes()[:400])
    (tmp_path / "junk.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    save_file({"x": KEYS[:3]}, tmp_path / "x.safetensors")
    for name in ("ints.npy", "one.npy", "cut.npy", "junk.safetensors", "x.safetensors", "no.npy"):
        with pytest.raises(ModelError):
            map_rows(tmp_path / name)
    np.save(tmp_path / "k.npy", KEYS[:300])
    with pytest.raises(UserError, match="joint space"):
        build_from_embeddings(tmp_path / "k.npy", tmp_path / "p")
    save_file({"embeddings": KEYS[:9]}, tmp_path / "s.safetensors", {"space": "a"})
    with pytest.raises(UserError, match="'a'"):
        build_from_embeddings(tmp_path / "s.safetensors", tmp_path / "p", space="b")
    build_from_embeddings(tmp_path / "s.safetensors", tmp_path / "p")
    with pytest.raises(UserError, match="finished"):
        build_from_embeddings(tmp_path / "s.safetensors", tmp_path / "p")
    with pytest.raises(UserError, match="not empty"):
        build_from_embeddings(tmp_path / "s.safetensors", tmp_path)
    with pytest.raises(ModelError, match="'a'"):
        RetrievalCache.load(tmp_path / "p", space="b")


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "x"},
        {"count": 3},
        {"dim": 9},
        {"plan": {}},
        {"metric": "l2"},
        {"plan": None},
        {"rows": True},
    ],
)
def test_a_folder_that_contradicts_itself(damage: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", KEYS[:300])
    build_from_embeddings(tmp_path / "k.npy", tmp_path / "c", space="s")
    meta = json.loads((tmp_path / "c" / "meta.json").read_text())
    (tmp_path / "c" / "meta.json").write_text(json.dumps({**meta, **damage}))
    with pytest.raises(AnybindError):
        RetrievalCache.load(tmp_path / "c")
