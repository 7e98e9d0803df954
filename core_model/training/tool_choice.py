"""Trains the chooser of tools (`tool_matcher.safetensors`): a reader of requests (`tool_choice_reader`) and a
small network over sentence embeddings.

Contrastive: each request, made by rule or written by hand, is matched against a list of tools drawn
for it, described as some author might have, and against "none". Lists have the tools that are easily
mistaken for the right one; in a share of them the wanted tool is missing, so that none is right. What
is known of a tool (`tool_choice_known`) enters as a fit says it that had not seen the wording; in a
share nor the tool, which then has to be matched by its description. Same inputs and seed, same file.

    python -m anybind.core_model.training.tool_choice [--minilm FILE --tokenizer FILE] --out FILE
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.minilm import SPACE, load_text_encoder
from anybind.core_model.tool_matcher import FORMAT, READER
from anybind.core_model.training.tool_choice_known import Known, fit, split
from anybind.core_model.training.tool_choice_material import Config, Lists, Material
from anybind.core_model.training.tool_choice_model import Matcher, loss_of, relative
from anybind.core_model.training.tool_choice_reader import Reader, Request, embedded, train_reader


@dataclass(frozen=True, slots=True)
class Trained:
    """The network with what it knows of tools."""

    model: Matcher
    known: Known
    reader: Reader


@dataclass(frozen=True, slots=True)
class Judged:
    """Requests with the scores of fits and readers that had not seen their wording, or nor their tool."""

    rows: Tensor
    """Numbers of the requests [N]."""
    read: Tensor
    """What the reader made of them [N, C]."""
    part: Tensor
    """Which of the readers it was [N]."""
    told: Tensor
    """What each reader made of every description [parts, V, C]."""
    learned: Tensor
    """`relative` scores of none and of every own tool [N, 1 + K]."""
    known: Tensor
    """Which of the own tools the fit knew [N, K], 0 or 1."""


def fitted(material: Material, rows: Sequence[int], tools: Sequence[str], config: Config) -> Known:
    """Fit what is known of some tools, from all of the requests by hand and a share of those made."""
    r = random.Random(f"tool choice fit {config.seed}")
    made = [i for i in rows if not material.asked[i].by_hand]
    some = [i for i in rows if material.asked[i].by_hand]
    some += r.sample(made, min(config.fitted, len(made)))
    weights = [config.by_hand_weight if material.asked[i].by_hand else 1.0 for i in some]
    return fit(
        material.rows[some], material.words.index_select(0, torch.tensor(some)),
        [material.asked[i].tool for i in some], tools, torch.tensor(weights), config.penalty,
        config.fit_steps,
    )  # fmt: skip


def read(
    material: Material, rows: Sequence[int], tools: Sequence[str], described: Sequence[str],
    config: Config, name: str,
) -> Reader:  # fmt: skip
    """Train a reader of some tools, on the requests by hand and a share of those made.

    Args:
        material: Requests and tools.
        rows: Numbers of the requests.
        tools: Those that are known.
        described: Those whose descriptions are read.
        config: See there.
        name: For the lines about progress.
    """
    reader = config.reader
    r = random.Random(f"tool choice reader {config.seed}")
    made = [i for i in rows if not material.asked[i].by_hand]
    some = [i for i in rows if material.asked[i].by_hand]
    some += r.sample(made, min(reader.made, len(made)))
    place = {n: i + 2 for i, n in enumerate(tools)} | {"": 0}
    requests: list[Request] = []
    for i in some:
        ask = material.asked[i]
        weight = 1.0 if ask.by_hand else reader.made_weight
        answer = place.get(ask.tool, 1)
        requests.append(Request(material.said[i], answer, weight, ask.said, ask.tool))
    return train_reader(
        material.encoder, requests, {n: material.told(n) for n in described}, 2 + len(tools),
        reader, config.seed, lambda told: print(f"{name}: {told}", flush=True),
    )  # fmt: skip


def learned(
    material: Material, rows: Sequence[int], known: Known, reader: Reader, texts: Tensor
) -> Tensor:
    """What fit and reader make of requests together: `relative` scores [N, 1 + K].

    Args:
        material: Requests and tools.
        rows: Numbers of the requests.
        known: The fit.
        reader: The reader of the same tools.
        texts: Embeddings of the requests by the reader [N, C].
    """
    at = torch.tensor(list(rows))
    fitted_scores = known.scores(material.rows[at], material.words.index_select(0, at))
    with torch.no_grad():
        return relative(fitted_scores) + relative(reader.scores(texts))


def judged(
    material: Material, barred: frozenset[str], rows: Sequence[int], config: Config
) -> Judged:
    """Every request, scored by fits without its wording and by one without its tool."""
    every = [n for n in material.names if n not in barred]
    own = [n for n in every if material.tools[n].own]
    groups = [(material.asked[i].tool, material.asked[i].pattern) for i in rows]
    part, tool_part = split(groups, every, config.parts, config.seed)
    place = {n: i for i, n in enumerate(own)}
    found: list[tuple[Tensor, ...]] = []
    told: list[Tensor] = []
    for number in range(config.parts):
        there = [n for n in every if tool_part[n] != number]
        tools = [n for n in own if n in there]
        kept = [i for i, p in zip(rows, part, strict=True)
                if p != number and tool_part.get(material.asked[i].tool) != number]  # fmt: skip
        fit_of = fitted(material, kept, tools, config)
        name = f"part {number + 1} of {config.parts}"
        reader = read(material, kept, tools, there, config, name)
        left = sorted(set(rows) - set(kept))
        texts = embedded(reader, material.encoder, [material.said[i] for i in left])
        scores = learned(material, left, fit_of, reader, texts)
        columns = torch.tensor([place[n] for n in tools])
        all_scores = torch.zeros(len(left), 1 + len(own))
        all_scores[:, 0] = scores[:, 0]
        all_scores[:, 1 + columns] = scores[:, 1:]
        known = torch.zeros(len(left), len(own))
        known[:, columns] = 1.0
        found.append(
            (torch.tensor(left), texts, torch.full((len(left),), number), all_scores, known)
        )
        told.append(embedded(reader, material.encoder, material.every_told))
    numbers, texts, parts, scores, known = (torch.cat(some) for some in zip(*found, strict=True))
    return Judged(numbers, texts, parts, torch.stack(told), scores, known)


class Drawing:
    """Draws requests of a tool, known or unseen, by hand or made."""

    def __init__(
        self, material: Material, seen: Judged, own: Sequence[str], config: Config
    ) -> None:
        self.share, self.unseen_share = config.by_hand_share, config.unseen_share
        self.groups: dict[tuple[str, bool, bool], list[int]] = {}
        place = {n: i for i, n in enumerate(own)}
        for at, row in enumerate(seen.rows.tolist()):
            ask = material.asked[row]
            unseen = ask.tool in place and not bool(seen.known[at, place[ask.tool]])
            self.groups.setdefault((ask.tool, unseen, ask.by_hand), []).append(at)

    def of(self, tool: str, r: random.Random) -> int:
        """A place in `Judged` of a request for a tool, or for none if it is ""."""
        unseen, by_hand = r.random() < self.unseen_share, r.random() < self.share
        orders = [(u, h) for u in (unseen, not unseen) for h in (by_hand, not by_hand)]
        found = next(g for u, h in orders if (g := self.groups.get((tool, u, h))))
        return r.choice(found)


def train(
    material: Material, barred: frozenset[str], rows: Sequence[int], config: Config
) -> Trained:
    """Train on some of the requests, the barred tools neither asked for nor listed."""
    r = random.Random(f"tool choice training {config.seed}")
    rows = [i for i in rows if material.asked[i].tool not in barred]
    lists = Lists(material, barred, config)
    place = {n: i for i, n in enumerate(lists.names)}
    own = lists.own
    asked_for = {material.asked[i].tool for i in rows}
    others = [n for n in lists.names if not material.tools[n].own and n in asked_for]
    columns = torch.tensor([place[n] for n in own])
    seen = judged(material, barred, rows, config)
    drawing = Drawing(material, seen, own, config)
    torch.manual_seed(config.seed)
    model = Matcher(material.rows.shape[1], config.hidden, config.none_hidden)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.decay},
         {"params": plain, "weight_decay": 0.0, "lr": config.rate * 5}], lr=config.rate,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [config.rate, config.rate * 5], total_steps=config.steps, pct_start=0.1
    )
    for _ in range(config.steps):
        picked: list[int] = []
        right: list[int] = []
        listed = torch.zeros(config.batch, len(lists.names), dtype=torch.bool)
        for row in range(config.batch):
            roll = r.random()
            silent = roll < config.none_share
            at = drawing.of("" if silent else r.choice(own if r.random() < 0.5 else others), r)
            ask = material.asked[int(seen.rows[at])]
            missing = roll > 1 - config.missing_share
            names = lists.draw(ask, r, missing=missing)
            listed[row, [place[n] for n in names]] = True
            picked.append(at)
            right.append(place[ask.tool] + 1 if ask.tool and not missing else 0)
        shown = [material.first[n] + r.randrange(len(material.variants[n])) for n in lists.names]
        noisy = material.rows[seen.rows[picked]]
        noisy = F.normalize(noisy + config.noise * torch.randn_like(noisy), dim=-1)
        scores = torch.zeros(config.batch, 1 + len(lists.names))
        known = torch.zeros(config.batch, len(lists.names))
        scores[:, 0] = seen.learned[picked, 0]
        scores[:, 1 + columns] = seen.learned[picked, 1:]
        known[:, columns] = seen.known[picked]
        whole = seen.told[:, shown][seen.part[picked]]
        matched = (seen.read[picked][:, None] * whole).sum(-1)
        texts, there = material.texts[shown], material.mask[shown]
        logits = model(noisy, matched, scores, known, texts, there, listed)
        loss = loss_of(logits, torch.tensor(right), config.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        model.mix.mul_(config.trust)
        model.mix[1] = config.known_shift
        model.weights[4] += config.none_shift
    reader = read(material, rows, own, lists.names, config, "all")
    return Trained(model.eval(), fitted(material, rows, own, config), reader)


def tensors(trained: Trained, material: Material) -> dict[str, Tensor]:
    """What is kept of a network and what it knows, by the names of the file."""
    first = [material.first[n] for n in trained.known.tools]
    kept = trained.model.tensors(trained.known, trained.reader.answers(), material.texts[first, 0])
    return kept | {f"{READER}{n}": t for n, t in trained.reader.tensors().items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minilm", type=Path, help="nano's own, if not given")
    parser.add_argument("--tokenizer", type=Path, help="nano's own, if not given")
    parser.add_argument("--folds", type=int, default=0, help="measure in so many folds first")
    parser.add_argument("--seed", type=int, default=Config().seed)
    parser.add_argument("--steps", type=int, default=Config().steps)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    from anybind.assembly import Assembly

    nano = Assembly("nano")
    minilm = given.minilm or nano.weight("minilm")
    tokenizer = given.tokenizer or nano.weight("minilm_tokenizer")
    config = replace(Config(), seed=given.seed, steps=given.steps)
    torch.set_num_threads(1)  # sums come in one order, whatever the machine
    began = time.monotonic()
    material = Material(load_text_encoder(minilm, tokenizer), config)
    print(f"{len(material.asked)} requests, {len(material.names)} tools,"
          f" {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    from anybind.core_model.training.tool_choice_folds import fold

    for number in range(given.folds):
        print(
            json.dumps({"fold": number} | asdict(fold(material, number, given.folds, config))),
            flush=True,
        )
    trained = train(material, frozenset(), range(len(material.asked)), config)
    about = {"space": SPACE, "training": asdict(config), "tools": trained.known.tools}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors(trained, material), str(given.out), {"format": FORMAT, "config": json.dumps(about)}
    )
    print(f"{given.out}: {given.out.stat().st_size} bytes, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
