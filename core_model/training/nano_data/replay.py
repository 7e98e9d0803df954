"""Plain requests, answered by the frozen decoder itself: so that it keeps its language.

The answers are made once (greedy, no condition) and kept as JSON; they are what the decoder would
have said, so learning them changes nothing but holds it in place, with and without a picture.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from anybind.core_model.training.nano_data.kit import Draft
from anybind.core_model.training.nano_data.looks import Looks
from anybind.core_model.training.nano_data.naming import name_turn
from anybind.core_model.training.nano_data.world import words_of
from anybind.core_model.training.text_tasks import GENERAL
from anybind.errors import UserError

if TYPE_CHECKING:
    from anybind.core_model.llama import Llama
    from anybind.core_model.tokenizer import Tokenizer

MOST_TOKENS = 48
"""Longest answer, tokens; one that does not end by then is cut at its last whole sentence."""

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("What is {}?", "gravity|photosynthesis|a republic|democracy|an atom|a prime number|the moon|oxygen|"
     "a poem|jazz|inflation|a vitamin|an earthquake|the internet|a metaphor|electricity|a desert|"
     "the equator|a proverb|recycling"),
    ("Explain in one sentence what {} is.", "a noun|a rainbow|a bank|chess|a hurricane|an engine|"
     "a dictionary|a fossil|a satellite|yeast|a museum|a contract|friendship|a battery|the heart"),
    ("Tell me about {}.", "the Romans|whales|Mount Everest|the Sahara|coffee|the Nile|penguins|Mozart|"
     "the Great Wall of China|bamboo|the ocean|bees|winter|London|chocolate|railways"),
    ("Write one sentence about {}.", "the sea|a garden|winter|music|a journey|friends|bread|the night|"
     "school|a river|books|a market|the wind|breakfast|an old house"),
    ("Write a short poem about {}.", "autumn|a cat|the stars|hope|the rain|a train|home|a tree"),
    ("Tell me a short story about {}.", "a lost key|a brave mouse|an old sailor|a talking tree|a birthday|"
     "two brothers|a snowman|a lighthouse"),
    ("What is the capital of {}?", "Italy|Spain|Germany|Japan|Egypt|Brazil|Canada|Norway|India|Greece|"
     "Russia|China|Mexico|Portugal|Turkey"),
    ("What is the opposite of {}?", "big|fast|happy|early|rich|strong|light|full|young|open|easy|cheap"),
    ("Give me a synonym for {}.", "big|fast|sad|beautiful|smart|angry|quiet|old|begin|help"),
    ("Name three {}.", "animals|colours|vegetables|countries in Africa|planets|musical instruments|sports|"
     "tools|rivers|flowers|jobs|languages|oceans|metals|kinds of weather"),
    ("How do I {}?", "make tea|clean a window|learn a language|plant a tree|write a letter|sleep better|"
     "tie my shoes|cook rice|save money|stay healthy|bake bread|fix a flat tyre|become a better listener"),
    ("Why {}?", "do we sleep|is the sea salty|do birds fly south|do leaves fall|is exercise important|"
     "do cats purr|do we have seasons|is water important|do people laugh|does ice float"),
    ("Translate '{}' into French.", "good night|thank you|the red house|I am hungry|where is the station|"
     "my name is Anna|see you tomorrow"),
    ("Translate '{}' into Spanish.", "good morning|please|the white cat|how are you|I like music|see you soon"),
    ("Correct this sentence: {}", "He go to work every day.|They was late.|I has two dogs.|She don't know.|"
     "We is happy.|The childs play outside.|Him is my friend.|I can to swim."),
    ("Summarise: {}", "The shop was closed, so we went home without milk.|It rained all week and the river "
     "rose.|The team lost the game but played well.|She studied hard and passed her exam.|The bus broke "
     "down and everyone walked.|After the storm, the village had no power for two days."),
    ("What is {}?", "three plus four|ten minus six|five times five|twelve divided by three|nine plus eight|"
     "one hundred minus one|seven times two|half of eighty"),
    ("Give me advice on {}.", "a job interview|making friends|a first flight|moving to a new city|saving water|"
     "giving a speech|studying for an exam|choosing a book|a healthy breakfast"),
    ("What is the difference between {}?", "a lake and a sea|a frog and a toad|weather and climate|"
     "a city and a town|fruit and vegetables|a novel and a poem|tea and coffee|a crocodile and an alligator"),
    ("Finish the sentence: {}", "The old man opened the door and|If I had wings,|Every morning she|On the "
     "table there was|When the lights went out,|The best thing about summer is"),
    ("Rewrite this politely: {}", "Give me the salt.|Be quiet.|Send me the report now.|Move your car.|Open the window."),
    ("How does {} work?", "a bicycle|a compass|a telephone|a refrigerator|a microscope|a piano|a windmill|"
     "a thermometer|an elevator|a camera"),
    ("What would happen if {}?", "it never rained|everyone could fly|the sun went out|there were no clocks"),
    ("Is it true that {}?", "the earth is round|fish can breathe under water|ice is colder than steam|"
     "spiders are insects|the sun is a star|bats are blind|honey never spoils"),
    ("{}", "Good morning!|Hello there.|How are you?|What is your name?|Who made you?|Can you help me?|"
     "Are you a robot?|What are you good at?|Do you like music?|Tell me something interesting.|Good night.|"
     "I am bored.|I had a bad day.|Can we talk?|What should I eat today?|Recommend me a book.|"
     "I feel happy today.|What do you think about dogs?|Do you sleep?|Say something in German.|"
     "Tell me a riddle.|Tell me a fun fact.|Let us play a game.|What can we talk about?|Sing me a song.|"
     "Count from one to ten.|Spell the word 'elephant'.|What comes after the letter D?|"
     "How many days are in a week?|Which month comes after May?|How many hours has a day?"),
)  # fmt: skip


@cache
def prompts() -> tuple[str, ...]:
    """More than 300 plain requests."""
    made = [form.format(word) for form, words in _FAMILIES for word in words.split("|")]
    return tuple(dict.fromkeys([*GENERAL, *made]))


def answered(file: Path, answer: Callable[[str], str] | None = None) -> dict[str, str]:
    """The requests with their answers, from `file`, which is made or completed if `answer` is given.

    Args:
        file: JSON of request -> answer.
        answer: The frozen decoder: a request to its greedy answer.

    Raises:
        UserError: there is no file and nothing to make it with.
    """
    said: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    missing = [p for p in prompts() if p not in said]
    if missing and answer is None:
        if not said:
            raise UserError(f"There is no {file}: make it with --decoder.")
        return said
    for number, prompt in enumerate(missing):
        if answer is not None:
            said[prompt] = whole_sentences(answer(prompt))
        if number % 20 == 19 or number + 1 == len(missing):  # a stopped run goes on here
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
    return said


def whole_sentences(text: str) -> str:
    """A text without a sentence that was cut off at its end, and up to the first that comes twice.

    A small decoder may go round in circles under greedy decoding; that is not worth keeping.
    """
    parts = re.findall(r".+?(?:[.!?]+[\"')]*(?=\s|$)|$)\s*", text.strip(), re.DOTALL)
    kept: list[str] = []
    for part in parts:
        if part.strip() in [k.strip() for k in kept]:
            break
        kept.append(part)
    whole = [p for p in kept if p.rstrip()[-1:] in (".", "!", "?", '"', "'", ")", "`")]
    # The last one counts as cut off if it has no end while others have one.
    return "".join(kept[: len(kept) - (kept[-1] not in whole)] if whole else kept).strip()


def replay(said: dict[str, str]) -> Callable[[Looks, random.Random], Draft]:
    """The maker of the kind: a plain request, alone, under a picture, or after a look at one."""
    items = sorted((q, a) for q, a in said.items() if a)

    def make(looks: Looks, rng: random.Random) -> Draft:
        turn = rng.choice(items)
        roll = rng.random()
        if roll < 0.35:
            return Draft((turn,), None)
        thing = looks.thing(rng)
        feature, words = looks.look(thing, rng), words_of(thing)
        if roll < 0.75:
            return Draft((turn,), feature, words=words)
        first = name_turn(thing, rng)
        if roll < 0.9:
            return Draft((first, turn), feature, words=words)
        # Words that point at the picture, and words that do not, in one conversation.
        return Draft((turn, first), feature, words=words)

    return make


def by_decoder(weights: Path) -> Callable[[str], str]:
    """The frozen decoder of a GGUF file (or folder) as a function, greedy, without a condition."""
    from anybind.contracts import Build
    from anybind.core_model.checkpoints import load_with_fields
    from anybind.core_model.factory import tokenizer_of
    from anybind.core_model.prompts import chatml

    decoder, _, fields = load_with_fields(weights)
    tokenizer = tokenizer_of(Build(), weights, fields)
    return lambda text: _greedy(decoder, tokenizer, chatml([("user", text)]))


def _greedy(decoder: Llama, tokenizer: Tokenizer, prompt: str) -> str:
    """The likeliest token, again and again, up to `MOST_TOKENS`."""
    import torch

    from anybind.core_model.llama import KVCache

    ids = tokenizer.encode(prompt)
    dtype = decoder.tok_embeddings.weight.dtype
    out: list[int] = []
    with torch.inference_mode():
        cache = KVCache(decoder.config, 1, len(ids) + MOST_TOKENS, dtype=dtype)
        logits = decoder(torch.tensor([ids]), cache=cache, last_only=True)
        for _ in range(MOST_TOKENS):
            token = int(logits[0, -1].argmax())
            if token == tokenizer.eos:
                break
            out.append(token)
            logits = decoder(torch.tensor([[token]]), cache=cache, last_only=True)
    return tokenizer.decode(out)
