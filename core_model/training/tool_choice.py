"""Trains the chooser of tools (`tool_matcher.safetensors`): a small network over sentence embeddings.

Contrastive: each made request is matched against a list of tools drawn for it, described as some
author might have, and against "none". Lists have the tools that are easily mistaken for the right
one; in a share of them the wanted tool is missing, so that none is right. Tools are measured in folds
that training left out together with all requests for them. Same inputs and seed, same file.

    python -m anybind.core_model.training.tool_choice --minilm FILE --tokenizer FILE --out FILE
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from anybind.core_model.encoders.minilm import SPACE, TextEncoder, load_text_encoder
from anybind.core_model.tool_matcher import CLAUSES, FORMAT, asked, tool_texts
from anybind.core_model.training.tool_choice_data import (
    Asked,
    described,
    from_conversations,
    read_tools,
    requests,
    talk,
)
from anybind.core_model.training.toolchat import Protocol, ToolChat

GENERAL = frozenset(
    {"Answer Question About The Image", "Get Photo Description", "Instruct Image Using Text",
     "Web Search", "Encyclopedia"}
)  # fmt: skip
"""Tools that could do a little of much: never listed where the wanted tool is missing."""


@dataclass(frozen=True, slots=True)
class Config:
    """What training is run with."""

    seed: int = 0
    steps: int = 500
    batch: int = 160
    rate: float = 2e-3
    decay: float = 1.0
    hidden: int = 32
    none_hidden: int = 48
    each: int = 20
    talk_each: int = 24
    conversations: int = 1500
    variants: int = 8
    listed: int = 12
    none_share: float = 0.18
    missing_share: float = 0.14
    noise: float = 0.02
    smoothing: float = 0.05


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class Matcher(nn.Module):
    """The network of `anybind.core_model.tool_matcher.ToolMatcher`, to be trained."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()

        def small(a: int, b: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(a, b) * a**-0.5)

        self.down = small(width, config.hidden)
        self.up = nn.Parameter(torch.zeros(config.hidden, width))
        self.none_down = small(width, config.none_hidden)
        self.none_bias = nn.Parameter(torch.zeros(config.none_hidden))
        self.none_up = nn.Parameter(torch.zeros(config.none_hidden))
        self.weights = nn.Parameter(torch.tensor([8.0, 2.0, 4.0, 2.0, 5.0]))

    def forward(self, ask: Tensor, tools: Tensor, there: Tensor, listed: Tensor) -> Tensor:
        """Logits [B, 1 + T], none first; -10,000 for tools that are not listed.

        Args:
            ask: Requests [B, C].
            tools: Texts of the tools [T, 2 + CLAUSES, C].
            there: Which of the texts a tool has [T, 2 + CLAUSES], bool; at least three.
            listed: Which tools are listed for which request [B, T], bool.
        """
        mapped = F.normalize(ask + ask @ self.down @ self.up, dim=-1)
        texts = F.normalize(tools + tools @ self.down @ self.up, dim=-1)
        cosine = torch.einsum("bc,tkc->btk", mapped, texts)
        clauses, some = cosine[..., 2:], there[:, 2:]
        best = clauses.masked_fill(~some, -1.0).amax(-1)
        mean = (clauses * some).sum(-1) / some.sum(-1)
        w = self.weights
        scores = w[0] * cosine[..., 0] + w[1] * cosine[..., 1] + w[2] * best + w[3] * mean
        none = _gelu(ask @ self.none_down + self.none_bias) @ self.none_up + w[4]
        return torch.cat([none[:, None], scores.masked_fill(~listed, -1e4)], 1)

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, by the names of the file, in half precision."""
        kept = {n.replace("_", ".", 1): p.detach().half() for n, p in self.named_parameters()}
        return {n: p.contiguous() for n, p in kept.items()}


class Material:
    """Embedded requests and tools."""

    def __init__(self, encoder: TextEncoder, config: Config) -> None:
        protocol = Protocol()
        self.tools = read_tools(protocol)
        self.names = list(self.tools)
        chat = ToolChat(protocol, seed=config.seed)
        made = requests(list(self.tools.values()), config.each, config.seed)
        made += from_conversations(chat, config.conversations)
        made += talk(config.talk_each, config.seed)
        self.family = {n: chat.family(n) for n in chat.tools}
        self.asked: list[Asked] = made
        self.rows = _embedded(encoder, [asked(a.text) for a in made])
        r = random.Random(f"tool choice descriptions {config.seed}")
        self.variants: dict[str, list[tuple[str, str]]] = {}
        for name, words in self.tools.items():
            self.variants[name] = [(name, words.descriptions[0])]
            self.variants[name] += [described(words, r) for _ in range(config.variants)]
        every = [v for n in self.names for v in self.variants[n]]
        self.texts, self.mask = tool_rows(encoder, every)
        at = 0
        self.first: dict[str, int] = {}
        for name in self.names:
            self.first[name] = at
            at += len(self.variants[name])
        # What each tool is mistaken for, by the plain similarity of the first descriptions.
        heads = torch.stack([self.texts[self.first[n], 0] for n in self.names])
        order = (heads @ heads.T).argsort(dim=1, descending=True)[:, 1:9].tolist()
        self.near = {
            n: [self.names[j] for j in row] for n, row in zip(self.names, order, strict=True)
        }


def _embedded(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Embeddings [N, C] of unit norm; each text once."""
    once = list(dict.fromkeys(texts))
    place = {t: i for i, t in enumerate(once)}
    return encoder.unit(once)[[place[t] for t in texts]].clone()


