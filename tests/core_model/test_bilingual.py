"""A base whose tokenizer falls back to bytes answers a Chinese instruction in Chinese.

A tiny LLaMA learns a few questions and answers in two languages by heart, in the Alpaca layout;
what it then says goes the whole way: prompt, tokenizer, decoder, streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch

from anybind.content import Embedding
from anybind.contracts import Delta, Finish, Message, Profile, Sampling
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.llama import Llama, LlamaConfig
from anybind.core_model.prompts import render_alpaca
from anybind.core_model.tokenizer import SentencePieceTokenizer

torch.set_num_threads(1)

TALK = [
    ("图片里有什么？", "图片里有一只猫，它在垫子上睡觉。"),
    ("What is in the picture?", "There is a cat; it sleeps on the mat."),
    ("天空是什么颜色？", "天空是蓝色的🌤，云是白色的。"),
    ("What colour is the sky?", "The sky is blue 🌤, the clouds are white."),
]
RARE = "垫🌤猫"
"""Characters that the vocabulary does not have: they are written in bytes."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceTokenizer:
    path = tmp_path_factory.mktemp("spm")
    lines = [render_alpaca([Message("user", q)], f"\n{a}") for q, a in TALK]
    lines = [line for text in lines for line in text.splitlines() if line]
    for character in RARE:
        lines = [line.replace(character, "") for line in lines]
    (path / "corpus.txt").write_text("\n".join(lines * 10))
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "corpus.txt"), model_prefix=str(path / "tokenizer"), vocab_size=600,
        model_type="bpe", byte_fallback=True, character_coverage=1.0, minloglevel=2,
        hard_vocab_limit=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    return SentencePieceTokenizer(Path(path / "tokenizer.model"))


@pytest.fixture(scope="module")
def model(tokenizer: SentencePieceTokenizer) -> Iterator[InjectedLanguageModel]:
    torch.manual_seed(0)
    config = LlamaConfig(tokenizer.size, 64, 2, 4, 4, 128, context_length=256)
    decoder = Llama(config)
    assert tokenizer.bos is not None
    rows: list[list[int]] = []
    starts: list[int] = []
    for question, answer in TALK:
        prompt = tokenizer.encode(render_alpaca([Message("user", question)]))
        starts.append(len(prompt))
        rows.append([tokenizer.bos, *prompt, *tokenizer.encode(answer), tokenizer.eos])
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), tokenizer.eos)
    labels = torch.full((len(rows), width), -100)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        labels[i, starts[i] + 1 : len(row)] = torch.tensor(row[starts[i] + 1 :])
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=5e-3)
    for _ in range(150):
        logits = decoder(tokens)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if float(loss.detach()) < 0.01:
            break
    decoder.eval().requires_grad_(False)
    bind = BindNetwork(BindConfig(8, 64, 32, 2)).requires_grad_(False)  # gates at 0
    profile = Profile("tiny", "alpaca", "residual", "hub", 256, grammar=True, batch=True)
    yield InjectedLanguageModel(decoder, tokenizer, bind, profile)


@pytest.mark.parametrize(("question", "answer"), TALK)
def test_each_language_is_answered_in_its_own(
    model: InjectedLanguageModel, question: str, answer: str
) -> None:
    prompt = model.render([Message("user", question)])
    assert question in prompt
    items = list(model.stream(prompt, None, Sampling(max_tokens=100)))
    pieces = [i.text for i in items if isinstance(i, Delta)]
    assert "".join(pieces).strip() == answer
    assert len(pieces) > 3 and not any("\ufffd" in p for p in pieces)
    end = items[-1]
    assert isinstance(end, Finish) and end.reason == "stop"
    # More ids than pieces of text: some characters came byte by byte and were shown whole.
    if any(c in answer for c in RARE):
        assert end.reply_tokens > len(pieces)


def test_what_it_does_not_know_is_written_in_bytes(tokenizer: SentencePieceTokenizer) -> None:
    table = tokenizer.token_bytes()
    for character in RARE:
        ids = tokenizer.encode(f"x{character}")
        assert [len(table[i]) for i in ids[-len(character.encode()) :]] == [1] * len(
            character.encode()
        )
    for text in (a for pair in TALK for a in pair):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_and_a_condition_change_no_character(model: InjectedLanguageModel) -> None:
    row = np.random.default_rng(0).normal(size=8).astype(np.float32)
    given = replace(Embedding.of(row / np.linalg.norm(row)), space="hub")
    prompts = [model.render([Message("user", q)]) for q, _ in TALK]
    said = model.batch(prompts, [given, None, given, None], Sampling(max_tokens=100))
    assert [s.strip() for s in said] == [a for _, a in TALK]


def test_the_right_answer_is_the_likely_one(model: InjectedLanguageModel) -> None:
    answers = [f" {a}" for _, a in TALK]
    for i, (question, _) in enumerate(TALK):
        scores = model.score(model.render([Message("user", question)]), answers, None)
        assert int(np.argmax(scores)) == i and scores[i] > -1
