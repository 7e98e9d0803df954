"""What a person asks about a picture or a sound, and what a good answer says.

Templates of our own. An answer names the basic word first and the precise one second ("a dog,
probably a beagle"); one without a basic word above it is just named.
"""

from __future__ import annotations

import random
import re

SEE_QUESTIONS = (
    "What is in the picture?",
    "What is in this picture?",
    "What is this?",
    "What do you see?",
    "What can you see in the image?",
    "Describe the picture.",
    "Describe this image.",
    "What does the photo show?",
    "What is shown here?",
    "What is the main object in the picture?",
    "Name the object in the photo.",
    "Generate caption of this image",
    "Tell me what is in the photo.",
    "Which animal or thing is this?",
    "Look at the image. What is it?",
    "What am I looking at?",
)
ANIMAL_QUESTIONS = (
    "What animal is this?",
    "Which animal is in the photo?",
    "What animal do you see?",
)
HEAR_QUESTIONS = (
    "What do you hear?",
    "What is this sound?",
    "What makes this sound?",
    "Describe the sound.",
    "What can be heard in the recording?",
    "Which instrument or thing makes this sound?",
)
_SEE_ANSWERS = ("The picture shows {}.", "This is {}.", "I see {}.", "The photo shows {}.")
_HEAR_ANSWERS = ("I hear {}.", "This is the sound of {}.")

# Names that take no "a": mass nouns and plurals among the ImageNet names and common words.
_NO_ARTICLE = re.compile(
    r"(broccoli|guacamole|consomme|trifle|ice cream|corn|hay|carbonara|dough|velvet|wool|jean|"
    r"binoculars|sunglasses|scissors|trousers|jeans|maracas|water|rice|bread|sand|snow|grass|"
    r"rain|thunder|wind|applause|music|speech|laughter|fire|coral|cheese|meat|butter|milk|"
    r"furniture|clothing|jewelry|spaghetti|toilet tissue|bubble|honey|wine|coffee|tea|sugar)$"
)


def article(name: str) -> str:
    """A name with "a" or "an" where it takes one."""
    if _NO_ARTICLE.search(name) or name.endswith(("shorts", "pants", "trunks", "chips", "tights")):
        return name
    first = name.lower()
    an = first[0] in "aeiou" and not re.match(r"(uni|use|uku|eu|one)", first)
    return f"{'an' if an else 'a'} {name}"


def phrase(name: str, basic: str, *, sure: bool = True) -> str:
    """How to speak of a concept: "a dog, probably a beagle"."""
    if not basic or basic == name or basic in name.split() or name.endswith(basic):
        return article(name)
    if not sure:
        return article(basic)
    return f"{article(basic)}, probably {article(name)}"


def see(
    name: str, basic: str, rng: random.Random, *, animal: bool, sure: bool = True
) -> tuple[str, str]:
    """A question about a picture of a concept and its answer."""
    questions = (*SEE_QUESTIONS, *ANIMAL_QUESTIONS) if animal else SEE_QUESTIONS
    question = rng.choice(questions)
    if question.startswith("Describe") or "picture" in question or "caption" in question:
        answer = _SEE_ANSWERS[0]
    else:
        answer = rng.choice(_SEE_ANSWERS)
    return question, answer.format(phrase(name, basic, sure=sure))


def hear(name: str, rng: random.Random) -> tuple[str, str]:
    """A question about a sound and its answer."""
    return rng.choice(HEAR_QUESTIONS), rng.choice(_HEAR_ANSWERS).format(article(name))
