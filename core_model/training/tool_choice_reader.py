"""Trains the reader of requests (`core_model.request_reader`): low-rank updates of the sentence encoder.

Three tasks at once: which of the known tools a request asks for ("no tool" and "some other tool" are among
the answers); which description of a tool, read by the same encoder, goes with it; and where in it the words
of each role begin and end. Knows requests and descriptions; the lists that they come from are
`tool_choice_data`.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.core_model.encoders.minilm import MiniLM, TextEncoder
from anybind.core_model.request_reader import LINEARS, MAX_TOKENS, NORMS, ROLES

NOWHERE = -100
"""In the place of a token: the request says nothing to learn about that role."""
Said = Mapping[str, tuple[int, int]]
"""Role -> where its words begin and end in a text, in characters; (0, 0) if it has none."""


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """What the reader is trained with."""

    rank: int = 4
    epochs: int = 3
    batch: int = 48
    rate: float = 2e-3
    decay: float = 0.01
    dropout: float = 0.1
    sharp: float = 12.0
    """Multiplies unit embeddings in front of the tools' scores."""
    smoothing: float = 0.05
    made_weight: float = 0.3
    """How much a request made by rule counts beside one written by hand."""
    made: int = 2500
    """So many of those made by rule are read."""
    span_weight: float = 0.5
    match_weight: float = 0.5
    matched: int = 16
    """So many tools of a batch are described."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to learn from."""

    text: str
    tool: int
    """Which answer is right: 0 no tool, 1 some other tool, then the known ones."""
    weight: float
    said: Said | None = None
    """Where the roles' words are, if that is known."""
    name: str = ""
    """Of the tool, also of one that is no known one; "" for none."""


class LowRank(nn.Module):
    """A frozen linear layer with a low-rank update, 0 at the beginning."""

    def __init__(self, linear: nn.Linear, rank: int, dropout: float) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) * linear.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.linear(x) + (self.dropout(x) @ self.down.T) @ self.up.T


