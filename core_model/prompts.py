"""Prompt layouts: how a conversation is written down for a decoder, and where its reply stops.

| name | who was tuned on it |
|---|---|
| `chatml` | SmolLM2, Qwen and many others |
| `alpaca` | ImageBind-LLM as released; several turns repeat its headings |
| `panda` | PandaGPT and conversational relatives: `### Human:` / `### Assistant:` |
| `vicuna` | Vicuna 1.1 and later |
| `llama-2` | LLaMA-2-chat, Mistral-Instruct without a system text |
| `llama-3` | LLaMA-3-Instruct |

A model folder's own template is in `anybind.core_model.chat_template`.

What people, files and experts say can't speak as another role: in each layout the markers of that
layout, and only those, are broken inside a text. Where a marker is a special token it is taken
out; where it is ordinary words, the least that breaks it is changed, so that a Markdown heading,
HTML or a list of people stays as it was:

- `###` before `Instruction:`, `Input:`, `Response:` (alpaca) or `Human:`, `Assistant:` (panda) goes,
  the words stay; every other heading stays;
- `USER:` and `ASSISTANT:` in capitals (vicuna) become `User:` and `Assistant:`;
- `[INST]`, `<<SYS>>`, `<s>` and `</s>` get a space inside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from anybind.contracts import Message

_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
)
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)

_CHATML_MARK = re.compile(r"<\|im_(?:start|end)\|>")
_LLAMA3_MARK = re.compile(
    r"<\|(?:begin_of_text|end_of_text|start_header_id|end_header_id|eot_id)\|>"
)
_ALPACA_MARK = re.compile(r"#{3,}[ \t]*(?=(?:instruction|input|response)[ \t]*:)", re.IGNORECASE)
_PANDA_MARK = re.compile(r"#{3,}[ \t]*(?=(?:human|assistant)[ \t]*:)", re.IGNORECASE)
_VICUNA_MARK = re.compile(r"(USER|ASSISTANT)(?=[ \t]*:)")
_LLAMA2_MARK = re.compile(r"(\[/?)(INST\])|(<<?/?)(SYS>>)")
_SENTENCE_MARK = re.compile(r"(</?)(s>)")
"""`<s>` and `</s>`: special tokens of LLaMA-1 and 2 that some tokenizers read out of plain text."""


def chatml(turns: Sequence[tuple[str, str]], reply_prefix: str = "") -> str:
    """ChatML, open at the reply: `<|im_start|>role\\ntext<|im_end|>` per turn."""
    body = "".join(f"<|im_start|>{role}\n{_plain(text)}<|im_end|>\n" for role, text in turns)
    return f"{body}<|im_start|>assistant\n{reply_prefix}"


def _plain(text: str) -> str:
    """Text that can't end its turn: a file or a transcript must not speak as another role."""
    return without(_CHATML_MARK, text, " ")  # a space: else the rest could form another


def without(marker: re.Pattern[str], text: str, instead: str) -> str:
    """Text with every marker replaced, also those that only the replacing brings together."""
    while (after := marker.sub(instead, text)) != text:
        text = after
    return text


def with_input(message: Message) -> str:
    """A user's message with its context in front, as the nano model is trained to read it."""
    return f"{message.input}\n\n{message.content}" if message.input else message.content


