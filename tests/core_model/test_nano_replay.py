"""Answers of the frozen decoder to plain requests: greedy, from any file of a decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anybind.contracts import Build
from anybind.core_model.checkpoints import load_with_fields
from anybind.core_model.factory import tokenizer_of
from anybind.core_model.prompts import chatml
from anybind.core_model.training.nano_data import replay
from tests.core_model.train_tiny import write_base


@pytest.mark.parametrize("request_", ["abc", "hello", "z"])
def test_the_decoder_says_what_is_likeliest(
    tmp_path: Path, request_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token by token over the whole text again, without a cache of keys and values."""
    torch.set_num_threads(1)
    monkeypatch.setattr(replay, "MOST_TOKENS", 8)  # the tiny decoder's context is 64
    base = write_base(tmp_path / "base")
    decoder, _, fields = load_with_fields(base)
    tokenizer = tokenizer_of(Build(), base, fields)
    prompt = tokenizer.encode(chatml([("user", request_)]))
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + replay.MOST_TOKENS:
            token = int(decoder(torch.tensor([ids]))[0, -1].argmax())
            if token == tokenizer.eos:
                break
            ids.append(token)
    wanted = tokenizer.decode(ids[len(prompt) :])
    assert wanted
    assert replay.by_decoder(base)(request_) == wanted


def test_an_answer_ends_where_the_decoder_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    base = write_base(tmp_path / "base")
    monkeypatch.setattr(replay, "MOST_TOKENS", 8)
    whole = replay.by_decoder(base)("abc")
    monkeypatch.setattr(replay, "MOST_TOKENS", 3)
    short = replay.by_decoder(base)("abc")
    assert len(short) <= 3 <= len(whole) and whole.startswith(short)
