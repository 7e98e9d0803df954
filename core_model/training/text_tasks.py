"""Plain text tasks that keep the decoder's language alive while a condition is injected.

Two kinds: questions about a given context (a transcript or another note) with the answer known
from the template, and general requests answered by the frozen decoder itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_NAMES = (
    "Misty Rex Luna Oscar Bella Max Ruby Toby Coco Milo Nina Tiger Daisy Felix Molly Sam".split()
)
_PEOPLE = "Anna Peter Maria John Lucy Tom Sarah David Emma Paul Julia Mark Helen George".split()
_KIN = "grandmother uncle sister neighbour teacher brother aunt friend daughter cousin".split()
_THINGS = (
    "cat dog horse bird car boat guitar bicycle camera clock cup book lamp hat bag violin tree house"
).split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_PLACES = "London|Paris|the park|the station|the market|Berlin|the school|the harbour|Rome".split(
    "|"
)
_COLOURS = "red blue green yellow black white brown grey".split()
_FOODS = "warm milk|fresh fish|apples|bread|carrots|soup|cheese|rice|berries".split("|")
_NUMBERS = "two three four five six seven eight nine ten twelve twenty".split()


@dataclass(frozen=True)
class TextTask:
    """A request, its answer, and what a picture that comes with it may show ("" for anything)."""

    question: str
    answer: str
    thing: str = ""


def context_task(rng: random.Random) -> TextTask:
    """A spoken sentence and a question about it."""
    name, other, kin = rng.choice(_NAMES), rng.choice(_PEOPLE), rng.choice(_KIN)
    thing, day, place = rng.choice(_THINGS), rng.choice(_DAYS), rng.choice(_PLACES)
    colour, food, number = rng.choice(_COLOURS), rng.choice(_FOODS), rng.choice(_NUMBERS)
    said, question, answer = rng.choice(
        [
            (f"My {kin} named this {thing} {name} and it likes {food}.",
             f"What is the name of the {thing}?", f"The {thing} is called {name}."),
            (f"My {kin} named this {thing} {name} and it likes {food}.",
             "Who chose the name?", f"The {kin} chose the name {name}."),
            (f"This is {name}, the {thing} of my {kin}. It loves {food}.",
             f"What does {name} like?", f"{name} likes {food}."),
            (f"This is {name}, the {thing} of my {kin}. It loves {food}.",
             f"Whose {thing} is it?", f"It is the {thing} of the {kin}."),
            (f"Please meet {other} at {place} on {day}.",
             "When is the meeting?", f"The meeting is on {day}."),
            (f"Please meet {other} at {place} on {day}.",
             "Where should they meet?", f"They should meet at {place}."),
            (f"I bought a {colour} {thing} for my {kin} in {place}.",
             f"What colour is the {thing}?", f"The {thing} is {colour}."),
            (f"I bought a {colour} {thing} for my {kin} in {place}.",
             "Who is it for?", f"It is for the {kin}."),
            (f"There are {number} people waiting at {place} since {day}.",
             "How many people are waiting?", f"There are {number} people waiting."),
            (f"{other} lost the {colour} {thing} near {place} last {day}.",
             f"Who lost the {thing}?", f"{other} lost the {thing}."),
            (f"{other} lost the {colour} {thing} near {place} last {day}.",
             "What was said?", f"It was said that {other} lost the {colour} {thing} near {place}."),
            (f"The {thing} is {number} years old and comes from {place}.",
             f"How old is the {thing}?", f"The {thing} is {number} years old."),
        ]
    )  # fmt: skip
    if rng.random() < 0.4:
        said = said.lower().rstrip(".")
    return TextTask(f"recognized text: {said}\n\n{question}", answer, thing)


GENERAL = (
    "Say hello.", "Who are you?", "What can you do?", "Tell me a joke.", "What is 2 plus 2?",
    "Name three colours.", "What is the capital of France?", "Write a short poem about the sea.",
    "Explain what a cat is.", "What do dogs eat?", "How do I boil an egg?", "What is music?",
    "Give me a synonym for happy.", "Translate 'good morning' into French.", "What is the sun?",
    "List three fruits.", "Why is the sky blue?", "Thank you very much!", "What day comes after Monday?",
    "Write one sentence about rain.", "How many legs does a spider have?", "What is a violin?",
    "Is water wet?", "What is the opposite of hot?", "Name an animal that can fly.",
    "Tell me about horses.", "What is a bicycle used for?", "How does a clock work?",
    "What is the largest ocean?", "Give me advice for a good night's sleep.", "What is bread made of?",
    "Describe a sunny day.", "What is a computer?", "Name two countries in Europe.",
    "What do bees make?", "How are you today?", "Correct this: she go to school.",
    "Summarise: The train was late because of snow.", "What is ten minus three?", "What is a volcano?",
)  # fmt: skip
