"""Order, shares, parts and states of training data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anybind.core_model.training.data import Mixer, open_sources
from anybind.core_model.training.data.config import read_data_config
from anybind.core_model.training.data.order import Order, Permutation, chance, mix64
from anybind.errors import UserError

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))


def lines(path: Path, count: int, bad: int = 0) -> None:
    rows = []
    for i in range(count):
        ask = {"role": "user", "content": "q"}
        rows.append(json.dumps({"messages": [ask, {"role": "assistant", "content": f"{path.stem} {i}"}]}))  # fmt: skip
        if i < bad:
            rows.append("bad")
    path.write_text("\n".join(rows), encoding="utf-8")


def mixer(base: Path, *sources: dict[str, Any], seed: int = 0, epochs: int | None = None, **more: Any) -> Mixer:  # fmt: skip
    whole = [{"format": "jsonl", "path": f"{s.pop('file')}.jsonl", **s} for s in map(dict, sources)]
    config = read_data_config({"sources": whole, "seed": seed, "epochs": epochs}, base)
    return open_sources(config, report=lambda line: None, **more)


def take(mix: Mixer, count: int) -> list[str]:
    return [next(mix).messages[-1].content for _ in range(count)]


# ---------------------------------------------------------------- permutations


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 1 << 63))
def test_a_long_permutation_is_one(n: int, seed: int) -> None:
    from anybind.core_model.training.data import order

    small, order._SMALL = order._SMALL, 0
    try:
        found = Permutation(n, seed)
    finally:
        order._SMALL = small
    assert found._table is None
    assert sorted(found[i] for i in range(n)) == list(range(n))


def test_a_permutation_looks_random() -> None:
    n = (1 << 20) + 5
    for kind in (Permutation(n, 1), Permutation(1000, 1)):
        first = np.array([kind[i] for i in range(1000)]) / kind.n
        assert abs(first.mean() - 0.5) < 0.04
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.1
        other = Permutation(kind.n, 2)
        assert sum(kind[i] == other[i] for i in range(1000)) < 10
    values = [chance(3, i) for i in range(4000)]
    assert abs(np.mean(values) - 0.5) < 0.02 and abs(np.var(values) - 1 / 12) < 0.005
    assert mix64(1, 2) != mix64(2, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.sampled_from(["full", "file", "none"]),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_an_order_meets_every_record_once(
    sizes: list[int], shuffle: str, limit: int | None
) -> None:
    order = Order(sizes, shuffle, 5, limit)
    count = min(sum(sizes), limit or 10**9)
    assert order.count == count
    seen = [order.at(epoch, place) for epoch in (0, 1) for place in range(count)]
    for epoch in (seen[:count], seen[count:]):
        assert sorted(epoch) == list(range(count))
        if shuffle == "file":  # one file at a time
            files = [order.place(r)[0] for r in epoch]
            assert sum(a != b for a, b in zip(files, files[1:], strict=False)) < max(
                len(set(files)), 1
            )
    for record in range(count):
        file, place = order.place(record)
        assert sum(sizes[:file]) + place == record and place < sizes[file]
    # Places may be asked for in any order.
    if count:
        assert order.at(0, count - 1) == seen[count - 1]


# ---------------------------------------------------------------- epochs, parts, shares


def test_epochs_are_whole_and_differ(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", 30)
    mix = mixer(tmp_path, {"file": "a"}, epochs=2)
    found = [s.messages[-1].content for s in mix]
    assert Counter(found) == {f"a {i}": 2 for i in range(30)}
    assert sorted(found[:30]) == sorted(found[30:]) and found[:30] != found[30:]
    assert mix.summary()[0]["epoch"] == 2
    again = [s.messages[-1].content for s in mixer(tmp_path, {"file": "a"}, epochs=2)]
    other = [s.messages[-1].content for s in mixer(tmp_path, {"file": "a"}, epochs=2, seed=1)]
    assert again == found != other
    endless = mixer(tmp_path, {"file": "a"})
    assert take(endless, 60) == found and len(take(endless, 100)) == 100


@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 1), (3, 2), (1, 4)])
def test_parts_cover_everything_exactly_once(tmp_path: Path, world: int, workers: int) -> None:
    lines(tmp_path / "a.jsonl", 31)
    lines(tmp_path / "b.jsonl", 12)
    found: list[str] = []
    for rank in range(world):
        for worker in range(workers):
            part = mixer(
                tmp_path, {"file": "a"}, {"file": "b"}, epochs=1, rank=rank, world=world,
                worker=worker, workers=workers,
            )  # fmt: skip
            found += [s.messages[-1].content for s in part]
    assert sorted(found) == sorted([f"a {i}" for i in range(31)] + [f"b {i}" for i in range(12)])
    with pytest.raises(UserError, match="31 records for 40"):
        mixer(tmp_path, {"file": "a"}, world=40)


def test_shares_follow_weights_or_sizes(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", 50)
    lines(tmp_path / "b.jsonl", 150)
    weighted = mixer(tmp_path, {"file": "a", "weight": 3}, {"file": "b", "weight": 1})
    found = Counter(s.split()[0] for s in take(weighted, 4000))
    assert abs(found["a"] / 4000 - 0.75) < 0.03
    assert weighted.shares() == {"a.jsonl": 0.75, "b.jsonl": 0.25}
    sized = mixer(tmp_path, {"file": "a"}, {"file": "b"})
    assert abs(Counter(s.split()[0] for s in take(sized, 4000))["a"] / 4000 - 0.25) < 0.03
    # Whatever the shares, each source is gone through evenly.
    found = Counter(s for s in take(weighted, 4000) if s.startswith("a"))
    assert len(found) == 50 and max(found.values()) - min(found.values()) <= 2


def test_only_the_first_so_many(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", 30)
    found = [s.messages[-1].content for s in mixer(tmp_path, {"file": "a", "limit": 7}, epochs=1)]
    assert sorted(found) == [f"a {i}" for i in range(7)]


# ---------------------------------------------------------------- states


@SETTINGS
@given(
    st.integers(0, 90), st.integers(1, 40), st.integers(0, 5), st.sampled_from([1, 7, 32]),
    st.one_of(st.none(), st.integers(1, 3)),
)  # fmt: skip
def test_a_run_goes_on_with_the_very_sample(
    tmp_path: Path, before: int, after: int, bad: int, chunk: int, epochs: int | None
) -> None:
    lines(tmp_path / "a.jsonl", 20, bad)
    lines(tmp_path / "b.jsonl", 9)

    def opened() -> Mixer:
        mix = mixer(tmp_path, {"file": "a", "weight": 2}, {"file": "b", "weight": 1}, seed=before, epochs=epochs)  # fmt: skip
        mix._chunk = chunk  # as with an encoder, without its work
        return mix

    def rest(mix: Mixer) -> list[str]:
        return [s.messages[-1].content for _, s in zip(range(after), mix, strict=False)]

    one = opened()
    for _ in zip(range(before), one, strict=False):
        pass
    state = json.loads(json.dumps(one.state()))
    wanted, summary = rest(one), one.summary()
    other = opened()
    other.restore(state)
    assert other.state() == state
    assert rest(other) == wanted
    assert other.summary() == summary


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", 20)
    lines(tmp_path / "b.jsonl", 20)
    mix = mixer(tmp_path, {"file": "a"})
    take(mix, 5)
    state = mix.state()
    for other, said in [
        (mixer(tmp_path, {"file": "a"}, seed=1), "seed"),
        (mixer(tmp_path, {"file": "b"}), "other sources"),
        (mixer(tmp_path, {"file": "a"}, world=2), "shard"),
        (mixer(tmp_path, {"file": "a", "limit": 6}), "changed"),
    ]:
        with pytest.raises(UserError, match=said):
            other.restore(state)
    damaged = json.loads(json.dumps(state))
    damaged["sources"]["a.jsonl"]["position"] = -4
    with pytest.raises(UserError, match="damaged"):
        mixer(tmp_path, {"file": "a"}).restore(damaged)
    with pytest.raises(UserError, match="damaged"):
        mixer(tmp_path, {"file": "a"}).restore({**state, "draws": None})
    lines(tmp_path / "a.jsonl", 21)
    with pytest.raises(UserError, match="changed"):
        mixer(tmp_path, {"file": "a"}).restore(state)


def test_offsets_are_kept_and_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anybind.core_model.training.data import formats

    calls: list[Path] = []
    real = formats.scan_lines

    def scan(path: Path) -> Any:
        calls.append(path)
        return real(path)

    form = formats.FORMS["jsonl"]
    monkeypatch.setitem(formats.FORMS, "jsonl", formats.Form(form.kind, scan, form.read, form.unit))
    lines(tmp_path / "a.jsonl", 20)
    wanted = take(mixer(tmp_path, {"file": "a"}), 20)
    assert take(mixer(tmp_path, {"file": "a"}), 20) == wanted and len(calls) == 1
    (kept,) = (tmp_path / "home/offsets").glob("*.npy")
    for spoilt in (b"", b"garbage", kept.read_bytes()[:-8], kept.read_bytes()[:-24] + b"\xff" * 24):
        kept.write_bytes(spoilt)
        assert take(mixer(tmp_path, {"file": "a"}), 20) == wanted
    assert len(calls) == 5
    lines(tmp_path / "a.jsonl", 25)
    assert mixer(tmp_path, {"file": "a"}).sources[0].count == 25
