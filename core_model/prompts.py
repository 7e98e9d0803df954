"""Prompt layouts: ChatML (SmolLM2 and many others) and Alpaca (what ImageBind-LLM was tuned on)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from anybind.contracts import Message

_MARKER = re.compile(r"<\|im_(?:start|end)\|>")
_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
)


def chatml(turns: Sequence[tuple[str, str]], reply_prefix: str = "") -> str:
    """ChatML, open at the reply: `<|im_start|>role\\ntext<|im_end|>` per turn."""
    body = "".join(f"<|im_start|>{role}\n{_plain(text)}<|im_end|>\n" for role, text in turns)
    return f"{body}<|im_start|>assistant\n{reply_prefix}"


def _plain(text: str) -> str:
    """Text that can't end its turn: a file or a transcript must not speak as another role."""
    return _MARKER.sub(" ", text)  # a space: with nothing in between the rest could form another


def with_input(message: Message) -> str:
    """A user's message with its context in front, as the nano model is trained to read it."""
    return f"{message.input}\n\n{message.content}" if message.input else message.content


def render_chatml(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """A whole conversation in ChatML."""
    return chatml([(m.role, with_input(m)) for m in messages], reply_prefix)


def render_alpaca(messages: Sequence[Message], reply_prefix: str = "") -> str:
    """Alpaca for the last user message; earlier turns come first in the same headings."""
    parts: list[str] = []
    last = messages[-1]
    parts.append(_ALPACA_INPUT if last.input else _ALPACA)
    for message in messages[:-1]:
        heading = "Response" if message.role == "assistant" else "Instruction"
        parts.append(f"### {heading}:\n{message.content}\n\n")
        if message.input:
            parts.append(f"### Input:\n{message.input}\n\n")
    parts.append(f"### Instruction:\n{last.content}\n\n")
    if last.input:
        parts.append(f"### Input:\n{last.input}\n\n")
    return "".join(parts) + f"### Response:{reply_prefix}"


RENDERERS = {"chatml": render_chatml, "alpaca": render_alpaca}
