"""Grammars over the real tokenizer: what must come, what may, and that nothing else does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anybind.assembly import Assembly
from anybind.core_model.grammar import GrammarEngine, Held
from anybind.core_model.tokenizer import BpeTokenizer
from anybind.errors import UserError

CALL = 'start: "Action: " NAME "\\nEnd"\nNAME: "Sketch" | "Line art" | "Edge"'


@pytest.fixture(scope="module")
def tokenizer(nano: Assembly) -> BpeTokenizer:
    return nano.build("models", nano.bundle.model).tokenizer


@pytest.fixture(scope="module")
def engine(tokenizer: BpeTokenizer) -> GrammarEngine:
    return GrammarEngine(tokenizer)


def walk(held: Held, rng: np.random.Generator, longest: int = 200) -> list[int]:
    """A reply chosen blindly among what the mask allows."""
    out: list[int] = []
    while not held.ended and len(out) < longest:
        forced = held.forced()
        token = forced[0] if forced else int(rng.choice(np.flatnonzero(held.allowed())))
        if not forced or len(out) > longest:
            assert held.allowed()[token]
        held.take(token)
        out.append(token)
    return out


def test_what_is_implied_is_forced(engine: GrammarEngine, tokenizer: BpeTokenizer) -> None:
    held = engine.hold('start: "Thought: Do I need to use a tool? Yes"')
    forced = held.forced()
    assert "Thought: Do I need to use a tool? Yes".startswith(tokenizer.decode(forced))
    assert len(forced) >= 8
    for token in forced:
        held.take(token)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_blind_choice_under_the_mask_always_matches(
    engine: GrammarEngine, tokenizer: BpeTokenizer, seed: int
) -> None:
    reply = tokenizer.decode(walk(engine.hold(CALL), np.random.default_rng(seed)))
    assert reply in {f"Action: {n}\nEnd" for n in ("Sketch", "Line art", "Edge")}


def test_a_token_against_the_grammar_is_refused(
    engine: GrammarEngine, tokenizer: BpeTokenizer
) -> None:
    held = engine.hold(CALL)
    wrong = tokenizer.encode("Dance")[0]
    assert not held.allowed()[wrong]
    with pytest.raises(UserError):
        held.take(wrong)


def test_special_tokens_are_not_text(engine: GrammarEngine, tokenizer: BpeTokenizer) -> None:
    held = engine.hold("start: /(.|\\n)+/")
    allowed = held.allowed()
    assert allowed.shape == (49152,) and allowed.sum() > 40_000
    assert not any(allowed[i] for i in tokenizer.special_ids() - {tokenizer.eos})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_substring_words_are_runs_of_whole_words(
    engine: GrammarEngine, tokenizer: BpeTokenizer, seed: int
) -> None:
    text = "remove the red bus from the street"
    grammar = f'start: ">" RUN "<"\nRUN: %regex {json.dumps({"substring_words": text})}'
    reply = tokenizer.decode(walk(engine.hold(grammar), np.random.default_rng(seed)))
    words = reply.removeprefix(">").removesuffix("<").split()
    assert not words or f" {' '.join(words)} " in f" {text} "


@pytest.mark.parametrize(
    "bad", ["", "start: (", 'start: "a', "start: NOBODY", "\x00", "start: /(/"]
)
def test_a_grammar_that_is_none_is_a_user_error(engine: GrammarEngine, bad: str) -> None:
    with pytest.raises(UserError, match="grammar"):
        engine.hold(bad)
