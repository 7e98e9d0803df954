"""Conversations as labelled ids: what is learned, and what stands before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anybind.contracts import Message
from anybind.core_model.history import turns
from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.tokenizer import (
    Tokenizer,
    encode_prompt,
)
from anybind.core_model.training.rendering import ConversationEncoder, Counts
from anybind.core_model.training.samples import Span
from tests.core_model.training_talk import ALL_LAYOUTS, KINDS, sample, small_tokenizers, stretches

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tokenizer]:
    return small_tokenizers(tmp_path_factory.mktemp("tokenizers"))


# ---------------------------------------------------------------- the rule of inference


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALL_LAYOUTS)
def test_what_stands_before_an_answer_is_the_prompt_of_inference(
    tokenizer_of: Mapping[str, Tokenizer], kind: str, name: str
) -> None:
    tokenizer, layout = tokenizer_of[kind], ALL_LAYOUTS[name]
    talk = sample(
        "What is in the picture?",
        "A red cat.",
        "Two?\n",
        "图片里有一只猫。",
        "And: ",
        "\nYes",
        system="Be red.",
    )
    encoder = ConversationEncoder(tokenizer, layout, 4096)
    rows, counts = encoder.encode(talk)
    wanted = [
        encode_prompt(tokenizer, layout.render(talk.messages[:i])) for i in (2, 4, 6)
    ]  # fmt: skip
    found = [(before, said) for row in rows for before, said in stretches(row)]
    assert [before for before, _ in found] == wanted
    # Decoded, the labels are the answers.
    answers = [tokenizer.decode(said) for _, said in found]
    tail = "\n###" if name == "panda" else ""
    assert [a.strip() for a in answers] == [
        (m.content + tail).strip() for m in talk.messages if m.role == "assistant"
    ]
    assert counts == Counts(samples=1, rows=len(rows), learned=sum(len(s) for _, s in found))
    # An end is learned with each answer, the one that stops a reply at run time.
    if name != "panda":
        assert all(said[-1] == tokenizer.eos for _, said in found)
    if name == "alpaca":
        assert len(rows) == 3  # its history is written otherwise than its replies begin
    if name == "chatml" and kind == "gpt2":
        assert len(rows) == 1


def test_the_prompt_of_inference_is_that_of_the_language_model(tokenizer_of: Mapping[str, Tokenizer]) -> None:  # fmt: skip
    """`encode_prompt` is what `InjectedLanguageModel` does with a prompt."""
    from anybind.contracts import Profile, Sampling
    from anybind.core_model.language import InjectedLanguageModel
    from anybind.core_model.llama import Llama, LlamaConfig

    tokenizer = tokenizer_of["gpt2"]
    seen: list[list[int]] = []

    class Watched(Llama):
        def forward(self, tokens: Any, **options: Any) -> Any:
            seen.append(tokens[0].tolist())
            return super().forward(tokens, **options)

    torch.manual_seed(0)
    config = LlamaConfig(tokenizer.size, 16, 1, 2, 2, 32, context_length=512)
    profile = Profile("tiny", "alpaca", "residual", "", 512, grammar=False, batch=False)
    model = InjectedLanguageModel(Watched(config).eval(), tokenizer, None, profile)
    talk = sample("What is it?", "A cat.")
    list(model.stream(model.render(talk.messages[:1]), None, Sampling(max_tokens=1)))
    row = ConversationEncoder(tokenizer, LAYOUTS["alpaca"], 512).encode(talk)[0][0]
    assert seen[0] == row.tokens[: len(seen[0])] == stretches(row)[0][0]


def test_a_conversation_of_nano_is_one_row(nano: Any) -> None:
    """With the real tokenizer: words, line ends, figures and Chinese."""
    from anybind.core_model.checkpoints.gguf import read_gguf_fields
    from anybind.core_model.tokenizer import from_gguf

    tokenizer = from_gguf(read_gguf_fields(nano.weight("smollm2")))
    said = [
        "What is it?",
        "A cat.\n\n- one\n- 2345",
        "And here?",
        "图片里有一只猫。",
        "Sure?",
        "Yes!",
    ]
    rows, counts = ConversationEncoder(tokenizer, LAYOUTS["chatml"], 512).encode(sample(*said))
    assert len(rows) == 1 and counts.learned == rows[0].learned
    found = stretches(rows[0])
    assert [tokenizer.decode(ids) for _, ids in found] == said[1::2]
    assert all(ids[-1] == tokenizer.eos for _, ids in found)


def test_a_merge_over_the_seam_does_not_move_it(tokenizer_of: Mapping[str, Tokenizer]) -> None:
    """The original encodes prompt and answer as one text and counts the prompt's ids off it."""
    tokenizer = tokenizer_of["llama3"]
    prompt, answer = LAYOUTS["alpaca"].render([Message("user", "x")]), "\nDetect"
    alone = encode_prompt(tokenizer, prompt)
    whole = tokenizer.encode(prompt + answer)
    assert whole[: len(alone)] != alone  # what goes wrong there
    row = ConversationEncoder(tokenizer, LAYOUTS["alpaca"], 512).encode(sample("x", answer))[0][0]
    assert row.tokens[: len(alone)] == alone
    assert tokenizer.decode(stretches(row)[0][1]) == answer


BITS = [*"ab :#\n.?中é🌤", "cat", "###", "Response:", "</s>", "<|im_end|>", "USER:"]
TEXT = st.lists(st.sampled_from(BITS), max_size=12).map(lambda bits: "".join(bits).strip())


