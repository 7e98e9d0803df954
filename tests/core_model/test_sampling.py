"""Choosing tokens, and stop strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anybind.core_model.sampling import StopCutter, choose
from anybind.errors import ModelError

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0])


def draw(logits: torch.Tensor = LOGITS, seed: int = 0, **options: Any) -> int:
    settings: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0} | options
    return choose(logits, rng=torch.Generator().manual_seed(seed), **settings)


def test_zero_temperature_is_the_best_whatever_the_seed() -> None:
    assert {draw(temperature=0.0, seed=s) for s in range(5)} == {1}


def test_one_seed_gives_one_sequence() -> None:
    def sequence(seed: int) -> list[int]:
        rng = torch.Generator().manual_seed(seed)
        return [choose(LOGITS, temperature=1.0, top_p=0.9, rng=rng) for _ in range(30)]

    assert sequence(4) == sequence(4) != sequence(5)


def test_shares_follow_the_softmax() -> None:
    rng = torch.Generator().manual_seed(0)
    drawn = [choose(LOGITS, temperature=2.0, top_p=1.0, rng=rng) for _ in range(4000)]
    shares = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(shares, torch.softmax(LOGITS / 2, -1).numpy(), atol=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    for top_p, kept in [(0.1, {0}), (0.49, {0}), (0.6, {0, 1}), (0.81, {0, 1, 2})]:
        assert {draw(logits, s, top_p=top_p) for s in range(200)} == kept


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-40])
def test_a_tiny_temperature_is_nearly_greedy(temperature: float) -> None:
    assert {draw(temperature=temperature, seed=s) for s in range(5)} == {1}


def test_the_mask_rules() -> None:
    allowed = np.array([True, False, False, True])
    assert {draw(seed=s, allowed=allowed, temperature=5.0) for s in range(60)} == {0, 3}
    assert draw(temperature=0.0, allowed=np.array([False, False, True])) == 2
    with pytest.raises(ModelError):
        draw(allowed=np.zeros(4, bool))


def test_the_repetition_penalty_divides_positive_and_multiplies_negative() -> None:
    logits = torch.tensor([2.0, 1.5, -1.0, -1.2])
    assert draw(logits, temperature=0.0, seen=[0], repetition_penalty=1.5) == 1
    # -1.0 * 1.5 falls below -1.2.
    last = np.array([False, False, True, True])
    assert draw(logits, temperature=0.0, seen=[2], repetition_penalty=1.5, allowed=last) == 3
    assert draw(logits, temperature=0.0, seen=[0], repetition_penalty=1.0) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_are_a_model_error(bad: float) -> None:
    with pytest.raises(ModelError):
        draw(torch.tensor([1.0, bad]))


def _first_stop(text: str, stops: list[str]) -> str:
    at = min((text.find(s) for s in stops if s and s in text), default=len(text))
    return text[:at]


_SMALL = st.text(alphabet="ab\n:", max_size=30)


@given(st.lists(_SMALL, max_size=12), st.lists(st.text(alphabet="ab\n:", max_size=4), max_size=3))
def test_any_chunking_gives_the_text_before_the_first_stop(
    chunks: list[str], stops: list[str]
) -> None:
    cutter = StopCutter(stops)
    shown = ""
    expected = _first_stop("".join(chunks), stops)
    for chunk in chunks:
        shown += cutter.push(chunk)
        # Never a character that a later chunk would take back.
        assert expected.startswith(shown)
    stopped_early = cutter.stopped
    shown += cutter.flush()
    assert shown == expected
    assert stopped_early == any(s and s in "".join(chunks) for s in stops)


def test_text_flows_as_soon_as_it_is_safe() -> None:
    cutter = StopCutter(["\nObservation:"])
    assert cutter.push("hello") == "hello"
    assert cutter.push(" there\nObs") == " there"
    assert cutter.push("erver") == "\nObserver"
    assert cutter.push("\nObservation: x") == ""
    assert cutter.stopped and cutter.push("more") == "" and cutter.flush() == ""
