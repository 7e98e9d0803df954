"""Captions and names: what is in the picture, in many ways to ask and a fixed way to answer each.

The way a question is put decides the form of its answer, so that there is something to learn; the
answers to "what is it" name the common word first (see `world.phrase`).
"""

from __future__ import annotations

import random
import re

from anybind.core_model.training.nano_data.english import article, capital
from anybind.core_model.training.nano_data.kit import Draft, Turn, styled
from anybind.core_model.training.nano_data.looks import Looks
from anybind.core_model.training.nano_data.world import Thing, called, phrase, words_of

PICTURE = (
    "What is in the picture?", "What is in this picture?", "What does the picture show?",
    "Describe the picture.", "Describe this picture.", "Tell me what is in the picture.",
    "What can you see in the picture?", "What is the main object in the picture?",
    "What is pictured here?", "Describe the picture in one sentence.",
    "Look at the picture. What is in it?", "Generate caption of this image",
    "Describe what you see in the picture.", "What is the subject of this picture?",
    "Say in one sentence what the picture shows.", "Describe this image.",
    "What is in the image?", "What is shown in this image?", "What can be seen in the image?",
)  # fmt: skip
PHOTO = (
    "What does the photo show?", "What is in this photo?", "Tell me what is in the photo.",
    "What is in the photo?", "Describe this photo.", "What did I photograph?",
)  # fmt: skip
THIS = (
    "What is this?", "What is it?", "What am I looking at?", "Do you know what this is?",
    "Can you tell me what this is?", "What would you call this?", "Name the thing in the picture.",
    "Identify the object.", "Look at the image. What is it?", "What kind of thing is in the picture?",
    "Name the object in the photo.", "Which animal or thing is this?",
)  # fmt: skip
SEE = ("What do you see?", "Tell me what you see.", "What can you see?", "Can you see anything?")
CAPTION = (
    "Write a caption for this picture.", "Give this photo a short title.", "Suggest alt text for the image.",
    "A caption, please.", "Caption this.",
)  # fmt: skip
WORD = (
    "What is this? One word.", "Name it in one word.", "In one word: what is in the picture?",
    "Answer briefly: what is shown?", "Just the name of the thing, please.", "Short answer: what is it?",
)  # fmt: skip
OF_KIND = {
    "animal": ("What animal is this?", "Which animal is in the picture?", "What animal do you see?",
               "Can you name the animal?"),
    "plant": ("What plant is this?", "Which plant do you see?"),
    "food": ("What food is this?", "What is there to eat or drink?", "Which food is in the picture?"),
    "vehicle": ("What vehicle is this?", "Which vehicle do you see?", "What is it that one can ride in?"),
    "building": ("What building is this?", "What kind of building do you see?"),
    "musical instrument": ("Which instrument is this?", "What musical instrument do you see?"),
    "piece of clothing": ("What piece of clothing is this?", "What could one wear here?"),
}  # fmt: skip
LONG = (
    "Describe the picture in detail.", "Tell me more about what is in the picture.",
    "Describe the object and say something about it.", "What is it, and what do you know about it?",
    "Explain what is in the picture.",
)  # fmt: skip
CHINESE = (
    ("图片里是什么？", "图片里是{}。"), ("这是什么？", "这是{}。"), ("你看到了什么？", "我看到了{}。"),
    ("请描述这张图片。", "图片里是{}。"), ("照片上有什么？", "照片上有{}。"), ("用一个词回答：这是什么？", "{}。"),
)  # fmt: skip


def name_turn(thing: Thing, rng: random.Random) -> Turn:
    """A question after what is seen, and the answer."""
    said = phrase(thing)
    roll = rng.random()
    if roll < 0.36:
        return rng.choice(PICTURE), f"The picture shows {said}."
    if roll < 0.48:
        return rng.choice(PHOTO), f"The photo shows {said}."
    if roll < 0.68:
        return rng.choice(THIS), f"This is {said}."
    if roll < 0.76:
        return rng.choice(SEE), f"I see {said}."
    if roll < 0.82:
        return rng.choice(CAPTION), f"{capital(article(thing.name))}."
    if roll < 0.90:
        return rng.choice(WORD), f"{capital(called(thing))}."
    kinds = [k for k in (*thing.kinds, thing.group) if k in OF_KIND]
    if kinds:
        return rng.choice(OF_KIND[kinds[0]]), f"This is {said}."
    return rng.choice(PICTURE), f"The picture shows {said}."


def caption(looks: Looks, rng: random.Random) -> Draft:
    """One thing named."""
    thing = looks.thing(rng)
    asked, answer = name_turn(thing, rng)
    return Draft(((styled(asked, rng), answer),), looks.look(thing, rng), words=words_of(thing))


def detail(looks: Looks, rng: random.Random) -> Draft:
    """One thing named, and what WordNet says of it."""
    while True:
        thing = looks.thing(rng)
        about = definition(thing)
        if about:
            break
    answer = f"The picture shows {phrase(thing)}. {about}"
    return Draft(
        ((styled(rng.choice(LONG), rng), answer),), looks.look(thing, rng), words=words_of(thing)
    )


def chinese(looks: Looks, rng: random.Random) -> Draft:
    """One thing named in Chinese, by the names that Unicode's emoji have."""
    pool = [t for t in (looks.drawn or looks.words) if t.zh]
    if not pool:
        return caption(looks, rng)
    thing = rng.choice(pool)
    asked, answer = rng.choice(CHINESE)
    return Draft(((asked, answer.format(thing.zh)),), looks.look(thing, rng), words=words_of(thing))


def definition(thing: Thing) -> str:
    """WordNet's gloss as a sentence: "A harp is a chordophone that has ..."; "" if it makes none."""
    gloss = re.split(r"[;(:]| -- ", thing.gloss)[0].strip(" ,")
    words = gloss.split()
    if not 3 <= len(words) <= 18 or not gloss.isascii() or gloss[0].isupper():
        return ""
    named = article(thing.name)
    if named == thing.name:  # plural or not counted: its gloss is worded for one
        return ""
    if re.match(r"(a|an|any|the|one|someone|something)\b", gloss):
        return f"{capital(named)} is {gloss}."
    # "large pouched marsupial": a noun phrase that wants an article; verbs and adjectives do not fit.
    if re.match(r"(small|large|long|short|tall|big|heavy|light|young|wild|domestic|common|flat|thin|"
                r"soft|hard|round|sharp|tropical|American|European|male|female|hand|musical)\b", gloss):  # fmt: skip
        return f"{capital(named)} is {article(gloss)}."
    return ""
