"""Questions about a picture and instructions how to answer: yes or no, which of these, what kind,
what for, and what a picture can't tell.

Yes and no are equally many; half of the things asked for in vain are the nearest words in the joint
space that are not right.
"""

from __future__ import annotations

import random
import re

from anybind.core_model.training.nano_data.english import (
    article,
    capital,
    is_counted,
    is_plural,
    listed,
)
from anybind.core_model.training.nano_data.kit import Draft, Turn, styled
from anybind.core_model.training.nano_data.looks import Looks
from anybind.core_model.training.nano_data.naming import definition
from anybind.core_model.training.nano_data.world import Thing, called, words_of

EXISTS = (
    "Is there {a} in the picture?", "Is there {a} in the image?", "Do you see {a}?", "Is this {a}?",
    "Does the picture show {a}?", "Is {a} in the photo?", "Can you see {a} in this picture?",
    "Is it {a}?", "Does the image contain {a}?", "Would you say that this is {a}?",
    "Is {a} visible?", "Tell me whether there is {a} in the picture.",
)  # fmt: skip
EXISTS_BARE = (
    "{Is} there {n} in the picture?", "Do you see {n}?", "Does the picture show {n}?",
    "{Is} {n} visible in the image?", "Can you see any {n}?",
)  # fmt: skip
ONLY = (" Answer yes or no.", " Yes or no?", " Reply with yes or no only.", " Just say yes or no.")
CHOICE = (
    "Is it {options}?", "Which of these is in the picture: {options}?", "What is shown, {options}?",
    "Choose one: {options}.", "Is the picture of {options}?", "Which is it, {options}?",
)  # fmt: skip
KIND = (
    "What kind of thing is it?", "What sort of thing is this?", "To which group does it belong?",
    "How would you classify what you see?", "Is it an animal, a plant or a thing?",
)  # fmt: skip
USE = (
    "What is it used for?", "What can you do with it?", "What is this thing for?",
    "What do people use it for?", "What is its purpose?",
)  # fmt: skip
DEFINE = (
    "What is a {n}?", "Tell me something about it.", "Explain what it is.", "Define what you see.",
    "What do you know about this?",
)  # fmt: skip
UNSEEN = (
    ("Where was this picture taken?", "where it was taken"), ("Who took the photo?", "who took it"),
    ("When was this taken?", "when it was taken"), ("How much did it cost?", "what it cost"),
    ("Whose is it?", "whose it is"), ("What is the name of its owner?", "who owns it"),
    ("How old is it?", "how old it is"), ("How heavy is it?", "how heavy it is"),
    ("What does the writing say?", "whether anything is written there"),
    ("Which camera was used?", "which camera was used"), ("What happened before?", "what happened before"),
    ("What is behind it?", "what is behind it"), ("What time is it in the picture?", "what time it is"),
    ("What is it thinking?", "what it thinks"), ("Is it for sale?", "whether it is for sale"),
    ("Which brand is it?", "which brand it is"), ("What does it smell like?", "how it smells"),
    ("Who made it?", "who made it"), ("How tall is it exactly?", "how tall it is"),
    ("What will happen next?", "what will happen next"), ("What street is this?", "which street it is"),
    ("Was it raining that day?", "what the weather was"), ("Is it on the left or on the right?", "where it is in the picture"),
)  # fmt: skip
CANT = (
    "I can't tell from this picture {what}.", "The picture does not show {what}.",
    "I can't tell that from this picture.", "I see {one}, but I can't tell {what}.",
    "That can't be seen in the picture.", "I don't know {what}; I only see {one}.",
)  # fmt: skip


def exists_turn(thing: Thing, looks: Looks, rng: random.Random, *, yes: bool) -> Turn:
    """Whether something is there."""
    if yes:
        words = [called(thing), called(thing), thing.name]
        words += [k for k in (*thing.kinds[:2], thing.group) if k in ("animal", "plant", "vehicle",
                  "building", "bird", "fish", "insect", "fruit", "vegetable", "musical instrument",
                  "tool", "piece of clothing", "piece of furniture", "person")]  # fmt: skip
        asked = rng.choice(words)
    else:
        asked = looks.other(thing, rng, hard=rng.random() < 0.5)
    if is_counted(asked):
        question = rng.choice(EXISTS).format(a=article(asked))
    else:
        verb = "Are" if is_plural(asked) else "Is"
        question = rng.choice(EXISTS_BARE).format(n=asked, Is=verb)
    roll = rng.random()
    if roll < 0.3:
        return question + rng.choice(ONLY), "Yes." if yes else "No."
    about_it = question.startswith(("Is this", "Is it", "Would"))
    if yes:
        verb = "are" if is_plural(asked) else "is"
        answer = f"Yes, {'it is' if about_it else f'there {verb}'} {article(asked)}."
        return question, answer
    if roll < 0.65:
        return question, f"No. I see {article(called(thing))}."
    if about_it:
        return question, f"No, it is {article(called(thing))}."
    return question, f"No, I see no {asked}."


