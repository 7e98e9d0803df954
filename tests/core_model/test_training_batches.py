"""Packed batches: nothing is lost, and they go on where they stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.tokenizer import (
    Tokenizer,
)
from anybind.core_model.training.batches import PADDING, Batch, Batcher
from anybind.core_model.training.rendering import IGNORED, ConversationEncoder
from anybind.core_model.training.samples import TrainingSample
from anybind.errors import UserError
from tests.core_model.training_talk import sample, small_tokenizers

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tokenizer]:
    return small_tokenizers(tmp_path_factory.mktemp("tokenizers"))


# ---------------------------------------------------------------- packing


class Listed:
    """A mixer of a list, gone through once or endlessly."""

    def __init__(self, samples: Sequence[TrainingSample], endless: bool = False) -> None:
        self.samples, self.endless, self.at = samples, endless, 0

    def __next__(self) -> TrainingSample:
        if self.at >= len(self.samples) and not self.endless:
            raise StopIteration
        self.at += 1
        return self.samples[(self.at - 1) % len(self.samples)]

    def state(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.at = state["at"]


def many(count: int, seed: int = 0) -> list[TrainingSample]:
    rng = np.random.default_rng(seed)
    out: list[TrainingSample] = []
    for i in range(count):
        feature = None if rng.random() < 0.3 else np.eye(8, dtype=np.float32)[i % 8] * (i + 1)
        out.append(sample(f"q{i}", f"a{i} " * int(rng.integers(1, 12)), feature=feature))
    return out


def batcher(tokenizer: Tokenizer, samples: Any, **options: Any) -> Batcher:
    given = {"max_tokens": 128, "batch_tokens": 512, "dim": 8, **options}
    return Batcher(samples, tokenizer, LAYOUTS["chatml"], **given)


def pieces(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...] | None]]:
    """The samples of a batch, taken out of it again; checks what holds for every batch."""
    out = []
    assert batch.features.shape[0] == batch.present.shape[0] == batch.samples
    assert batch.features.dtype == torch.float32 and batch.tokens.dtype == torch.int64
    seen: list[int] = []
    for row in range(len(batch.tokens)):
        segments = batch.segments[row]
        order = [int(s) for s in torch.unique_consecutive(segments)]
        assert PADDING not in order[:-1]
        for segment in order:
            where = segments == segment
            if segment == PADDING:
                assert (batch.labels[row][where] == IGNORED).all()
                continue
            seen.append(segment)
            assert batch.positions[row][where].tolist() == list(range(int(where.sum())))
            labels = batch.labels[row][where]
            assert labels[0] == IGNORED
            feature = tuple(batch.features[segment].tolist()) if batch.present[segment] else None
            if feature is None:
                assert not batch.features[segment].any()
            out.append((tuple(batch.tokens[row][where].tolist()), tuple(labels.tolist()), feature))
    assert seen == list(range(batch.samples))
    return out


@pytest.mark.parametrize("packing", [True, False])
def test_packing_loses_nothing(tokenizer_of: Mapping[str, Tokenizer], packing: bool) -> None:
    tokenizer = tokenizer_of["gpt2"]
    samples = many(300)
    one = ConversationEncoder(tokenizer, LAYOUTS["chatml"], 128)
    wanted = Counter(
        (tuple(r.tokens), tuple(r.labels), None if s.feature is None else tuple(s.feature.tolist()))
        for s in samples
        for r in one.encode(s)[0]
    )
    batches = list(batcher(tokenizer, Listed(samples), packing=packing))
    assert Counter(p for b in batches for p in pieces(b)) == wanted
    assert all(b.tokens.numel() <= 512 for b in batches)
    if packing:
        assert all(b.tokens.shape == (4, 128) for b in batches[:-1])
        full = float(np.mean([b.used for b in batches[:-1]]))
        assert full > 0.9, full
    else:
        assert all(b.samples == len(b.tokens) for b in batches)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 60), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(64, 700))
def test_batches_go_on_where_they_stopped(
    tokenizer_of: Mapping[str, Tokenizer], before: int, packing: bool, endless: bool, windows: int, size: int
) -> None:  # fmt: skip
    tokenizer, samples = tokenizer_of["gpt2"], many(200)

    def opened() -> Batcher:
        return batcher(
            tokenizer, Listed(samples, endless), packing=packing, windows=windows, batch_tokens=size
        )

    one = opened()
    for _ in zip(range(before), one, strict=False):
        pass
    state = json.loads(json.dumps(one.state()))
    wanted = [b for _, b in zip(range(12), one, strict=False)]
    other = opened()
    other.restore(state)
    assert other.state()["data"] == state["data"]
    found = [b for _, b in zip(range(12), other, strict=False)]
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        for field in ("tokens", "labels", "segments", "positions", "features", "present"):
            assert torch.equal(getattr(a, field), getattr(b, field))
    assert other.counts == one.counts


def test_states_of_other_settings_and_useless_data_are_refused(tokenizer_of: Mapping[str, Tokenizer]) -> None:  # fmt: skip
    tokenizer = tokenizer_of["gpt2"]
    one = batcher(tokenizer, Listed(many(50), True))
    next(one)
    with pytest.raises(UserError, match="settings"):
        batcher(tokenizer, Listed(many(50), True), max_tokens=64).restore(one.state())
    with pytest.raises(UserError, match="damaged"):
        batcher(tokenizer, Listed(many(50), True)).restore({**one.state(), "counts": 3})
    with pytest.raises(UserError, match="none gives a row"):
        next(batcher(tokenizer, Listed(many(50), True), max_tokens=4))
    wrong = [sample("a", "b", feature=np.ones(5, np.float32))]
    with pytest.raises(UserError, match="takes 8 numbers"):
        next(batcher(tokenizer, Listed(wrong)))


def test_a_file_to_a_batch(tokenizer_of: Mapping[str, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The whole way, with the real mixer, resumed in the middle of a packed window."""
    from anybind.core_model.training.data import open_sources
    from anybind.core_model.training.data.config import read_data_config

    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))
    records = [{"instruction": f"q{i}", "input": "", "output": f"answer {i}"} for i in range(60)]
    (tmp_path / "a.json").write_text(json.dumps(records))
    config = read_data_config({"sources": [{"format": "alpaca", "path": "a.json"}]}, tmp_path)

    def opened() -> Batcher:
        return batcher(tokenizer_of["gpt2"], open_sources(config, dim=8))

    one = opened()
    for _ in range(5):
        next(one)
    other = opened()
    other.restore(json.loads(json.dumps(one.state())))
    for _ in range(20):
        assert torch.equal(next(one).tokens, next(other).tokens)