def tool_rows(encoder: TextEncoder, tools: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Embeddings [N, 2 + CLAUSES, C] of described tools, and which of the texts are there."""
    texts = [tool_texts(*t) for t in tools]
    flat = iter(_embedded(encoder, [t for some in texts for t in some]))
    width = 2 + CLAUSES
    rows = [[next(flat) for _ in some] for some in texts]
    out = torch.zeros(len(tools), width, rows[0][0].shape[0])
    mask = torch.zeros(len(tools), width, dtype=torch.bool)
    for i, some in enumerate(rows):
        out[i, : len(some)] = torch.stack(some)
        mask[i, : len(some)] = True
    return out, mask


class Lists:
    """Draws a list of tools for a request, and says which of them is right."""

    def __init__(self, material: Material, barred: frozenset[str], config: Config) -> None:
        self.m, self.config = material, config
        names = [n for n in material.names if n not in barred]
        self.own = [n for n in names if material.tools[n].own]
        self.pictures = [n for n in names if material.tools[n].about_pictures]
        self.names = names
        self.known = set(names)

    def draw(self, ask: Asked, r: random.Random, *, missing: bool) -> list[str]:
        """The tools listed for a request, the wanted one among them unless it is to be missing."""
        size = r.choice([2, 3, 4, 5, 8, self.config.listed, 18])
        barred: set[str] = set()
        near: list[str] = []
        pool = self.own if r.random() < 0.4 else self.names
        if ask.tool:
            near = [n for n in self.m.near[ask.tool] if n in self.known]
            if missing:
                barred = {ask.tool, *GENERAL, *self.m.family.get(ask.tool, ()), *near[:3]}
            elif ask.tool not in GENERAL and not self.m.tools[ask.tool].own:
                # A general tool would often do as well.
                barred = set(GENERAL) if r.random() < 0.5 else set()
        else:
            pool = self.own if r.random() < 0.5 else self.pictures
            barred = {"Answer Question About The Image"} if r.random() < 0.3 else set()
        wanted = [ask.tool] if ask.tool and not missing else []
        others = [n for n in near if r.random() < 0.5] + r.sample(pool, min(size, len(pool)))
        others = [n for n in dict.fromkeys(others) if n not in barred and n not in wanted]
        return [*wanted, *others][:size]


def train(
    material: Material, barred: frozenset[str], rows: Sequence[int], config: Config
) -> Matcher:
    """Train on some of the requests, the barred tools neither asked for nor listed."""
    torch.manual_seed(config.seed)
    r = random.Random(f"tool choice training {config.seed}")
    lists = Lists(material, barred, config)
    place = {n: i for i, n in enumerate(lists.names)}
    by_tool: dict[str, list[int]] = {}
    for i in rows:
        if material.asked[i].tool not in barred:
            by_tool.setdefault(material.asked[i].tool, []).append(i)
    silent = by_tool.pop("")
    own = [n for n in by_tool if material.tools[n].own]
    others = [n for n in by_tool if not material.tools[n].own]
    model = Matcher(material.rows.shape[1], config)
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
            if roll < config.none_share:
                i = r.choice(silent)
            else:
                i = r.choice(by_tool[r.choice(own if r.random() < 0.5 else others)])
            ask, missing = material.asked[i], roll > 1 - config.missing_share
            names = lists.draw(ask, r, missing=missing)
            listed[row, [place[n] for n in names]] = True
            picked.append(i)
            right.append(place[ask.tool] + 1 if ask.tool and not missing else 0)
        shown = [material.first[n] + r.randrange(len(material.variants[n])) for n in lists.names]
        noisy = material.rows[picked]
        noisy = F.normalize(noisy + config.noise * torch.randn_like(noisy), dim=-1)
        logits = model(noisy, material.texts[shown], material.mask[shown], listed)
        loss = _loss(logits, torch.tensor(right), config.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _loss(logits: Tensor, right: Tensor, smoothing: float) -> Tensor:
    """Cross entropy, a little of the weight on the other listed tools."""
    log = F.log_softmax(logits, 1)
    there = logits > -1e3
    spread = (log * there).sum(1) / there.sum(1)
    return -((1 - smoothing) * log.gather(1, right[:, None])[:, 0] + smoothing * spread).mean()


@torch.inference_mode()
def choices(
    model: Matcher, material: Material, rows: Sequence[int], names: Sequence[str]
) -> list[str]:
    """For each request the tool that is chosen of some under their first descriptions, or ""."""
    shown = [material.first[n] for n in names]
    everything = torch.ones(len(rows), len(names), dtype=torch.bool)
    logits = model(
        material.rows[list(rows)], material.texts[shown], material.mask[shown], everything
    )
    return [names[best - 1] if best else "" for best in logits.argmax(1).tolist()]


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures on what a fold left out; shares of right choices."""

    new_words: float
    """Known tools, patterns of wording never seen, among all of our own tools."""
    new_tools: float
    """Tools never seen, among all of our own tools."""
    none: float
    """Talk of patterns never seen that rightly gets no tool."""
    missing: float
    """Requests for tools that are not listed that rightly get none."""
    plain_new_tools: float
    """Tools never seen, by the plain similarity alone, its threshold for none switched off."""


def fold(material: Material, number: int, of: int, config: Config) -> Measured:
    """Train without a part of tools and patterns, and measure on it."""
    r = random.Random("tool choice folds")
    own = [n for n in material.names if material.tools[n].own]
    strangers = [n for n in material.names if not material.tools[n].own]
    r.shuffle(own)
    r.shuffle(strangers)
    out = frozenset(own[number::of] + strangers[number::of])
    patterns = sorted({(a.tool, a.pattern) for a in material.asked})
    r.shuffle(patterns)
    held = set(patterns[number::of])
    every = range(len(material.asked))
    rows = [i for i in every if (material.asked[i].tool, material.asked[i].pattern) not in held]
    model = train(material, out, rows, config)
    fresh = [i for i in every if (material.asked[i].tool, material.asked[i].pattern) in held]
    tool = [material.asked[i].tool for i in range(len(material.asked))]
    known = [i for i in fresh if tool[i] in own and tool[i] not in out]
    new = [i for i in every if tool[i] in out and tool[i] in own]
    absent = [i for i in every if tool[i] in out and tool[i] in strangers
              and material.tools[tool[i]].about_pictures]  # fmt: skip
    silent = [i for i in fresh if not tool[i]]
    heads = torch.stack([material.texts[material.first[n], 0] for n in own])
    plain = [own[j] for j in (material.rows[new] @ heads.T).argmax(1).tolist()]
    narrow = [n for n in own if n not in GENERAL]

    def share(rows: list[int], said: list[str], wanted: str | None = None) -> float:
        return float(np.mean([s == (tool[i] if wanted is None else wanted)
                              for i, s in zip(rows, said, strict=True)]))  # fmt: skip

    return Measured(
        share(known, choices(model, material, known, own)),
        share(new, choices(model, material, new, own)),
        share(silent, choices(model, material, silent, own)),
        share(absent, choices(model, material, absent, narrow), ""),
        share(new, plain),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=0, help="measure in so many folds first")
    parser.add_argument("--seed", type=int, default=Config().seed)
    parser.add_argument("--steps", type=int, default=Config().steps)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    config = replace(Config(), seed=given.seed, steps=given.steps)
    began = time.monotonic()
    material = Material(load_text_encoder(given.minilm, given.tokenizer), config)
    print(f"{len(material.asked)} requests, {len(material.names)} tools,"
          f" {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    for number in range(given.folds):
        print(
            json.dumps({"fold": number} | asdict(fold(material, number, given.folds, config))),
            flush=True,
        )
    model = train(material, frozenset(), range(len(material.asked)), config)
    about = {"space": SPACE, "training": asdict(config)}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.tensors(), str(given.out), {"format": FORMAT, "config": json.dumps(about)})
    print(f"{given.out}: {given.out.stat().st_size} bytes, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
