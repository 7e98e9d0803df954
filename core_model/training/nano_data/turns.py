"""Conversations of several turns about one picture, and context that is not the picture.

A follow-up question is about the same embedding. A note of an expert (`recognized text: ...`) comes
with a question; what is asked about it is answered from it, what is asked about the picture from
the picture.
"""

from __future__ import annotations

import random

from anybind.core_model.training.nano_data import asking, naming, scenes
from anybind.core_model.training.nano_data.english import article, listed
from anybind.core_model.training.nano_data.kit import Draft, Turn, styled
from anybind.core_model.training.nano_data.looks import Looks
from anybind.core_model.training.nano_data.world import Thing, called, words_of
from anybind.core_model.training.text_tasks import context_task

SURE = ("Are you sure?", "Really?", "Is that right?", "Could it be something else?")
THANKS = (
    ("Thanks!", "You are welcome."), ("Thank you.", "You are welcome."), ("Great, thanks.", "You are welcome."),
    ("OK.", "Is there anything else you want to know?"),
)  # fmt: skip
_MARK = "recognized text: "


def dialogue(looks: Looks, rng: random.Random) -> Draft:
    """Two to four turns about one thing."""
    thing = looks.thing(rng)
    turns = [naming.name_turn(thing, rng)]
    for _ in range(rng.choice([1, 1, 2, 3])):
        more = _follow(thing, looks, rng)
        if more[0] not in [t[0] for t in turns]:
            turns.append(more)
    return Draft(
        tuple((styled(q, rng), a) for q, a in turns), looks.look(thing, rng), words=words_of(thing)
    )


def _follow(thing: Thing, looks: Looks, rng: random.Random) -> Turn:
    name = called(thing)
    makers = [
        lambda: asking.exists_turn(thing, looks, rng, yes=True),
        lambda: asking.exists_turn(thing, looks, rng, yes=False),
        lambda: asking.choice_turn(thing, looks, rng),
        lambda: asking.kind_turn(thing, rng),
        lambda: asking.use_turn(thing, rng),
        lambda: asking.about_turn(thing, rng),
        lambda: asking.cant_turn(thing, rng),
        lambda: (rng.choice(SURE), f"It looks like {article(name)} to me."),
        lambda: ("Say that in one word.", f"{name.capitalize()}."),
        lambda: rng.choice(THANKS),
    ]
    while True:
        turn = rng.choice(makers)()
        if turn is not None:
            return turn


def scene_dialogue(looks: Looks, rng: random.Random) -> Draft:
    """Two or three turns about a scene."""
    while True:
        things, feature = scenes.scene_of(looks, rng)
        if len(things) > 1:
            break
    turns = [scenes.scene_turn(things, rng)]
    here = rng.choice(things)
    rest = [article(called(t)) for t in things if t is not here]
    more: list[Turn] = [
        (f"What else is there besides the {called(here)}?", f"There is also {listed(rest)}."),
        (f"Is there {article(called(here))}?", f"Yes, there is {article(called(here))}."),
        ("Which one is on the left?", "I can't tell where things are in the picture."),
        rng.choice(THANKS),
    ]
    turns += rng.sample(more, rng.choice([1, 2]))
    said = tuple((styled(q, rng), a) for q, a in turns)
    return Draft(said, feature, words=words_of(*things))


def context(looks: Looks, rng: random.Random) -> Draft:
    """A transcript beside a picture: of the same thing, of another, or none of the picture's matter."""
    task = context_task(rng)
    note, _, question = task.question.partition("\n\n")
    thing = looks.world.by_name.get(task.thing) if task.thing and rng.random() < 0.6 else None
    if thing is None or thing.name not in looks.bank.at:
        thing = looks.thing(rng)
    feature, words = looks.look(thing, rng), words_of(thing)
    spoken = (question, task.answer)
    seen = naming.name_turn(thing, rng)
    roll = rng.random()
    if roll < 0.55:  # only the note is asked for
        return Draft((spoken,), feature, (note,), words)
    if roll < 0.70:  # the picture is asked for, in spite of the note
        return Draft((seen,), feature, (note,), words)
    if roll < 0.80:  # first the picture, then a note comes in
        return Draft((seen, spoken), feature, ("", note), words)
    if roll < 0.90:
        what = rng.choice(["What was said?", "What does the speaker say?", "Repeat what you heard.",
                           "Write down what is said."])  # fmt: skip
        said = note.removeprefix(_MARK)
        return Draft(((what, f"It was said: {said}"),), feature, (note,), words)
    # Something that neither tells.
    asked, missing = rng.choice(
        [("What is the speaker's phone number?", "a phone number"), ("Which song is playing?", "any song"),
         ("What is the password?", "a password"), ("How much did it cost?", "a price"),
         ("What is the address?", "an address")]
    )  # fmt: skip
    return Draft(((asked, f"Nothing was said about {missing}."),), feature, (note,), words)


def heard_only(looks: Looks, rng: random.Random) -> Draft:
    """A transcript without any picture."""
    task = context_task(rng)
    note, _, question = task.question.partition("\n\n")
    return Draft(((question, task.answer),), None, (note,))
