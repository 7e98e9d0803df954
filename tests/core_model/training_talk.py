"""Helpers of the tests of labelled ids: small tokenizers of each kind, and conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers

from anybind.contracts import Message
from anybind.core_model.chat_template import ChatTemplate
from anybind.core_model.prompts import LAYOUTS, Renderer
from anybind.core_model.tokenizer import (
    BpeTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)
from anybind.core_model.training.rendering import IGNORED, Row
from anybind.core_model.training.samples import Span, TrainingSample

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


def small_tokenizers(path: Path) -> Mapping[str, Tokenizer]:
    """One of each kind; `path` is a folder for their files."""
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
