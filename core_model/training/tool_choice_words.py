"""What fills the slots of the chooser's training requests. Lists of our own."""

from __future__ import annotations

import random

from anybind.core_model.training import toolchat_words as words
from anybind.core_model.training.nano_data.english import plural

MORE_THINGS = (
    "sign crane pole cable shadow reflection stain logo watermark date scooter pigeon squirrel goat "
    "stranger tourist crowd photobomber passer-by jogger bride groom player goalkeeper grandfather "
    "queen soldier face hand nose eye tooth beard tail wheel window door roof chimney wall path "
    "cloud sky sun moon river lake hill mountain beach sand grass snow leaf rose tulip bouquet "
    "basket barrel bag coin key pen pencil ruler scissors watch ring necklace scarf glove sock "
    "dress skirt glasses sunglasses helmet drone tram taxi ambulance yacht canoe wagon wheelchair "
    "egg cheese bread carrot tomato burger donut ice-cream candy bottle-opener teapot kettle pan "
    "oven fridge sink toilet bathtub shower towel bin trash plastic-bag cigarette graffiti flag "
    "microphone speaker television monitor mouse remote plug socket balloon toy doll dice puzzle "
    "swan crab shark whale ladybird bee spider snail fox deer wolf pig hen puppy kitten pony"
).split()  # fmt: skip
IMAGES = (
    "it", "it", "this", "that", "the picture", "the photo", "this image", "this picture", "the image",
    "my photo", "the photograph", "this shot", "my picture", "the attached file", "the snapshot",
    "the scene", "this one", "my holiday photo", "the pic", "the upload", "my selfie",
    "image/1a2b3c4d.png", "what I sent", "the whole thing", "the painting", "the screenshot",
)  # fmt: skip
PHRASES = ("Happy birthday", "See you soon", "Thank you for coming", "I love you", "Good morning",
           "Welcome home", "Where is the station", "Best wishes", "Sold out")  # fmt: skip
TOPICS = (
    "football", "the moon", "Rome", "climate change", "chess", "electric cars", "gardening", "love",
    "volcanoes", "the stock market", "jazz", "history", "painting", "robots", "dinosaurs", "coffee",
    "photography", "the sea", "school", "space travel", "bread", "friendship", "old castles",
)  # fmt: skip
FACTS = (
    "planes fly", "magnets work", "bees make honey", "rain forms", "a camera works", "cats purr",
    "glass is made", "the sky is blue", "leaves fall", "cars run", "ships float", "we dream",
    "photosynthesis works", "vaccines work", "the heart beats", "volcanoes erupt", "paper is made",
)  # fmt: skip
LISTS = {
    "city": "Paris Rome Oslo Lisbon Cairo Vienna Tokyo Lima Boston Berlin".split(),
    "country": "France Italy Japan Norway Peru Egypt Canada Kenya Greece India".split(),
    "lang": "Spanish French German Italian Japanese Portuguese Finnish".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday tomorrow".split(),
    "word": "gratitude necessary serene azure whisper labyrinth candid mosaic".split(),
    "colour": words.COLOURS,
    "person": "man woman boy girl child baby bride waiter driver dancer".split(),
    "phrase": PHRASES,
    "topic": TOPICS,
    "fact": FACTS,
    "img": IMAGES,
}


def _thing(r: random.Random) -> str:
    if r.random() < 0.5:
        return words.thing(r, qualified=r.random() < 0.5)
    name = words.spoken(r.choice(MORE_THINGS))
    return f"{r.choice(words.ADJECTIVES)} {name}" if r.random() < 0.2 else name


def filler(slot: str, r: random.Random) -> str:
    """Words for a slot.

    Raises:
        KeyError: there is no such slot.
    """
    match slot:
        case "obj" | "old":
            return _thing(r)
        case "new":
            return words.new_thing(r) if r.random() < 0.5 else words.spoken(r.choice(MORE_THINGS))
        case "things":
            return plural(words.spoken(r.choice(words.THINGS[:70])))
        case "text":
            return words.scene(r) if r.random() < 0.6 else f"a {_thing(r)}"
        case "q":
            return words.question(r)[0]
        case "how":
            return r.choice(words.CHANGES)
        case "n":
            return str(r.randint(2, 90))
        case _:
            return r.choice(LISTS[slot])
