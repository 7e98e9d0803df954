"""Scenes of two or three things: both are named, as far as the embedding carries them.

Real embeddings of composed pictures where there are some, else mixtures with measured weights. What
can't be read out of an embedding (left and right, and with the shipped eye colour and number) is
never part of an answer; the answer then is that it can't be told.
"""

from __future__ import annotations

import random

import numpy as np

from anybind.core_model.training.nano_data.english import (
    NUMBERS,
    article,
    capital,
    counted,
    is_counted,
    listed,
    plural,
)
from anybind.core_model.training.nano_data.kit import Draft, Turn, styled
from anybind.core_model.training.nano_data.looks import Feature, Looks
from anybind.core_model.training.nano_data.world import Thing, called, related, words_of

LEAST_SHARE = 0.15
"""A thing with a smaller share of the mixture is not asked to be named: it isn't in the embedding."""
LEAST_RIGHT = {"colour": 0.6, "count": 0.6}
"""Read-outs (`carried.measure`) must be right so often before answers speak of a property."""

BOTH = (
    "What is in the picture?", "What do you see?", "Which things are in the picture?",
    "Name everything you see.", "List the objects in the picture.", "Describe the scene.",
    "What are the two main things in the picture?", "Describe the picture.",
    "What objects are there?", "What can you see in the photo?", "Tell me all that is in the image.",
)  # fmt: skip
ONE = tuple(q for q in BOTH if "two" not in q and "things" not in q and "objects" not in q)
"""Those that do not say that there are several."""
WHERE = (
    "Which of them is on the left?", "Is the {a} to the left of the {b}?", "What is on the right side?",
    "Is the {a} above the {b}?", "Where exactly is the {a}?", "Which one is nearer?",
)  # fmt: skip
CANT_PLACE = (
    "I can't tell where things are in the picture.", "I see {both}, but not where each of them is.",
)  # fmt: skip


def scene_of(looks: Looks, rng: random.Random) -> tuple[list[Thing], Feature]:
    """Things that a scene shows, those carried, the strongest first, and its embedding."""
    groups = [*looks.seen.by_what.get("pair", []), *looks.seen.by_what.get("triple", [])]
    if groups and rng.random() < 0.6:
        row = rng.choice(groups)
        things = [looks.world.by_id[t] for t in row.things if t in looks.world.by_id]
        if len(things) == len(row.things):
            feature = looks.seen.features[row.number]
            return _carried(things, _shares(looks, things, feature)), feature
    size = 2 if rng.random() < 0.8 else 3
    things: list[Thing] = []
    while len(things) < size:
        thing = looks.thing(rng)
        if not any(related(thing, t) or called(thing) == called(t) for t in things):
            things.append(thing)
    feature, shares = looks.mixed([looks.look(t, rng) for t in things], rng)
    return _carried(things, shares), feature


def _carried(things: list[Thing], shares: list[float]) -> list[Thing]:
    pairs = sorted(zip(shares, range(len(things)), strict=True), reverse=True)
    # The first is always named: a scene is never of nothing.
    return [things[i] for n, (share, i) in enumerate(pairs) if share >= LEAST_SHARE or n == 0]


def _shares(looks: Looks, things: list[Thing], feature: Feature) -> list[float]:
    """What part each thing has in a real embedding, against the mean embedding of each alone."""
    alone: list[Feature] = []
    for thing in things:
        rows = looks.seen.of_thing.get(thing.id, [])
        if not rows:
            return [1.0] * len(things)
        mean = looks.seen.features[[r.number for r in rows]].mean(0)
        alone.append(mean / np.linalg.norm(mean))
    basis = np.stack(alone)
    weights = np.linalg.solve(basis @ basis.T + 1e-2 * np.eye(len(basis)), basis @ feature)
    weights = np.maximum(weights, 0.0)
    return (weights / max(weights.sum(), 1e-6)).tolist()


def scene_turn(things: list[Thing], rng: random.Random) -> Turn:
    """A question after everything, and the answer."""
    names = [article(called(t)) for t in things]
    asked = rng.choice(BOTH if len(things) > 1 else ONE)
    if "photo" in asked:
        return asked, f"The photo shows {listed(names)}."
    if asked.startswith(("List", "Name")):
        return asked, f"{capital(listed(names))}."
    if "do you see" in asked:
        return asked, f"I see {listed(names)}."
    return asked, f"The picture shows {listed(names)}."