class Reader(nn.Module):
    """The encoder being adapted, with the scores of tools and spans."""

    def __init__(self, model: MiniLM, answers: int, config: ReaderConfig) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.sharp = config.sharp
        for layer in self.model.layers:
            for name in LINEARS:
                setattr(layer, name, LowRank(getattr(layer, name), config.rank, config.dropout))
            for name in NORMS:
                getattr(layer, name).requires_grad_(True)
        self.tools = nn.Linear(model.width, answers)
        self.span = nn.Linear(model.width, 2 * len(ROLES))
        nn.init.zeros_(self.tools.weight)
        nn.init.zeros_(self.tools.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings [B, C], and scores of tokens as first and last of each role [B, T, 2 * roles].

        Args:
            ids: Tokens [B, T].
            mask: Where a token is [B, T], bool.
        """
        states = self.model.tokens(ids, mask)
        there = mask[:, :, None].to(states.dtype)
        mean = (states * there).sum(1) / there.sum(1)
        spans = self.span(states).masked_fill(~mask[:, :, None], -1e4)
        return F.normalize(mean, dim=-1), spans

    def scores(self, embeddings: Tensor) -> Tensor:
        """Scores of the answers [B, A] by unit embeddings [B, C]."""
        return self.tools(self.sharp * embeddings)

    def answers(self) -> tuple[Tensor, Tensor]:
        """Weights [C, A] of a unit embedding and bias [A] of the answers."""
        return self.sharp * self.tools.weight.detach().T, self.tools.bias.detach()

    def tensors(self) -> dict[str, Tensor]:
        """What `RequestReader` takes, by its names, in half precision."""
        kept: dict[str, Tensor] = {"span.weight": self.span.weight.T, "span.bias": self.span.bias}
        for number, layer in enumerate(self.model.layers):
            for name in LINEARS:
                low: LowRank = getattr(layer, name)
                kept[f"layers.{number}.{name}.down"] = low.down
                kept[f"layers.{number}.{name}.up"] = low.up
            for name in NORMS:
                norm: nn.LayerNorm = getattr(layer, name)
                kept[f"layers.{number}.{name}.weight"] = norm.weight
                kept[f"layers.{number}.{name}.bias"] = norm.bias
        return {n: t.detach().half().contiguous() for n, t in kept.items()}


def train_reader(
    encoder: TextEncoder, requests: Sequence[Request], described: Mapping[str, Sequence[str]],
    answers: int, config: ReaderConfig, seed: int, say: Callable[[str], None] = print,
) -> Reader:  # fmt: skip
    """Train a reader.

    Args:
        encoder: What is adapted; it stays as it is.
        requests: To learn from.
        described: Descriptions of tools by name, some of each; requests for others are not matched.
        answers: How many there are, "no tool" and "some other tool" among them.
        config: See there.
        seed: Of order, dropout and beginnings.
        say: Told of each epoch.
    """
    torch.manual_seed(seed)
    r = random.Random(f"reader {seed}")
    reader = Reader(encoder.model, answers, config)
    tokens = [_encoded(encoder, q) for q in requests]
    told = {
        name: [_encoded(encoder, Request(t, 0, 1.0)) for t in texts]
        for name, texts in described.items()
    }
    trained = [p for p in reader.model.parameters() if p.requires_grad]
    heads = [*reader.tools.parameters(), *reader.span.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": trained}, {"params": heads, "lr": 3 * config.rate}],
        lr=config.rate, weight_decay=config.decay,
    )  # fmt: skip
    steps = config.epochs * math.ceil(len(requests) / config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [config.rate, 3 * config.rate], total_steps=steps + config.epochs, pct_start=0.1
    )
    for epoch in range(config.epochs):
        reader.train()
        total = count = 0.0
        for some in _batches(tokens, config.batch, r):
            batch = [requests[i] for i in some]
            loss = _loss(reader, batch, [tokens[i] for i in some], told, config, r)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            total, count = total + float(loss.detach()), count + 1
        say(f"reader, epoch {epoch + 1} of {config.epochs}: loss {total / count:.3f}")
    return reader.eval()


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    ends: list[tuple[int, int]]
    """First and last token of each role; (0, 0) for none, `NOWHERE` if it is not known."""


def _encoded(encoder: TextEncoder, request: Request) -> _Tokens:
    encoding = encoder.tokenizer.encode(request.text)
    ids, offsets = encoding.ids[:MAX_TOKENS], encoding.offsets[:MAX_TOKENS]
    ends: list[tuple[int, int]] = []
    for role in ROLES:
        if request.said is None or role not in request.said:
            ends.append((NOWHERE, NOWHERE))
            continue
        begin, end = request.said[role]
        inside = [i for i, (a, b) in enumerate(offsets) if b > begin and a < end and b > a]
        ends.append((inside[0], inside[-1]) if inside else (0, 0))
    return _Tokens(ids, ends)


def _batches(tokens: Sequence[_Tokens], size: int, r: random.Random) -> Iterator[list[int]]:
    """Numbers of requests, shuffled, similar lengths together so that little is padding."""
    order = list(range(len(tokens)))
    r.shuffle(order)
    found: list[list[int]] = []
    for start in range(0, len(order), 20 * size):
        some = sorted(order[start : start + 20 * size], key=lambda i: len(tokens[i].ids))
        found += [some[i : i + size] for i in range(0, len(some), size)]
    r.shuffle(found)
    yield from found


def _padded(tokens: Sequence[_Tokens]) -> tuple[Tensor, Tensor]:
    width = max(len(t.ids) for t in tokens)
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    mask = torch.zeros(len(tokens), width, dtype=torch.bool)
    for row, some in enumerate(tokens):
        ids[row, : len(some.ids)] = torch.tensor(some.ids)
        mask[row, : len(some.ids)] = True
    return ids, mask


def _loss(
    reader: Reader, requests: Sequence[Request], tokens: Sequence[_Tokens],
    told: Mapping[str, Sequence[_Tokens]], config: ReaderConfig, r: random.Random,
) -> Tensor:  # fmt: skip
    embeddings, spans = reader(*_padded(tokens))
    weights = torch.tensor([q.weight for q in requests])
    right = torch.tensor([q.tool for q in requests])
    each = F.cross_entropy(
        reader.scores(embeddings), right, reduction="none", label_smoothing=config.smoothing
    )
    loss = (each * weights).sum() / weights.sum()
    wanted = torch.tensor([t.ends for t in tokens]).flatten(1)  # [B, 2 * roles], as the scores are
    known = wanted != NOWHERE
    if bool(known.any()):
        here = spans.transpose(1, 2)[known]  # [known, T]
        loss = loss + config.span_weight * F.cross_entropy(here, wanted[known])
    names = sorted({q.name for q in requests if q.name in told})
    names = r.sample(names, min(config.matched, len(names)))
    rows = [i for i, q in enumerate(requests) if q.name in names]
    if len(names) > 1:
        texts, _ = reader(*_padded([r.choice(told[n]) for n in names]))
        which = torch.tensor([names.index(requests[i].name) for i in rows])
        cosines = reader.sharp * embeddings[rows] @ texts.T
        each = F.cross_entropy(cosines, which, reduction="none", label_smoothing=config.smoothing)
        shares = weights[rows] / weights[rows].sum()
        loss = loss + config.match_weight * (each * shares).sum()
    return loss


@torch.no_grad()
def embedded(reader: Reader, encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Unit embeddings [N, C] of texts as the reader reads them."""
    tokens = [_encoded(encoder, Request(t, 0, 1.0)) for t in texts]
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i].ids))
    rows: dict[int, Tensor] = {}
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        rows |= dict(zip(some, reader(*_padded([tokens[i] for i in some]))[0], strict=True))
    return torch.stack([rows[i] for i in range(len(texts))])
