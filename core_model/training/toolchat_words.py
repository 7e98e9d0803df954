"""What requests for tools are about: things, scenes, styles, questions and their answers.

Lists of our own; a scene or a question is put together from them with a given random source.
"""

from __future__ import annotations

import random

from anybind.core_model.training.nano_data.english import article, articles, plural

THINGS = (
    "dog cat horse cow sheep bird duck parrot rabbit elephant zebra lion bear monkey fish turtle "
    "butterfly car truck bus bicycle motorcycle boat train airplane tractor bench chair table sofa "
    "lamp clock vase bottle cup bowl plate fork knife spoon banana apple pizza cake sandwich tree "
    "flower bush rock fence statue bridge house tower church windmill lighthouse tent umbrella "
    "suitcase backpack hat jacket shoe ball kite skateboard surfboard laptop phone camera keyboard "
    "book newspaper pillow blanket candle mirror ladder bucket hammer guitar violin piano drum man "
    "woman boy girl child baby policeman waiter cyclist surfer dancer street-lamp traffic-light "
    "fire-hydrant stop-sign mail-box teddy-bear tennis-racket coffee-cup power-line trash-can"
).split()  # fmt: skip
NEW_THINGS = (
    "tiger wolf fox panda penguin owl swan goat donkey camel giraffe kangaroo dragon robot snowman "
    "scooter van helicopter rocket canoe armchair stool bookcase fountain cactus palm pumpkin "
    "watermelon pineapple lemon teapot lantern globe trumpet harp cello telescope castle pyramid"
).split()
PEOPLE_HERE = frozenset(
    "man woman boy girl child baby policeman waiter cyclist surfer dancer".split()
)
ANIMALS_HERE = frozenset(
    """dog cat horse cow sheep bird duck parrot rabbit elephant zebra lion bear monkey fish turtle
    butterfly""".split()
)
ADJECTIVES = "red blue green yellow white black brown grey small big old new".split()
OF_ANIMALS = "small big black white brown grey old young".split()
OF_PEOPLE = "tall old young smiling sitting standing".split()
PLACES_IN_PICTURE = (
    "on the left", "on the right", "in the middle", "in the background", "in the foreground",
    "next to the door", "by the window", "near the road", "at the back", "in the corner",
)  # fmt: skip
SUBJECTS = (
    "cat puppy pony dragon owl fox hedgehog penguin robot knight princess wizard pirate astronaut "
    "sailor gardener baker fisherman violinist ballerina castle cottage lighthouse windmill temple "
    "market harbour village airship steamboat train tram bicycle balloon submarine spaceship "
    "garden meadow forest waterfall volcano island desert glacier teapot clockwork bird library "
    "kitchen workshop orchard pumpkin mushroom whale octopus tiger elephant unicorn snowman"
).split()
MOODS = (
    "tiny huge old friendly sleepy golden silver glowing mysterious cheerful lonely snowy colourful "
    "rusty wooden purple blue crimson emerald smiling".split()
)
SETTINGS = (
    "under a starry sky", "in the snow", "by the sea", "on a mountain top", "in a green valley",
    "in the rain", "at sunset", "in a foggy forest", "on the moon", "in a busy street",
    "inside a glass bottle", "on a quiet lake", "in a flower garden", "at night", "in the desert",
    "in front of a red curtain", "among tall trees", "on a wooden table", "in the morning light",
    "behind an old wall", "above the clouds", "under water", "in autumn", "at a railway station",
)  # fmt: skip
DOINGS = (
    "reading a book", "holding a lantern", "with a red scarf", "wearing a tall hat",
    "playing the flute", "eating an apple", "looking at the stars", "riding a bicycle",
    "drinking tea", "with a big umbrella", "carrying a basket", "painting a picture",
)  # fmt: skip
ALIVE = frozenset(
    """cat puppy pony dragon owl fox hedgehog penguin robot knight princess wizard pirate astronaut
    sailor gardener baker fisherman violinist ballerina octopus tiger elephant unicorn snowman""".split()
)
PEOPLE = (
    "knight princess wizard pirate astronaut sailor gardener baker fisherman violinist ballerina "
    "footballer skater boxer nurse chef farmer dancer soldier clown statue superhero robot monk"
).split()
STYLES = (
    "as a watercolour", "in the style of a woodcut", "as an oil painting", "in pastel colours",
    "as a comic", "in black and white", "as a paper collage", "as a mosaic",
)  # fmt: skip
CHANGES = (
    "make it look like an oil painting", "turn it into a watercolour", "make it winter",
    "make it night-time", "turn day into evening", "make it look like a cartoon",
    "give it the colours of autumn", "make everything look like clay", "add some fog",
    "make it rain", "cover the ground with snow", "make it look like an old photograph",
    "turn it into a pencil drawing", "make the sky purple", "give the scene a golden light",
    "make it look like stained glass", "let it look as if it were under water",
    "make it look like a comic from the fifties", "turn the grass blue", "make it spring",
    "give it a gloomy mood", "make it look like a poster", "set the trees on fire with colour",
    "make it look like a mosaic", "turn it into a scene from a fairy tale", "make it stormy",
)  # fmt: skip
COLOURS = "red blue green yellow white black brown grey orange pink".split()
NUMBERS = "two three four five six seven".split()
MATERIALS = "wood metal stone glass plastic leather paper cloth".split()


