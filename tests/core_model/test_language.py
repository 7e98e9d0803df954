"""The language model as callers see it: streaming, scoring, batches, conditions, limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from anybind.content import Embedding
from anybind.contracts import Delta, Finish, Profile, Sampling
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.llama import Llama, LlamaConfig
from anybind.errors import ModelError, UserError

torch.set_num_threads(1)


class Letters:
    """A tokenizer of 64 letters: id = position; 0 begins, 1 ends."""

    bos: int | None = 0
    eos = 1
    letters = "\0\1abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:?!\n-'9"
    size = 64

    def encode(self, text: str) -> list[int]:
        return [self.letters.index(c) for c in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.letters[i] for i in ids if i > 1)

    def token_bytes(self) -> list[bytes]:
        return [c.encode() for c in self.letters]

    def special_ids(self) -> frozenset[int]:
        return frozenset({0, 1})


def make(site: Any = "residual", context: int = 96) -> InjectedLanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(64, 32, 3, 4, 2, 48, context_length=context)
    decoder = Llama(config).eval().requires_grad_(False)
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.25)
    bind = BindNetwork(
        BindConfig(joint_dim=8, model_dim=32, hidden_dim=16, n_layers=3, n_heads=4, injection=site)
    ).requires_grad_(False)
    bind.gate.normal_(0, 1.0)
    profile = Profile("tiny", "chatml", site, "hub", context, grammar=True, batch=True)
    return InjectedLanguageModel(decoder, Letters(), bind, profile)


@pytest.fixture
def model() -> InjectedLanguageModel:
    return make()


def condition(seed: int, space: str = "hub", width: int = 8) -> Embedding:
    row = np.random.default_rng(seed).normal(size=width).astype(np.float32)
    return replace(Embedding.of(row / np.linalg.norm(row)), space=space)


def read(stream: Any) -> tuple[str, Finish]:
    items = list(stream)
    assert [isinstance(i, Finish) for i in items] == [False] * (len(items) - 1) + [True]
    return "".join(i.text for i in items[:-1]), items[-1]


def test_one_end_with_the_counts(model: InjectedLanguageModel) -> None:
    text, end = read(model.stream("hello there", None, Sampling(max_tokens=9)))
    assert len(text) == end.reply_tokens == 9
    assert (end.reason, end.prompt_tokens, end.cached_tokens) == ("length", 12, 0)


def test_the_prefix_is_taken_over_and_changes_nothing(model: InjectedLanguageModel) -> None:
    prompt, sampling = "once upon a time there was", Sampling(max_tokens=8)
    first, _ = read(model.stream(prompt, None, sampling))
    again, end = read(model.stream(prompt, None, sampling))
    assert again == first and end.cached_tokens == len(prompt)  # with BOS, without the last
    longer = prompt + first + " and then"
    text, end = read(model.stream(longer, None, sampling))
    assert end.cached_tokens >= len(prompt)
    assert text == read(make().stream(longer, None, sampling))[0]


def test_no_prefix_is_taken_over_from_another_condition(model: InjectedLanguageModel) -> None:
    prompt, sampling = "what is in the picture", Sampling(max_tokens=10)
    said: dict[int, str] = {}
    for i in (1, 2, 1, 2):
        text, end = read(model.stream(prompt, condition(i), sampling))
        assert text == said.setdefault(i, text)
        assert text == read(make().stream(prompt, condition(i), sampling))[0]
    assert end.cached_tokens > 0
    assert said[1] != said[2]


def test_two_streams_side_by_side_do_not_disturb_each_other(model: InjectedLanguageModel) -> None:
    prompt, sampling = "a long enough beginning for both", Sampling(max_tokens=12)
    alone, _ = read(model.stream(prompt, None, sampling))
    one, two = model.stream(prompt, None, sampling), model.stream(prompt, None, sampling)
    texts = ["", ""]
    for items in zip(one, two, strict=True):
        for i, item in enumerate(items):
            texts[i] += item.text if isinstance(item, Delta) else ""
        model.score(prompt, ["x", "yy"], None)
    assert texts == [alone, alone]


def test_a_stream_leaves_no_mark_on_the_callers_thread(model: InjectedLanguageModel) -> None:
    stream = model.stream("hello", None, Sampling(max_tokens=5))
    next(stream)
    assert not torch.is_inference_mode_enabled()
    assert torch.ones(1, requires_grad=True).mul(2).requires_grad
    stream.close()


def test_a_dropped_stream_leaves_the_model_usable(model: InjectedLanguageModel) -> None:
    sampling = Sampling(max_tokens=12)
    expected, _ = read(make().stream("hello there", None, sampling))
    stream = model.stream("hello there", None, sampling)
    next(stream)
    next(stream)
    stream.close()
    assert read(model.stream("hello there", None, sampling))[0] == expected


def test_a_seed_gives_one_reply(model: InjectedLanguageModel) -> None:
    def said(seed: int) -> str:
        sampling = Sampling(max_tokens=12, temperature=1.5, top_p=0.95, seed=seed)
        return read(model.stream("hello", None, sampling))[0]

    assert said(1) == said(1)
    assert len({said(s) for s in range(4)}) > 1


def test_stop_strings_end_the_reply_and_are_not_part_of_it(model: InjectedLanguageModel) -> None:
    whole, _ = read(model.stream("hello", None, Sampling(max_tokens=20)))
    stop = whole[6:8]
    text, end = read(model.stream("hello", None, Sampling(max_tokens=20, stop=(stop,))))
    assert text == whole[: whole.find(stop)] and end.reason == "stop"


def test_the_grammar_rules(model: InjectedLanguageModel) -> None:
    sampling = Sampling(max_tokens=30, grammar='start: "Yes: " ("cat" | "dog") "!"')
    items = list(model.stream("hello", None, sampling))
    deltas = [i for i in items if isinstance(i, Delta)]
    assert "".join(d.text for d in deltas) in ("Yes: cat!", "Yes: dog!")
    assert items[-1].reason == "grammar"
    forced = "".join(d.text for d in deltas if d.forced)
    assert forced.startswith("Yes: ") and len(forced) == 8  # all but the choice of c or d
    with pytest.raises(UserError, match="grammar"):
        list(model.stream("hello", None, Sampling(grammar="start: (")))


def test_a_grammar_that_ends_with_the_last_token_has_ended(model: InjectedLanguageModel) -> None:
    _, end = read(model.stream("hello", None, Sampling(max_tokens=1, grammar='start: "a" | "b"')))
    assert end.reason == "grammar"


@pytest.mark.parametrize("conditioned", [False, True])
def test_score_is_the_sum_of_log_probabilities(
    model: InjectedLanguageModel, conditioned: bool
) -> None:
    given = condition(3) if conditioned else None
    prompt, tails = "the animal is a", [" cat", " dog and cat", "", "z", " cat"]
    read(model.stream(prompt + " ca", given, Sampling(max_tokens=3)))  # leaves a prefix behind
    got = model.score(prompt, tails, given)
    inject = model._inject(given)
    for tail, value in zip(tails, got, strict=True):
        start = [0, *model.tokenizer.encode(prompt)]
        ids = model.tokenizer.encode(tail)
        with torch.inference_mode():
            logits = model.decoder(torch.tensor([start + ids]), inject=inject)[0]
        logs = logits.log_softmax(-1)
        expected = sum(float(logs[len(start) - 1 + i, t]) for i, t in enumerate(ids))
        assert value == pytest.approx(expected, abs=1e-4)
    assert got[0] == pytest.approx(got[4], abs=1e-5)
    assert model.score(prompt, [], given) == []
    # What scoring leaves behind is a prefix like any other.
    text, _ = read(model.stream(prompt, given, Sampling(max_tokens=6)))
    assert text == read(make().stream(prompt, given, Sampling(max_tokens=6)))[0]


@pytest.mark.parametrize("site", ["residual", "attention_output"])
def test_a_batch_is_its_rows_one_by_one(site: Any) -> None:
    model = make(site)
    prompts = ["what is this", "hm", "tell me what you see in this picture"]
    given = [condition(1), None, condition(2)]
    sampling = Sampling(max_tokens=10)
    together = model.batch(prompts, given, sampling)
    alone = [
        read(make(site).stream(p, g, sampling))[0] for p, g in zip(prompts, given, strict=True)
    ]
    assert together == alone
    assert model.batch([], [], sampling) == []


def test_batches_stop_at_stop_strings_and_at_the_context(model: InjectedLanguageModel) -> None:
    whole = model.batch(["hello"], [None], Sampling(max_tokens=12))[0]
    cut = model.batch(["hello"], [None], Sampling(max_tokens=12, stop=(whole[4:6],)))[0]
    assert cut == whole[: whole.find(whole[4:6])]
    small = make(context=20)
    assert len(small.batch(["hello"], [None], Sampling(max_tokens=500))[0]) <= 15


def test_what_a_batch_can_not_do_is_a_user_error(model: InjectedLanguageModel) -> None:
    for sampling in (Sampling(temperature=1.0), Sampling(grammar='start: "a"')):
        with pytest.raises(UserError):
            model.batch(["a"], [None], sampling)
    with pytest.raises(UserError):
        model.batch(["a", "b"], [None], Sampling())


def test_the_context_is_a_limit_and_never_a_crash() -> None:
    model = make(context=32)
    text, end = read(model.stream("a" * 20, None, Sampling(max_tokens=100)))
    assert end.reason == "context" and end.prompt_tokens + end.reply_tokens <= 33
    for call in (
        lambda: list(model.stream("a" * 32, None, Sampling())),
        lambda: model.score("a" * 30, ["bbb"], None),
        lambda: model.batch(["a" * 32], [None], Sampling()),
    ):
        with pytest.raises(UserError, match="context"):
            call()
    grammar = 'start: "' + "b" * 40 + '"'
    _, end = read(model.stream("a" * 20, None, Sampling(max_tokens=200, grammar=grammar)))
    assert end.reason in ("context", "grammar")


def test_conditions_of_another_space_or_width_are_refused(model: InjectedLanguageModel) -> None:
    for wrong in (condition(0, space="other"), condition(0, width=9)):
        with pytest.raises(UserError, match="condition"):
            list(model.stream("hello", wrong, Sampling()))
    model.bind = None
    with pytest.raises(UserError, match="no condition"):
        list(model.stream("hello", condition(0), Sampling()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": float("nan")}, {"temperature": -1.0}, {"temperature": float("inf")},
        {"top_p": 0.0}, {"top_p": 1.5}, {"repetition_penalty": 0.0},
    ],
)  # fmt: skip
def test_sampling_that_makes_no_sense_is_a_user_error(
    model: InjectedLanguageModel, wrong: dict[str, float]
) -> None:
    with pytest.raises(UserError):
        list(model.stream("hello", None, Sampling(**wrong)))


def test_damaged_weights_are_a_model_error(model: InjectedLanguageModel) -> None:
    model.decoder.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="finite"):
        list(model.stream("hello", None, Sampling()))
    with pytest.raises(ModelError, match="finite"):
        model.batch(["hello"], [None], Sampling())
