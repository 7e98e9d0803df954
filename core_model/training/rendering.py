"""A conversation as token ids with labels: exactly what inference sees as prompts, and what it says.

The rule is one for all layouts and tokenizers. For each stretch of words that the assistant says, the
prompt is written and encoded as at run time: the layout's `render` of everything before, open at the
reply (begun with what is muted). If those ids go on from the ids that the row has already, the row
is continued: the new ones are read, not learned, and the stretch and what ends it are learned. If
they don't go on, because the layout writes history otherwise than it lets a reply begin (Alpaca),
or because merges of the tokenizer reach over the seam, the stretch gets a row of its own. So the
ids in front of anything learned are always those of inference, and a prompt's end is never guessed.

The original (reference: LLaMA-Adapter's imagebind_LLM) encodes prompt + answer as one text and masks
as many ids as the prompt alone has, which is one off wherever a merge reaches over the seam. Its
labels of prompt and padding are 0 and the loss ignores 0, so that a true target with id 0 (unk) is
ignored, too; here what is not learned is -100. It returns an attention mask for padding that
nothing uses; here rows say which sample each position belongs to, and the loss has nothing else
to mask. Its text-only branch turns the instruction into a 1-tuple by a stray comma, so that the
prompt holds "('...',)"; here words-only samples are like all others. It reads the first two turns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from anybind.contracts import Message
from anybind.core_model.history import turns
from anybind.core_model.prompts import Renderer
from anybind.core_model.tokenizer import Tokenizer, encode_prompt, encode_tail
from anybind.core_model.training.samples import TrainingSample, spoken
from anybind.errors import ModelError

IGNORED = -100


@dataclass(slots=True)
class Row:
    """Ids of one sample, or a part of one, and which of them are learned."""

    tokens: list[int]
    labels: list[int]
    """The id at the same place, or -100."""

    @property
    def learned(self) -> int:
        """Ids that are learned."""
        return sum(label != IGNORED for label in self.labels)


@dataclass
class Counts:
    """What became of samples."""

    samples: int = 0
    rows: int = 0
    """Rows made of them; more than samples where a conversation could not go on in one row."""
    learned: int = 0
    """Ids that are learned."""
    cut: int = 0
    """Answers before which the oldest turns were left out, for the room."""
    too_long: int = 0
    """Answers left out: they don't fit with the turn they belong to."""
    stops: int = 0
    """Answers left out: they hold what ends a reply in this layout, and could never be said whole."""
    empty: int = 0
    """Samples of which nothing was learned."""

    def add(self, other: Counts) -> None:
        """Count these, too."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass
class ConversationEncoder:
    """Writes samples down in the layout of a model.

    Args:
        tokenizer: The decoder's.
        layout: Its prompt layout (`anybind.core_model.prompts.LAYOUTS`, or a chat template).
        max_tokens: Longest row.
    """

    tokenizer: Tokenizer
    layout: Renderer
    max_tokens: int
    _ending: list[int] = field(init=False, repr=False)
    _special: re.Pattern[str] = field(init=False, repr=False)
    _stops: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = self.tokenizer.token_bytes()
        names = {table[i].decode("utf-8", "replace") for i in self.tokenizer.special_ids()}
        longest = sorted((n for n in names if len(n) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        self._ending = self._end(names)
        # Those that are special tokens are broken inside texts and can't stand there.
        self._stops = tuple(s for s in self.layout.stops if not self._special.search(s))

    def encode(self, sample: TrainingSample) -> tuple[list[Row], Counts]:
        """The rows of a sample, none longer than `max_tokens`."""
        counts = Counts(samples=1)
        messages = tuple(
            replace(m, content=self._harmless(m.content)) if m.role == "assistant" else m
            for m in sample.messages
        )
        rows: list[Row] = []
        row: Row | None = None
        start = 0  # the first message that the row begins with, system texts apart
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            spans = spoken(message.content, number, sample.muted)
            for at, end in spans:
                if any(stop in message.content[at:end] for stop in self._stops):
                    counts.stops += 1
                    row = None
                    break
                last = end == len(message.content)
                row, start = self._learn(messages, number, at, end, last, row, start, rows, counts)
                if row is None:
                    break
        counts.rows = len(rows)
        counts.learned = sum(r.learned for r in rows)
        counts.empty = int(not rows)
        return rows, counts

    def _learn(
        self, messages: Sequence[Message], number: int, at: int, end: int, last: bool,
        row: Row | None, start: int, rows: list[Row], counts: Counts,
    ) -> tuple[Row | None, int]:  # fmt: skip
        """Add one stretch of an answer to the row, or to a new one. None: it does not fit."""
        prompt, said = self._prompt(messages, number, at, end, start)
        target = said + (self._ending if last else [])
        if row is not None and _goes_on(prompt, row.tokens):
            if len(prompt) + len(target) <= self.max_tokens:
                _extend(row, prompt[len(row.tokens) :], target)
                return row, start
        begin = start
        if len(prompt) + len(target) > self.max_tokens:
            found = self._shorter(messages, number, at, end, start, len(target))
            if found is None:
                counts.too_long += 1
                return None, start
            begin, prompt = found
            counts.cut += 1
        row = Row([], [])
        _extend(row, prompt, target)
        rows.append(row)
        return row, begin

    def _shorter(
        self, messages: Sequence[Message], number: int, at: int, end: int, start: int, target: int
    ) -> tuple[int, list[int]] | None:
        """Where a row must begin so that a stretch fits, and the prompt from there on.

        With half of the room free again the row can go on for a while: it would begin anew at each
        further answer if only as much went as must.
        """
        fitting: tuple[int, list[int]] | None = None
        for begin in self._later(messages, number, start):
            prompt, _ = self._prompt(messages, number, at, end, begin)
            if len(prompt) + target <= self.max_tokens // 2:
                return begin, prompt
            if fitting is None and len(prompt) + target <= self.max_tokens:
                fitting = begin, prompt
        return fitting

    def _prompt(
        self, messages: Sequence[Message], number: int, at: int, end: int, start: int
    ) -> tuple[list[int], list[int]]:
        """Ids of the prompt of a stretch, and of the stretch."""
        system = [m for m in messages[:number] if m.role == "system"]
        before = [*system, *(m for m in messages[start:number] if m.role != "system")]
        content = messages[number].content
        opened = self.layout.render(before)
        whole = self.layout.render(before, content)
        first = len(whole) - len(content)
        if not (whole.startswith(opened) and whole.endswith(content) and len(opened) <= first):
            raise ModelError("The layout writes a reply that is begun otherwise than it opens one.")
        # The layout may put a blank between its marker and a reply; a model says that as well.
        begin = len(opened) if at == 0 else first + at
        prompt = encode_prompt(self.tokenizer, whole[:begin])
        return prompt, encode_tail(self.tokenizer, whole[begin : first + end])

    @staticmethod
    def _later(messages: Sequence[Message], number: int, start: int) -> list[int]:
        """Where the turns behind `start` begin, up to the one that message `number` belongs to."""
        at = next(i for i, m in enumerate(messages) if m.role != "system")
        out: list[int] = []
        for turn in turns([m for m in messages if m.role != "system"]):
            if start < at <= number:
                out.append(at)
            at += len(turn)
        return out

    def _harmless(self, content: str) -> str:
        """A text without special tokens; as long as before, so that spans stay where they are."""
        return self._special.sub(lambda m: " " + m[0][1:], content)

    def _end(self, special: set[str]) -> list[int]:
        """What is learned behind a whole answer."""
        text = getattr(self.layout, "end", "")
        mark = text.strip()
        if text and mark not in special and not mark.startswith("<"):
            return encode_tail(self.tokenizer, text)
        front = encode_tail(self.tokenizer, text[: text.index(mark)]) if text and mark else []
        ids = self.tokenizer.encode(mark) if mark in special else []
        return [*front, *(ids if len(ids) == 1 else [self.tokenizer.eos])]


def _goes_on(prompt: Sequence[int], ids: Sequence[int]) -> bool:
    return len(prompt) >= len(ids) and list(prompt[: len(ids)]) == list(ids)


def _extend(row: Row, read: Sequence[int], said: Sequence[int]) -> None:
    row.tokens += [*read, *said]
    row.labels += [*([IGNORED] * len(read)), *said]
