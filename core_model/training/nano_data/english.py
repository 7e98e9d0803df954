"""Small English: articles, plurals, lists, numbers, capitals. For names of things; no parser."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# Heads of names that are not counted, or are plural already.
_UNCOUNTED = frozenset(
    """broccoli guacamole consomme corn hay dough velvet wool denim water rice bread sand snow grass
    rain thunder wind applause music speech laughter fire coral cheese meat butter milk furniture
    clothing jewelry jewellery spaghetti tissue honey wine coffee tea sugar salt popcorn beer juice
    chocolate garlic sushi tofu bacon beef pork ham tempura sauce soup curry ice fog smoke lightning
    lettuce celery spinach cabbage asparagus ginger mistletoe ivy wheat barley flour paper money
    cash gold silver copper cotton silk lace leather luggage equipment machinery weather sunshine
    traffic hair mail software champagne whiskey vodka lemonade porridge toast pasta
    makeup powder mascara lipstick sunscreen perfume soap shampoo toothpaste karate judo tennis
    food ground scenery underwear football soccer basketball volleyball baseball golf badminton rugby hockey cricket""".split()
)
_PLURAL = frozenset(
    """binoculars sunglasses glasses goggles scissors trousers jeans maracas shorts pants trunks chips
    tights pliers tweezers tongs overalls pyjamas pajamas leggings bongos cymbals headphones
    earphones castanets fries clothes stairs shears clippers swimming-trunks knickers
    dumplings noodles beans grapes cherries chopsticks crackers pancakes""".split()
)
_NOT_PLURAL = re.compile(
    r"(ss|us|is|as|os|bus|lens|gas|chess|canvas|compass|abacus|mantis|species|series)$"
)
_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth", "man": "men",
    "woman": "women", "child": "children", "person": "people", "ox": "oxen", "sheep": "sheep",
    "deer": "deer", "fish": "fish", "aircraft": "aircraft", "knife": "knives", "wolf": "wolves",
    "leaf": "leaves", "loaf": "loaves", "shelf": "shelves", "calf": "calves", "half": "halves",
    "scarf": "scarves", "thief": "thieves", "wife": "wives", "potato": "potatoes",
    "tomato": "tomatoes", "mango": "mangoes", "volcano": "volcanoes", "buffalo": "buffaloes",
    "bison": "bison", "salmon": "salmon", "squid": "squid", "octopus": "octopuses",
    "cactus": "cactuses", "shrimp": "shrimps", "hero": "heroes", "elf": "elves",
    "dice": "dice", "moose": "moose", "swine": "swine", "spacecraft": "spacecraft",
}  # fmt: skip
_VOWEL = re.compile(
    r"(?!(?:uni|use|usu|usb|uku|eu|one\b|once\b|ut[ei]))[aeiou]|(?:hour|honest|heir)", re.I
)


def head(name: str) -> str:
    """The word that a name is inflected at: "bow of a ship" -> "bow"."""
    front = re.split(r" (?:of|with|in|on|for|at|from|without) ", name, maxsplit=1)[0]
    words = front.split()
    return words[-1].lower() if words else ""


def is_plural(name: str) -> bool:
    """Whether a name is plural as it stands ("scissors")."""
    word = head(name)
    if word in _PLURAL:
        return True
    return bool(
        len(word) > 3 and word.endswith("s") and not _NOT_PLURAL.search(word) and word != "news"
    )


def is_counted(name: str) -> bool:
    """Whether "a" and a number may stand before it."""
    return head(name) not in _UNCOUNTED and not is_plural(name)


def article(name: str) -> str:
    """A name with "a" or "an" where it takes one."""
    if not is_counted(name):
        return name
    return f"{'an' if _VOWEL.match(name) else 'a'} {name}"


def plural(name: str) -> str:
    """More than one of it."""
    if is_plural(name) or head(name) in _UNCOUNTED:
        return name
    parts = re.split(r"( (?:of|with|in|on|for|at|from|without) )", name, maxsplit=1)
    words = parts[0].split(" ")
    words[-1] = _inflected(words[-1])
    return " ".join(words) + "".join(parts[1:])


def _inflected(word: str) -> str:
    low = word.lower()
    if low in _IRREGULAR:
        return _IRREGULAR[low]
    if low.endswith(("man",)) and low not in ("human", "german", "caiman", "talisman", "shaman"):
        return word[:-2] + "en"
    if low.endswith("fish"):
        return word
    if re.search(r"(s|x|z|ch|sh)$", low):
        return word + "es"
    if re.search(r"[^aeiou]y$", low):
        return word[:-1] + "ies"
    return word + "s"


def listed(items: Sequence[str], last: str = "and") -> str:
    """ "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def counted(number: int, name: str) -> str:
    """ "three dogs"."""
    return f"{NUMBERS[number]} {name if number == 1 else plural(name)}"


def capital(text: str) -> str:
    """With a capital first letter, unless a file name stands there."""
    first = text.split(" ", 1)[0]
    if "/" in first or re.search(r"\.\w{2,4}\b", first):
        return text
    return text[:1].upper() + text[1:]


def articles(text: str) -> str:
    """A text in which every "a" before a vowel became "an" and back."""
    text = re.sub(r"\b([Aa])n? (?=(\w+))", lambda m: f"{m[1]} ", text)
    return re.sub(
        r"\b([Aa]) (?=(\w+))", lambda m: f"{m[1]}n " if _VOWEL.match(m[2]) else m[0], text
    )


def sentences(text: str) -> str:
    """A text in which every sentence begins with a capital."""
    parts = re.split(r"((?<=[\w)'\"][.?!]) )", capital(text))
    return "".join(capital(p) for p in parts)