def render_chatml(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """A whole conversation in ChatML."""
    return chatml([(m.role, with_input(m)) for m in messages], reply_prefix)


def render_alpaca(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """Alpaca for the last user message; earlier turns come first in the same headings.

    One message gives exactly the template that ImageBind-LLM was tuned on: nothing stands behind
    the last `### Response:`. The layout of its dialogue version was never released; repeating the
    headings is ours. Alpaca knows no system text; one is put in front of all.
    """
    last = messages[-1]
    parts = [f"{_bare(m.content)}\n\n" for m in messages if m.role == "system"]
    parts.append(_ALPACA_INPUT if last.input else _ALPACA)
    turns = [m for m in messages if m.role != "system"]
    for message in turns[:-1]:
        heading = "Response" if message.role == "assistant" else "Instruction"
        parts.append(f"### {heading}:\n{_bare(message.content)}\n\n")
        if message.input:
            parts.append(f"### Input:\n{_bare(message.input)}\n\n")
    parts.append(f"### Instruction:\n{_bare(last.content)}\n\n")
    if last.input:
        parts.append(f"### Input:\n{_bare(last.input)}\n\n")
    return "".join(parts) + f"### Response:{reply_prefix}"


def _bare(text: str) -> str:
    return _sentences(without(_ALPACA_MARK, text, ""))


def _sentences(text: str) -> str:
    return _SENTENCE_MARK.sub(r"\1 \2", text)


def render_panda(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """PandaGPT's conversation: `### Human: ...` and `### Assistant: ...`, a line break between.

    Its `<Img>` marks are left out: a condition costs no token here. A system text comes first.
    """
    roles = {"user": "### Human: ", "assistant": "### Assistant: ", "system": ""}
    body = "".join(
        f"{roles[m.role]}{_sentences(without(_PANDA_MARK, with_input(m), ''))}\n" for m in messages
    )
    return f"{body}### Assistant:{_spaced(reply_prefix)}"


def render_vicuna(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """Vicuna 1.1: `system USER: ... ASSISTANT: ...</s>USER: ... ASSISTANT:`."""
    system, turns = _split_system(messages)
    out = f"{_vicuna_plain(system) if system else _VICUNA} "
    for message in turns:
        text = _vicuna_plain(with_input(message))
        out += f"USER: {text} " if message.role == "user" else f"ASSISTANT: {text}</s>"
    return f"{out}ASSISTANT:{_spaced(reply_prefix)}"


def _vicuna_plain(text: str) -> str:
    return _sentences(_VICUNA_MARK.sub(lambda m: m.group(1).capitalize(), text))


def render_llama2(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """LLaMA-2-chat: `<s>[INST] <<SYS>> system <</SYS>> question [/INST] answer </s>` ..."""
    system, turns = _split_system(messages)
    head = f"<<SYS>>\n{_llama2_plain(system)}\n<</SYS>>\n\n" if system else ""
    out = ""
    for message in turns:
        text = _llama2_plain(with_input(message))
        if message.role == "user":
            out += f"<s>[INST] {head}{text} [/INST]"
            head = ""
        else:
            out += f" {text} </s>"
    return f"{out}{_spaced(reply_prefix)}"


def _llama2_plain(text: str) -> str:
    broken = _LLAMA2_MARK.sub(lambda m: " ".join(g for g in m.groups() if g), text)
    return _sentences(broken)


def render_llama3(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """LLaMA-3-Instruct: a header with the role, two line breaks, the text, `<|eot_id|>`."""
    out = "<|begin_of_text|>"
    for message in messages:
        text = without(_LLAMA3_MARK, with_input(message), " ").strip()
        out += f"<|start_header_id|>{message.role}<|end_header_id|>\n\n{text}<|eot_id|>"
    return f"{out}<|start_header_id|>assistant<|end_header_id|>\n\n{reply_prefix}"


def _split_system(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    system = "\n".join(m.content for m in messages if m.role == "system")
    return system, [m for m in messages if m.role != "system"]


def _spaced(reply_prefix: str) -> str:
    """The beginning of a reply behind a marker that has no line of its own."""
    return f" {reply_prefix}" if reply_prefix and not reply_prefix[0].isspace() else reply_prefix


class Write(Protocol):
    """Writes a conversation as a prompt, open at the reply, which may be begun."""

    def __call__(self, messages: Sequence[Message], reply_prefix: str = "") -> str: ...


class Renderer(Protocol):
    """What a language model asks of a layout."""

    @property
    def render(self) -> Write: ...

    @property
    def stops(self) -> tuple[str, ...]:
        """A reply ends before the first of these, besides at the model's own end tokens."""
        ...


@dataclass(frozen=True)
class Layout:
    """A prompt layout: how it is written and what ends a reply in it."""

    render: Write
    stops: tuple[str, ...] = ()
    end: str = ""
    """What is behind a whole reply, as the layout writes it into the history: what a model learns to
    end with. "" is the end token of the tokenizer."""


LAYOUTS: dict[str, Layout] = {
    "chatml": Layout(render_chatml, ("<|im_end|>", "<|im_start|>"), "<|im_end|>"),
    "alpaca": Layout(render_alpaca, ("### Instruction:", "### Input:", "### Response:")),
    "panda": Layout(render_panda, ("###",), "\n###"),
    "vicuna": Layout(render_vicuna, ("</s>", "USER:"), "</s>"),
    "llama-2": Layout(render_llama2, ("</s>", "[INST]"), " </s>"),
    "llama-3": Layout(render_llama3, ("<|eot_id|>", "<|start_header_id|>"), "<|eot_id|>"),
}
"""By the name that `Profile.chat` and bundles use."""

RENDERERS = {name: layout.render for name, layout in LAYOUTS.items()}
