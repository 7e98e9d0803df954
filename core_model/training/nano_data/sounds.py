"""Sounds: what is heard, asked and answered; on real embeddings of made sounds where there are some,
else on words of sounds moved as far as the ears leave them.

The ears' embeddings lie at a cosine of about 0.73 from the words of their sound (the card of
`audio_events`); noise of up to 1.1 of their length leaves cosines between 0.67 and 1.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from anybind.core_model.training.nano_data.english import article, capital, listed
from anybind.core_model.training.nano_data.kit import Draft, styled
from anybind.core_model.training.nano_data.looks import Feature, Looks

NAMES = Path(__file__).parents[1] / "sounds.txt"
MOST = 1.1

HEAR = (
    "What do you hear?", "What can be heard?", "What is in the recording?", "Tell me what you hear.",
    "What can you hear in the recording?", "Can you hear anything?",
)  # fmt: skip
SOUND = (
    "What is this sound?", "What makes this sound?", "Describe the sound.", "What sound is this?",
    "Which instrument or thing makes this sound?", "What is the source of this sound?",
    "Identify the sound.", "Where does this noise come from?", "What could this noise be?",
)  # fmt: skip
WORD = (
    "What do you hear? One word.",
    "Name the sound in one word.",
    "Answer briefly: what is it that sounds?",
)
# What is heard is spoken of like this where "a" and the bare name do not do.
_SAID = {
    "speech": "someone speaking", "person speaking": "someone speaking", "singing": "someone singing",
    "crying baby": "a crying baby", "dog barking": "a dog barking", "cat meowing": "a cat meowing",
    "telephone ringing": "a telephone ringing", "bird song": "a bird singing", "wind": "the wind",
    "choir": "a choir", "sea waves": "waves of the sea", "footsteps": "footsteps", "maracas": "maracas",
    "tubular bells": "tubular bells", "hand clap": "clapping", "snapping fingers": "snapping fingers",
    "wind chimes": "wind chimes", "blowing a bottle": "someone blowing a bottle", "bubbles": "bubbles",
    "pizzicato strings": "plucked strings", "bagpipes": "bagpipes", "typing": "someone typing",
    "static noise": "static noise", "silence": "nothing", "clapping": "clapping", "thunder": "thunder",
    "ambient music": "soft music", "car crash": "a car crash", "knocking": "someone knocking",
    "traffic": "traffic", "sawing wood": "someone sawing wood", "sawing": "someone sawing wood",
    "hammering": "someone hammering", "breaking glass": "breaking glass", "beeping": "a beeping tone",
}  # fmt: skip
_INSTRUMENTS = frozenset(
    """violin viola cello double-bass acoustic-guitar electric-guitar bass-guitar banjo sitar harp piano
    electric-piano harpsichord church-organ accordion harmonica trumpet trombone tuba french-horn
    saxophone oboe bassoon clarinet flute recorder pan-flute ocarina bagpipe timpani drum snare-drum
    bass-drum cymbal gong tambourine cowbell triangle xylophone marimba vibraphone glockenspiel
    music-box tubular-bells steel-drum wood-block maracas synthesizer organ koto shamisen kalimba
    celesta dulcimer piccolo tom-drum taiko-drum hi-hat bongo-drum tabla""".split()
)
_ANIMALS = {
    "bird": "bird", "bird song": "bird", "dog barking": "dog", "cat meowing": "cat", "cow": "cow",
    "sheep": "sheep", "rooster": "rooster", "horse": "horse", "frog": "frog", "cricket": "cricket",
    "insect": "insect", "dog": "dog", "cat": "cat", "owl": "owl", "crow": "crow", "bee": "bee",
    "chicken": "chicken", "duck": "duck", "pig": "pig", "lion": "lion", "wolf": "wolf",
}  # fmt: skip


@cache
def listed_sounds() -> tuple[str, ...]:
    """The sounds that nano knows by name."""
    return tuple(s for s in NAMES.read_text(encoding="utf-8").splitlines() if s)


def is_instrument(label: str) -> bool:
    """Whether someone plays it."""
    return label.replace(" ", "-") in _INSTRUMENTS


def spoken(label: str) -> str:
    """How to say what is heard: "a violin", "someone singing"."""
    return _SAID.get(label) or article(label)


def words(label: str) -> tuple[str, ...]:
    """What the ears were taught to give for it."""
    return (label, f"the sound of {label}", f"the sound of {article(label)}", spoken(label))


def all_words() -> list[str]:
    """Every text that a bank must hold."""
    return [w for label in listed_sounds() for w in words(label)]


def sound(looks: Looks, rng: random.Random) -> Draft:
    """A sound described or asked about."""
    label, feature = _heard(looks, rng)
    roll = rng.random()
    said = spoken(label)
    asked, answer = rng.choice(SOUND), f"This is the sound of {said}."
    if roll < 0.3:
        asked, answer = rng.choice(HEAR), f"I hear {said}."
    elif roll < 0.42 and is_instrument(label):
        asked, answer = rng.choice(
            [("Which instrument is playing?", f"It is {said}."), ("What instrument do you hear?", f"I hear {said}."),
             ("Is that an instrument or an animal?", f"It is an instrument: {said}.")]
        )  # fmt: skip
    elif roll < 0.42 and label in _ANIMALS:
        animal = article(_ANIMALS[label])
        asked, answer = rng.choice(
            [("Which animal makes this sound?", f"This is the sound of {animal}."),
             ("What animal do you hear?", f"I hear {animal}."),
             ("Is that an instrument or an animal?", f"It is an animal: {animal}.")]
        )  # fmt: skip
    elif roll < 0.5:
        asked, answer = rng.choice(WORD), f"{capital(label)}."
    elif roll < 0.75:
        asked, answer = _exists(label, rng)
    elif roll < 0.85:
        options = [spoken(label), *(spoken(o) for o in _others(label, rng, 2))]
        rng.shuffle(options)
        asked, answer = f"Do you hear {listed(options, 'or')}?", f"I hear {said}."
    elif roll < 0.92:
        asked = rng.choice(["Where was this recorded?", "How loud was it really?", "Who is making this sound?",
                            "When was it recorded?", "Which song is this?"])  # fmt: skip
        answer = rng.choice(
            [
                f"I can't tell that from the sound. I hear {said}.",
                "I can't tell that from the sound.",
            ]
        )
    return Draft(((styled(asked, rng), answer),), feature, words=label)


def _exists(label: str, rng: random.Random) -> tuple[str, str]:
    yes = rng.random() < 0.5
    other = label if yes else _others(label, rng, 1)[0]
    asked = rng.choice(
        [
            "Do you hear {}?",
            "Can {} be heard?",
            "Is this the sound of {}?",
            "Is there {} in the recording?",
        ]
    )
    asked = asked.format(spoken(other))
    short = rng.random() < 0.3
    if short:
        return f"{asked} Yes or no?", "Yes." if yes else "No."
    return asked, f"Yes, I hear {spoken(label)}." if yes else f"No, I hear {spoken(label)}."


def _others(label: str, rng: random.Random, count: int) -> list[str]:
    """Other sounds, not another word for this one."""
    same = set(label.split())
    pool = [
        s
        for s in listed_sounds()
        if not same & set(s.split()) and _ANIMALS.get(s) != _ANIMALS.get(label, "-")
    ]
    speakers = {"speech", "person speaking", "singing", "choir", "laughter"}
    if label in speakers:
        pool = [s for s in pool if s not in speakers]
    return rng.sample(pool, count)


def _heard(looks: Looks, rng: random.Random) -> tuple[str, Feature]:
    rows = looks.sounds.by_what.get("sound", [])
    if rows and rng.random() < 0.4:
        row = rng.choice(rows)
        return row.things[0], looks.sounds.features[row.number]
    label = rng.choice(listed_sounds())
    return label, looks.word(rng.choice(words(label)), rng, most=MOST, forms=1)
