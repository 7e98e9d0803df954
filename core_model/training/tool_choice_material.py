"""Requests and tools for the training of the chooser, embedded, and the lists drawn of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anybind.core_model.encoders.minilm import TextEncoder
from anybind.core_model.tool_matcher import CLAUSES, asked, tool_texts
from anybind.core_model.training.tool_choice_data import (
    Asked,
    by_hand,
    described,
    from_conversations,
    read_tools,
    requests,
    talk,
)
from anybind.core_model.training.tool_choice_known import word_rows
from anybind.core_model.training.tool_choice_reader import ReaderConfig
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
    steps: int = 300
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
    unseen_share: float = 0.25
    """Of requests for known tools: the tool is taken for one that no request was known of."""
    by_hand_share: float = 0.6
    parts: int = 3
    penalty: float = 1e-4
    fitted: int = 6000
    """So many of the made requests are in a fit, beside all that are written by hand."""
    by_hand_weight: float = 20.0
    fit_steps: int = 60
    trust: float = 2.0
    """Multiplies, after training, what is known of tools and of none."""
    known_shift: float = -1.5
    none_shift: float = -0.2
    """Added after training to known tools and to none, so that tools never seen keep their chance.
    These three were set by hand on one fold (`tool_choice_folds`) and the check split."""
    noise: float = 0.02
    smoothing: float = 0.05
    reader: ReaderConfig = field(default_factory=ReaderConfig)


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
        made += by_hand(self.tools)
        self.family = {n: chat.family(n) for n in chat.tools}
        self.encoder = encoder
        self.asked: list[Asked] = made
        self.said = [asked(a.text) for a in made]
        self.rows = _embedded(encoder, self.said)
        self.words = word_rows(self.said)
        r = random.Random(f"tool choice descriptions {config.seed}")
        self.variants: dict[str, list[tuple[str, str]]] = {}
        for name, words in self.tools.items():
            self.variants[name] = [(name, words.descriptions[0])]
            self.variants[name] += [described(words, r) for _ in range(config.variants)]
        every = [v for n in self.names for v in self.variants[n]]
        self.every_told = [tool_texts(*v)[0] for v in every]
        """The whole texts of all descriptions, in the order of `texts`."""
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

    def told(self, name: str) -> list[str]:
        """The whole texts of a tool's descriptions."""
        first = self.first[name]
        return self.every_told[first : first + len(self.variants[name])]


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
        size = r.choice([2, 3, 4, 5, 8, self.config.listed, 18, 24])
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
