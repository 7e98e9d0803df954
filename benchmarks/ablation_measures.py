"""How well an arm names features: loss and tokens under the right answer, and greedy replies.

One question for all, so that prompts are equally long and replies are written in one batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ablation_arms import Injected
from ablation_data import HeldOut, Rows, name_of, said_in
from torch import Tensor

from anybind.contracts import Message
from anybind.core_model.prompts import LAYOUTS
from anybind.core_model.tokenizer import Tokenizer, encode_prompt, end_ids
from anybind.core_model.training.building import Parts
from anybind.core_model.training.rendering import IGNORED, ConversationEncoder
from anybind.core_model.training.samples import TrainingSample

QUESTION = "What is this?"
MOST = 16
"""Tokens of a reply."""
_AT_ONCE = 100
PLAIN = (
    "The train leaves at seven in the morning and arrives before noon.",
    "Water boils at a lower temperature on a high mountain.",
    "She wrote a letter to her brother and put it in a drawer.",
    "To bake bread you need flour, water, salt and a little time.",
    "The library is open every day except on public holidays.",
    "He could not remember where he had parked the bicycle.",
    "Prices rose faster than wages in the last three years.",
    "If you add two and three and multiply the sum by four, you get twenty.",
    "The river was frozen, so the children walked across to the other side.",
    "Nobody in the village knew who had built the old tower.",
)
"""Sentences that no feature has to do with (ours): what an injection does to them, it breaks."""


@dataclass(frozen=True)
class Naming:
    """Figures of a set."""

    loss: float
    """Nats an answer token."""
    tokens: float
    """Share of the name's tokens predicted right under the right answer so far."""
    exact: float
    """Share of greedy replies whose name is the right one."""
    count: int


