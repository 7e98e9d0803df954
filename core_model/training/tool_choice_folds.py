"""Measures the chooser of tools on what training left out: tools, wordings, requests by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anybind.core_model.tool_matcher import OTHER, SAME
from anybind.core_model.training.tool_choice import Trained, learned, train
from anybind.core_model.training.tool_choice_material import GENERAL, Config, Material
from anybind.core_model.training.tool_choice_reader import embedded


@torch.inference_mode()
def choices(
    trained: Trained, material: Material, rows: Sequence[int], names: Sequence[str]
) -> list[str]:
    """For each request the tool that is chosen of some under their first descriptions, or ""."""
    shown = [material.first[n] for n in names]
    known = [material.first[n] for n in trained.known.tools]
    tools, there = material.texts[shown], material.mask[shown]
    asked = embedded(trained.reader, material.encoder, [material.said[i] for i in rows])
    told = embedded(trained.reader, material.encoder, [material.every_told[i] for i in shown])
    scores = learned(material, rows, trained.known, trained.reader, asked)
    again = ((tools[:, 0] @ material.texts[known, 0].T - OTHER) / (SAME - OTHER)).clamp(0, 1)
    sure, which = again.max(1)
    scores = torch.cat([scores[:, :1], scores[:, 1 + which]], 1)
    every = torch.ones(len(scores), len(names), dtype=torch.bool)
    asks, sure = material.rows[torch.tensor(list(rows))], sure.expand(len(scores), -1)
    logits = trained.model(asks, asked @ told.T, scores, sure, tools, there, every)
    return [names[best - 1] if best else "" for best in logits.argmax(1).tolist()]


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures on what a fold left out; shares of right choices."""

    new_words: float
    """Known tools, patterns of wording never seen, among all of our own tools."""
    new_hand: float
    """Known tools, requests by hand never seen, among all of our own tools."""
    new_tools: float
    """Tools never seen, among all of our own tools."""
    new_tools_hand: float
    """The same, of requests by hand alone."""
    none: float
    """Talk of patterns never seen that rightly gets no tool."""
    missing: float
    """Requests for tools that are not listed that rightly get none."""
    plain_new_tools: float
    """Tools never seen, by the plain similarity alone, its threshold for none switched off."""
    plain_new_tools_hand: float
    """The same, of requests by hand alone."""


def fold(material: Material, number: int, of: int, config: Config) -> Measured:
    """Train without a part of tools and patterns, and measure on it."""
    r = random.Random("tool choice folds")
    own = [n for n in material.names if material.tools[n].own]
    strangers = [n for n in material.names if not material.tools[n].own]
    r.shuffle(own)
    r.shuffle(strangers)
    out = frozenset(own[number::of] + strangers[number::of])
    ask = material.asked
    patterns = sorted({(a.tool, a.pattern) for a in ask})
    r.shuffle(patterns)
    held = set(patterns[number::of])
    every = range(len(ask))
    rows = [i for i in every if (ask[i].tool, ask[i].pattern) not in held]
    trained = train(material, out, rows, config)
    fresh = [i for i in every if (ask[i].tool, ask[i].pattern) in held]
    tool = [a.tool for a in ask]
    known = [i for i in fresh if tool[i] in own and tool[i] not in out]
    new = [i for i in every if tool[i] in out and tool[i] in own]
    absent = [i for i in every if tool[i] in out and tool[i] in strangers
              and material.tools[tool[i]].about_pictures]  # fmt: skip
    silent = [i for i in fresh if not tool[i]]
    heads = torch.stack([material.texts[material.first[n], 0] for n in own])
    plain = [own[j] for j in (material.rows[new] @ heads.T).argmax(1).tolist()]
    narrow = [n for n in own if n not in GENERAL]
    said_known = choices(trained, material, known, own)
    said_new = choices(trained, material, new, own)

    def share(
        rows: list[int], said: list[str], wanted: str | None = None, by_hand: bool | None = None
    ) -> float:
        return float(np.mean([s == (tool[i] if wanted is None else wanted)
                              for i, s in zip(rows, said, strict=True)
                              if by_hand is None or ask[i].by_hand == by_hand]))  # fmt: skip

    return Measured(
        share(known, said_known, by_hand=False),
        share(known, said_known, by_hand=True),
        share(new, said_new, by_hand=False),
        share(new, said_new, by_hand=True),
        share(silent, choices(trained, material, silent, own)),
        share(absent, choices(trained, material, absent, narrow), ""),
        share(new, plain, by_hand=False),
        share(new, plain, by_hand=True),
    )