def exists(looks: Looks, rng: random.Random) -> Draft:
    """One thing, asked for rightly or in vain."""
    thing = looks.thing(rng)
    asked, answer = exists_turn(thing, looks, rng, yes=rng.random() < 0.5)
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))


def choice_turn(thing: Thing, looks: Looks, rng: random.Random) -> Turn:
    """One of two to four."""
    names = [called(thing)]
    for _ in range(rng.choice([1, 2, 2, 3])):
        other = looks.other(thing, rng, hard=rng.random() < 0.5)
        if other not in names:
            names.append(other)
    rng.shuffle(names)
    options = listed([article(n) for n in names], "or")
    question = rng.choice(CHOICE).format(options=options)
    verb = "It is" if not question.startswith(("Choose", "Which of")) else "The picture shows"
    return question, f"{verb} {article(called(thing))}."


def choice(looks: Looks, rng: random.Random) -> Draft:
    """Which of these."""
    thing = looks.thing(rng)
    asked, answer = choice_turn(thing, looks, rng)
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))


def kind_turn(thing: Thing, rng: random.Random) -> Turn:
    """What kind of thing it is."""
    question = rng.choice(KIND)
    own = article(called(thing))
    if question == KIND[-1]:
        group = thing.group if thing.group in ("animal", "plant") else "thing"
        if thing.group in ("food", "person"):
            question = "Is it an animal, a thing or something to eat?"
            if thing.group == "food":
                return question, f"It is something to eat or drink: {own}."
            question = "Is it a person or a thing?"
            return question, f"It is a person: {own}."
        return question, f"It is {article(group)}: {own}."
    kinds = [k for k in (thing.basic, *thing.kinds) if k and k not in (called(thing), thing.name)]
    if not kinds:
        group = thing.group
        if group == called(thing) or group == "person":
            return "What is it?", f"It is {own}."
        said = {"food": "something to eat or drink", "thing": "a thing"}.get(group, article(group))
        return question, f"It is {said}: {own}."
    # The nearest kind says more than the widest.
    return question, f"It is {article(kinds[0])}: {own}."


def kind(looks: Looks, rng: random.Random) -> Draft:
    """What kind of thing it is."""
    thing = looks.thing(rng)
    asked, answer = kind_turn(thing, rng)
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))


def use_of(thing: Thing) -> str:
    """What WordNet says that it is used for: "to cut paper"; "" if it says nothing."""
    found = re.search(r"\bused (for|to|in|as|by) ([^;,(:\"]+)", thing.gloss)
    if found is None or thing.group in ("animal", "person", "plant"):
        return ""
    how, what = found[1], found[2].strip()
    if len(what.split()) > 9 or not what.isascii():
        return ""
    return f"{how} {what}"


def use_turn(thing: Thing, rng: random.Random) -> Turn | None:
    """What it is for, if its gloss says so."""
    use = use_of(thing)
    if not use:
        return None
    subject = article(called(thing)) if not thing.basic else article(thing.name)
    verb = "are" if is_plural(subject) else "is"
    return rng.choice(USE), f"{capital(subject)} {verb} used {use}."


def use(looks: Looks, rng: random.Random) -> Draft:
    """What a thing is for."""
    while True:
        thing = looks.thing(rng)
        turn = use_turn(thing, rng)
        if turn is not None:
            return Draft(
                ((styled(turn[0], rng), turn[1]),), looks.look(thing, rng), words=words_of(thing)
            )


def about_turn(thing: Thing, rng: random.Random) -> Turn | None:
    """What it is, by its gloss."""
    said = definition(thing)
    if not said:
        return None
    question = rng.choice(DEFINE)
    if "{n}" in question:
        question = f"What is {article(thing.name)}?"
    return question, said


def about(looks: Looks, rng: random.Random) -> Draft:
    """What a thing is, by WordNet's gloss."""
    while True:
        thing = looks.thing(rng)
        turn = about_turn(thing, rng)
        if turn is not None:
            return Draft(
                ((styled(turn[0], rng), turn[1]),), looks.look(thing, rng), words=words_of(thing)
            )


def cant_turn(thing: Thing, rng: random.Random) -> Turn:
    """A question that no picture answers."""
    question, what = rng.choice(UNSEEN)
    return question, rng.choice(CANT).format(what=what, one=article(called(thing)))


def cant(looks: Looks, rng: random.Random) -> Draft:
    """What a picture can't tell."""
    thing = looks.thing(rng)
    asked, answer = cant_turn(thing, rng)
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))