class Examiner:
    """Asks an arm."""

    def __init__(self, parts: Parts) -> None:
        trainee = parts.trainee
        assert isinstance(trainee, Injected)
        self.trainee = trainee.eval()
        self.tokenizer: Tokenizer = parts.tokenizer
        layout = LAYOUTS[parts.chat]
        self.writer = ConversationEncoder(parts.tokenizer, layout, 256)
        self.prompt = encode_prompt(parts.tokenizer, layout.render([Message("user", QUESTION)]))
        half = trainee.decoder.tok_embeddings.weight.dtype
        self.mixed = half if half != torch.float32 else None

    def naming(self, held: HeldOut, *, greedy: bool = True) -> Naming:
        """All figures of a set; `exact` is nan without greedy replies."""
        exact = self.exact(held) if greedy else float("nan")
        answers = [f"This is {said}." for said in held.said]
        loss, names = self.losses(held.features, QUESTION, answers, held.said)
        return Naming(loss, names, exact, len(held))

    def exact(self, held: HeldOut) -> float:
        """Share of greedy replies that have the form of an answer and the right name."""
        replies = self.replies(held.features)
        right = [name_of(said_in(r)) == n for r, n in zip(replies, held.names, strict=True)]
        return sum(right) / len(right)

    def plain(self, features: Rows, *, under: bool = True) -> float:
        """Nats a token of `PLAIN`, each sentence under each feature, or as often under none.

        As often, because bfloat16 rounds by the shape of a batch: a shut gate then changes nothing.
        """
        rows = np.repeat(features, len(PLAIN), 0) if under else None
        return self.losses(rows, "Go on.", list(PLAIN) * len(features))[0]

    @torch.inference_mode()
    def losses(
        self, features: Rows | None, question: str, answers: Sequence[str],
        said: Sequence[str] = (),
    ) -> tuple[float, float]:  # fmt: skip
        """Mean loss of the answers' tokens, and the share of the names' tokens predicted right.

        Args:
            features: [N, C], or None for no condition.
            question: What is asked.
            answers: N answers.
            said: What each says behind "This is "; "" of none.
        """
        loss = torch.zeros((), dtype=torch.float64)
        right = named = total = 0
        for start in range(0, len(answers), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            tokens, labels, names = self._written(question, answers[part], said[part])
            hidden, shift = self._read(tokens, None if features is None else features[part])
            labels, names = self._moved(labels, shift, -100), self._moved(names, shift, 0)
            wanted = labels[:, 1:] != IGNORED
            targets = labels[:, 1:][wanted]
            logits = self.trainee.decoder.output(hidden[:, :-1][wanted]).float()
            loss += F.cross_entropy(logits, targets, reduction="sum").double()
            of_names = names[:, 1:][wanted] > 0
            right += int((logits.argmax(-1) == targets)[of_names].sum())
            named += int(of_names.sum())
            total += len(targets)
        return float(loss) / max(total, 1), right / max(named, 1)

    def _written(
        self, question: str, answers: Sequence[str], said: Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, labels, and 1 where a token is of the name, each [N, T]."""
        rows: list[Any] = []
        for answer in answers:
            pair = (Message("user", question), Message("assistant", answer))
            rows += self.writer.encode(TrainingSample(pair, None, "", ""))[0]
        width = max(len(row.tokens) for row in rows)
        tokens = torch.full((len(rows), width), self.tokenizer.eos)
        labels = torch.full((len(rows), width), IGNORED)
        names = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
            labels[i, : len(row.labels)] = torch.tensor(row.labels)
            if said:
                begin, end = self._name(said[i], [n for n in row.labels if n != IGNORED])
                at = next(j for j, label in enumerate(row.labels) if label != IGNORED)
                names[i, at + begin : at + end] = 1
        return tokens, labels, names

    def _name(self, said: str, answer: list[int]) -> tuple[int, int]:
        """Where the everyday word lies in the ids of an answer."""
        head = said.split(", probably ")[0]
        before = f"This is {head[: len(head) - len(name_of(head))]}".rstrip()
        ids = [self.tokenizer.encode(text) for text in (before, f"This is {head}")]
        begin, end = (_shared(part, answer) for part in ids)
        return begin, end

    def _moved(self, row: Tensor, shift: int, fill: int) -> Tensor:
        return self.trainee.laid(row, fill) if shift else row

    def _read(self, tokens: Tensor, features: Rows | None) -> tuple[Tensor, int]:
        """What the head reads, and how many places the arm put in."""
        decoder = self.trainee.decoder
        with self._precision():
            if features is None:
                return decoder.features(tokens), 0
            wide = self.trainee.laid(tokens, 0)
            with self.trainee.under(torch.from_numpy(features)) as given:
                return decoder.features(wide, **given), wide.shape[1] - tokens.shape[1]

    @torch.inference_mode()
    def replies(self, features: Rows) -> list[str]:
        """Greedy replies to the question, one a feature [N, C]."""
        out: list[str] = []
        for start in range(0, len(features), _AT_ONCE):
            out += self._batch(torch.from_numpy(features[start : start + _AT_ONCE]))
        return out

    def _batch(self, features: Tensor) -> list[str]:
        decoder, ends = self.trainee.decoder, end_ids(self.tokenizer)
        count = len(features)
        tokens = self.trainee.laid(torch.tensor(self.prompt).expand(count, -1), 0)
        cache = decoder.new_cache(count, tokens.shape[1] + MOST)
        said: list[list[int]] = [[] for _ in range(count)]
        open_rows = set(range(count))
        with self._precision(), self.trainee.under(features) as given:
            for _ in range(MOST):
                hidden = decoder.features(tokens, cache=cache, **given)
                tokens = decoder.output(hidden[:, -1:]).argmax(-1)
                for i, token in enumerate(tokens[:, 0].tolist()):
                    if i in open_rows and token not in ends:
                        said[i].append(token)
                    else:
                        open_rows.discard(i)
                if not open_rows:
                    break
        return [self.tokenizer.decode(ids) for ids in said]

    def _precision(self) -> Any:
        """As the frozen weights are: products in bfloat16 where they are."""
        return torch.autocast("cpu", self.mixed or torch.bfloat16, enabled=self.mixed is not None)


def says(reply: str, name: str) -> bool:
    """Whether a reply has a name in it, as whole words."""
    return bool(re.search(rf"\b{re.escape(name)}\b", reply.lower()))


def _shared(one: Sequence[int], two: Sequence[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b),
        min(len(one), len(two)),
    )