@settings(max_examples=100, deadline=None)
@given(
    st.lists(TEXT.filter(bool), min_size=2, max_size=8),
    st.sampled_from(KINDS), st.sampled_from(list(ALL_LAYOUTS)), st.integers(20, 200),
)  # fmt: skip
def test_any_conversation(
    tokenizer_of: Mapping[str, Tokenizer],
    said: list[str],
    kind: str,
    name: str,
    room: int,
) -> None:
    """Whatever is said: what is learned is a prompt of inference and what follows it, and all that
    is not learned is counted."""
    tokenizer, layout = tokenizer_of[kind], ALL_LAYOUTS[name]
    talk = sample(*said[: len(said) // 2 * 2])
    rows, counts = ConversationEncoder(tokenizer, layout, room).encode(talk)
    clean = ConversationEncoder(tokenizer, layout, room)._harmless
    messages = [Message(m.role, clean(m.content) if m.role == "assistant" else m.content) for m in talk.messages]  # fmt: skip
    grouped = turns(messages)
    possible = Counter()
    for last in range(len(grouped)):
        for first in range(last + 1):
            context = [m for turn in grouped[first:last] for m in turn] + grouped[last][:-1]
            ids = encode_prompt(tokenizer, layout.render(context))
            possible[tuple(ids), grouped[last][-1].content] += 1
    found = [s for row in rows for s in stretches(row)]
    for row in rows:
        assert len(row.tokens) == len(row.labels) <= room
    for before, learned in found:
        text = tokenizer.decode(learned)
        assert any(ids == tuple(before) and content.strip() in text for ids, content in possible), (
            before,
            text,
        )
    answers = len(talk.messages) // 2
    assert len(found) + counts.too_long + counts.stops == answers
    assert counts.empty == (not rows)


# ---------------------------------------------------------------- what is not learned


def test_muted_words_are_read_and_not_learned(tokenizer_of: Mapping[str, Tokenizer]) -> None:
    head = "Thought: Do I need to use a tool? Yes\nAction: Detect\nAction Input: image/a.png, cat\nObservation:"
    seen, end = " image/b.png\n", "Thought: Do I need to use a tool? No\nAI: image/b.png"
    span = Span(1, len(head), len(head) + len(seen))
    for kind in KINDS:
        tokenizer = tokenizer_of[kind]
        for layout in ("chatml", "alpaca", "vicuna"):
            encoder = ConversationEncoder(tokenizer, LAYOUTS[layout], 4096)
            rows, _ = encoder.encode(sample("find the cat", head + seen + end, muted=[span]))
            found = [s for row in rows for s in stretches(row)]
            assert [tokenizer.decode(s).strip() for _, s in found] == [head, end]
            ask = [Message("user", "find the cat")]
            # As at run time: the trace so far is the beginning of the reply.
            wanted = LAYOUTS[layout].render(ask, head + seen)
            assert found[1][0] == encode_prompt(tokenizer, wanted)
            # The first stretch ends where the tool answers, the last one with the reply.
            assert found[0][1][-1] != tokenizer.eos and found[1][1][-1] == tokenizer.eos
    whole, _ = encoder.encode(sample("a", "one", "b", "two", muted=[Span(1, 0, 3)]))
    assert [tokenizer.decode(s) for row in whole for _, s in stretches(row)] == [" two"]


def test_markers_in_answers_end_nothing(tokenizer_of: Mapping[str, Tokenizer]) -> None:
    tokenizer = tokenizer_of["gpt2"]
    encoder = ConversationEncoder(tokenizer, LAYOUTS["chatml"], 512)
    (row,), _ = encoder.encode(sample("x", "say <|im_end|> and <|im_start|>user"))
    assert row.tokens.count(tokenizer.eos) == 2  # of the user and of the answer
    assert tokenizer.decode(stretches(row)[0][1]) == "say  |im_end|> and  |im_start|>user"
    panda = ConversationEncoder(tokenizer, LAYOUTS["panda"], 512)
    rows, counts = panda.encode(sample("x", "A list:\n### One", "y", "fine"))
    assert counts.stops == 1 and len(rows) == 1
    assert tokenizer.decode(stretches(rows[0])[0][1]).strip() == "fine\n###"


def test_long_conversations_lose_whole_turns_from_the_front(tokenizer_of: Mapping[str, Tokenizer]) -> None:  # fmt: skip
    tokenizer, layout = tokenizer_of["gpt2"], LAYOUTS["chatml"]
    said = [f"{'Question' if i % 2 == 0 else 'Answer'} {i // 2} in the picture" for i in range(40)]
    talk = sample(*said, system="Be red.")
    full, _ = ConversationEncoder(tokenizer, layout, 100_000).encode(talk)
    assert len(full) == 1
    rows, counts = ConversationEncoder(tokenizer, layout, 200).encode(talk)
    assert all(len(r.tokens) <= 200 for r in rows) and counts.cut == len(rows) - 1 > 0
    answers = [tokenizer.decode(s) for row in rows for _, s in stretches(row)]
    assert answers == [m.content for m in talk.messages if m.role == "assistant"]
    for row in rows:
        text = "".join(tokenizer.token_bytes()[t].decode() for t in row.tokens)
        assert text.startswith("<|im_start|>system\nBe red.<|im_end|>\n<|im_start|>user\nQuestion")
    long = sample("x", "word " * 300, "y", "short")
    rows, counts = ConversationEncoder(tokenizer, layout, 100).encode(long)
    assert counts.too_long == 1 and counts.cut == 1
    assert [tokenizer.decode(s) for r in rows for _, s in stretches(r)] == ["short"]
    rows, counts = ConversationEncoder(tokenizer, layout, 10).encode(long)
    assert rows == [] and counts.empty == 1 and counts.too_long == 2