def scene(looks: Looks, rng: random.Random) -> Draft:
    """A scene described, or asked about."""
    things, feature = scene_of(looks, rng)
    names = [called(t) for t in things]
    roll = rng.random()
    if roll < 0.5 or len(things) == 1:
        turn = scene_turn(things, rng)
    elif roll < 0.62:
        a, b = rng.sample(names, 2)
        turn = (
            rng.choice([f"Does the picture show {article(a)} and {article(b)}?",
                        f"Do you see both {article(a)} and {article(b)}?"]),
            f"Yes, I see {article(a)} and {article(b)}.",
        )  # fmt: skip
    elif roll < 0.74:
        here = rng.choice(things)
        absent = _absent(looks, things, rng)
        turn = (
            rng.choice([f"Is there {article(absent)} beside the {called(here)}?",
                        f"Do you see both {article(called(here))} and {article(absent)}?"]),
            f"No. I see {listed([article(n) for n in names])}, but no {absent}.",
        )  # fmt: skip
    elif roll < 0.86:
        here = rng.choice(things)
        rest = [article(called(t)) for t in things if t is not here]
        turn = (
            rng.choice([f"What else is there besides the {called(here)}?",
                        f"What is together with the {called(here)}?",
                        f"Apart from the {called(here)}, what is in the picture?"]),
            f"There is also {listed(rest)}.",
        )  # fmt: skip
    else:
        a, b = rng.sample(names, 2)
        asked = rng.choice(WHERE).format(a=a, b=b)
        turn = (asked, rng.choice(CANT_PLACE).format(both=listed([article(a), article(b)])))
    return Draft(((styled(turn[0], rng), turn[1]),), feature, words=words_of(*things))


def _absent(looks: Looks, things: list[Thing], rng: random.Random) -> str:
    """A word for nothing of a scene."""
    while True:
        name = looks.other(rng.choice(things), rng, hard=rng.random() < 0.5)
        other = looks.world.by_name.get(name.lower())
        if is_counted(name) and other and not any(related(other, t) for t in things):
            return name


# ---------------------------------------------------------------- colour and number

COLOUR_ASKED = (
    "What colour is the {}?", "Which colour has the {}?", "Tell me the colour of the {}.",
    "What is the main colour of the {}?",
)  # fmt: skip
COUNT_ASKED = (
    "How many {} are there?", "How many {} do you see?", "Count the {}.", "What is the number of {}?",
)  # fmt: skip
CANT_COLOUR = (
    "I can't tell the colour from what I see.",
    "I see {one}, but I can't make out its colour.",
)
CANT_COUNT = ("I can't count them reliably.", "I see {one}, but I can't tell how many there are.")


def colour(looks: Looks, rng: random.Random) -> Draft:
    """The colour of a thing, if the embedding carries colours; else that it can't be told."""
    rows = looks.seen.by_what.get("colour", [])
    if rows and looks.seen.can("colour", LEAST_RIGHT["colour"]):
        row = rng.choice(rows)
        thing = looks.world.by_id[row.things[0]]
        name = called(thing)
        asked = rng.choice(COLOUR_ASKED).format(name)
        other = rng.choice([r.colour for r in rows])
        if rng.random() < 0.3:
            yes = other == row.colour
            asked, answer = (
                f"Is the {name} {other}?",
                f"Yes, it is {other}." if yes else f"No, it is {row.colour}.",
            )
        else:
            answer = f"The {name} is {row.colour}."
        feature = looks.seen.features[row.number]
        return Draft(((styled(asked, rng), answer),), feature, words=words_of(thing))
    thing = looks.thing(rng)
    asked = rng.choice(COLOUR_ASKED).format(called(thing))
    answer = rng.choice(CANT_COLOUR).format(one=article(called(thing)))
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))


def count(looks: Looks, rng: random.Random) -> Draft:
    """How many there are, if the embedding carries numbers; else that it can't be told."""
    rows = looks.seen.by_what.get("count", [])
    if rows and looks.seen.can("count", LEAST_RIGHT["count"]):
        row = rng.choice(rows)
        thing = looks.world.by_id[row.things[0]]
        name = called(thing)
        verb = "is" if row.count == 1 else "are"
        answer = f"There {verb} {counted(row.count, name)}."
        if rng.random() < 0.2:
            answer = f"{capital(NUMBERS[row.count])}."
        asked = rng.choice(COUNT_ASKED).format(plural(name))
        feature = looks.seen.features[row.number]
        return Draft(((styled(asked, rng), answer),), feature, words=words_of(thing))
    while True:
        thing = looks.thing(rng)
        if is_counted(called(thing)):
            break
    asked = rng.choice(COUNT_ASKED).format(plural(called(thing)))
    answer = rng.choice(CANT_COUNT).format(one=article(called(thing)))
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))