def spoken(word: str) -> str:
    """A listed word as it is written: hyphens join the words of one name in the lists above."""
    return word.replace("-", " ")


def thing(rng: random.Random, *, qualified: bool) -> str:
    """A thing in a picture, perhaps with a colour or a place: "red car", "man on the left"."""
    name = spoken(rng.choice(THINGS))
    if not qualified or rng.random() < 0.6:
        return name
    if rng.random() < 0.6:
        fitting = (
            OF_PEOPLE if name in PEOPLE_HERE else OF_ANIMALS if name in ANIMALS_HERE else ADJECTIVES
        )
        return f"{rng.choice(fitting)} {name}"
    return f"{name} {rng.choice(PLACES_IN_PICTURE)}"


def new_thing(rng: random.Random) -> str:
    """A thing to put into a picture; countable, in the singular."""
    name = spoken(rng.choice(NEW_THINGS))
    return f"{rng.choice(ADJECTIVES)} {name}" if rng.random() < 0.3 else name


def scene(rng: random.Random, *, person: bool = False) -> str:
    """What a picture to be made shows: "a sleepy fox reading a book under a starry sky"."""
    subject = rng.choice(PEOPLE if person else SUBJECTS)
    words = [f"{rng.choice(MOODS)} {subject}" if rng.random() < 0.6 else subject]
    if (person or subject in ALIVE) and rng.random() < 0.4:
        words.append(rng.choice(DOINGS))
    if len(words) == 1 or rng.random() < 0.6:
        words.append(rng.choice(SETTINGS))
    if rng.random() < 0.2:
        words.append(rng.choice(STYLES))
    return articles(f"a {' '.join(words)}")


def question(rng: random.Random) -> tuple[str, str]:
    """A question about a picture, and what a look at it could answer."""
    name, other = spoken(rng.choice(THINGS[:70])), spoken(rng.choice(THINGS[:70]))
    colour, number = rng.choice(COLOURS), rng.choice(NUMBERS)
    said = rng.choice(
        [
            (f"What colour is the {name}?", f"The {name} is {colour}."),
            (f"Is the {name} {colour}?", f"No, the {name} is {rng.choice(COLOURS[:5])}."
             if colour not in COLOURS[:5] else f"Yes, the {name} is {colour}."),
            (f"How many {plural(name)} are there?", f"There are {number} {plural(name)}."),
            (f"Is there {article(name)}?", rng.choice(
                [f"Yes, there is {article(name)}.", f"No, there is no {name}."])),
            (f"Can you see {article(name)} anywhere?", rng.choice(
                [f"Yes, there is {article(name)}.", f"No, I see no {name}."])),
            (f"What stands next to the {name}?", f"Next to the {name} is {article(other)}."),
            (f"What is behind the {name}?", f"Behind the {name} there is {article(other)}."),
            (f"What is the {name} made of?", f"The {name} is made of {rng.choice(MATERIALS)}."),
            (f"Which is bigger, the {name} or the {other}?" if name != other
             else f"How big is the {name}?", f"The {name} is the bigger one."
             if name != other else f"The {name} is quite small."),
            ("What is the weather like?", f"It is {rng.choice(['sunny', 'cloudy', 'rainy', 'foggy'])}."),
            ("Was it taken indoors or outdoors?", rng.choice(["Outdoors.", "Indoors."])),
            ("How many people are there?", f"There are {number} people."),
            ("What is the man doing?", rng.choice(
                ["He is reading.", "He is riding a bicycle.", "He is talking on the phone."])),
            ("What time of day is it?", rng.choice(["It is evening.", "It is around noon."])),
        ]
    )  # fmt: skip
    return said


def description(rng: random.Random) -> str:
    """What a description of a photograph may say."""
    name, other = thing(rng, qualified=False), thing(rng, qualified=False)
    return rng.choice(
        [
            f"The picture shows {article(name)}.",
            f"This is {article(name)}.",
            f"{article(name).capitalize()} next to {article(other)}.",
            f"The photo shows {article(name)} {rng.choice(SETTINGS)}.",
            f"The picture shows {article(name)} and {article(other)}.",
        ]
    )
