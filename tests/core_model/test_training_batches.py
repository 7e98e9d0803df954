"""Conversations as labelled ids: what is learned, what stands before it, and how rows are packed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anybind.contracts import Message
from anybind.core_model.chat_template import ChatTemplate
from anybind.core_model.history import turns
from anybind.core_model.prompts import LAYOUTS, Renderer
from anybind.core_model.tokenizer import (
    BpeTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    encode_prompt,
)
from anybind.core_model.training.batches import PADDING, Batch, Batcher
from anybind.core_model.training.rendering import IGNORED, ConversationEncoder, Counts, Row
from anybind.core_model.training.samples import Span, TrainingSample
from anybind.errors import UserError

torch.set_num_threads(1)

WORDS = (
    "What is in the picture? A red cat sits on the mat. Response: Instruction: ### Human: Assistant: "
    "Below is an instruction that describes a task. Write a response that completes the request. "
    "USER: ASSISTANT: user assistant system Thought: Do I need to use a tool? Yes Action: Detect "
    "Action Input: image/a.png, cat Observation: image/b.png 图片里有一只猫。\n\n  two  blanks\n"
    "Response:\nYes Observation:\nimage Response:\nNo "
)
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def byte_level(
    special: Sequence[str], eos: str, bos: str | None, pattern: str = ""
) -> BpeTokenizer:
    """GPT-2's kind, with merges learned from a few words."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    inner.pre_tokenizer = (
        pre.Sequence(
            [pre.Split(tokenizers.Regex(pattern), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        if pattern
        else pre.ByteLevel(add_prefix_space=False)
    )  # fmt: skip
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator([WORDS] * 4, trainer)
    ids = {t: inner.token_to_id(t) for t in special}
    return BpeTokenizer(
        inner, bos=None if bos is None else ids[bos], eos=ids[eos], special=ids.values()
    )


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Tokenizer]:
    path = tmp_path_factory.mktemp("spm")
    (path / "corpus.txt").write_text("\n".join([WORDS] * 10), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "corpus.txt"), model_prefix=str(path / "t"), vocab_size=500, model_type="bpe",
        byte_fallback=True, minloglevel=2, hard_vocab_limit=False, add_dummy_prefix=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    return {
        "sentencepiece": SentencePieceTokenizer(path / "t.model"),
        "gpt2": byte_level(CHATML, "<|im_end|>", "<|im_start|>"),
        # LLaMA-3's cutting joins a mark and the line ends behind it: merges reach over seams.
        "llama3": byte_level(
            LLAMA3, "<|eot_id|>", "<|begin_of_text|>",
            r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        ),
        # No cutting at all: everything may merge with everything.
        "greedy": byte_level(CHATML, "<|im_end|>", None, r"[\s\S]+"),
    }  # fmt: skip


TEMPLATE = ChatTemplate(
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}[assistant]",
    eos="<|im_end|>",
)
ALL_LAYOUTS: dict[str, Renderer] = {**LAYOUTS, "template": TEMPLATE}
KINDS = ("sentencepiece", "gpt2", "llama3", "greedy")


def sample(*said: str, system: str = "", muted: Sequence[Span] = (), feature: Any = None) -> TrainingSample:  # fmt: skip
    messages = [Message("system", system)] if system else []
    messages += [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said)]
    return TrainingSample(tuple(messages), feature, "test", "0", tuple(muted))


def stretches(row: Row) -> list[tuple[list[int], list[int]]]:
    """(ids before, learned ids) of each learned stretch of a row."""
    out: list[tuple[list[int], list[int]]] = []
    for i, label in enumerate(row.labels):
        if label == IGNORED:
            continue
        assert label == row.tokens[i]
        if i and row.labels[i - 1] != IGNORED and out:
            out[-1][1].append(label)
        else:
            out.append((row.tokens[:i], [label]))
    return out


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
