"""What people say to an assistant with tools when no tool is wanted, and what it answers.

Small talk, sums and facts of our own; what needs the situation (listed tools, sent files) is made
from it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from anybind.core_model.training.nano_data.english import listed

_SAID = (
    ("Hello!", "Hello! What can I do for you?"),
    ("Good morning.", "Good morning! How can I help?"),
    ("Hi there", "Hi! Send me a picture or ask me something."),
    ("Thanks a lot!", "You are welcome."),
    ("Great, that is what I wanted.", "I am glad to hear that."),
    ("That will be all for today.", "All right. Have a nice day!"),
    ("Goodbye", "Goodbye!"),
    ("Are you a human?", "No, I am a computer program that answers and uses tools."),
    ("Can you hear me?", "I read what you write; there is no sound here."),
    ("How do you feel?", "I have no feelings, but I am ready to help."),
    ("Never mind.", "All right, nothing was done."),
    ("Wait a second, I have to look for the file.", "Take your time."),
    ("Is it fine to send several pictures?", "Yes, send as many as you like and say which one you mean."),
    ("What is a canny edge?", "It is a thin line where the brightness of a picture changes sharply, found by Canny's method."),
    ("What does segmentation mean?", "It means dividing a picture into regions that belong together."),
    ("Which is better, PNG or JPEG?", "PNG keeps every pixel; JPEG makes smaller files of photographs."),
    ("Why are my photos blurred?", "Mostly because the camera moved or the focus was wrong."),
    ("How many pixels has a picture of 100 by 200?", "It has 20000 pixels."),
    ("Should I brush my teeth twice a day?", "Yes, twice a day is what dentists recommend."),
    ("Say something nice.", "It is good that you are here."),
    ("Tell me a fact about whales.", "Whales are mammals: they breathe air and feed their calves with milk."),
    ("Why do leaves turn red in autumn?", "The green of the leaves breaks down, and other colours show."),
    ("What should I cook tonight?", "How about a vegetable soup with fresh bread?"),
    ("Give me a name for a black kitten.", "You could call it Midnight."),
    ("What is the plural of mouse?", "The plural of mouse is mice."),
    ("Please write me a line for a birthday card.", "Happy birthday, and may the year be kind to you!"),
)  # fmt: skip
_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Norway": "Oslo",
    "Egypt": "Cairo", "Peru": "Lima", "Canada": "Ottawa", "Austria": "Vienna", "Kenya": "Nairobi",
    "Greece": "Athens", "Poland": "Warsaw", "Cuba": "Havana", "India": "New Delhi",
}  # fmt: skip
_OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "early": "late", "full": "empty", "old": "young",
    "open": "closed", "dark": "light", "wet": "dry", "loud": "quiet", "rich": "poor",
}  # fmt: skip
_WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def talk(rng: random.Random, tools: Sequence[str], files: Sequence[str]) -> tuple[str, str]:
    """A request that needs no tool, and its answer.

    Args:
        rng: Source of randomness.
        tools: Names of the tools that the prompt lists.
        files: Pictures that were sent.
    """
    roll = rng.random()
    if roll < 0.45:
        return rng.choice(_SAID)
    if roll < 0.60:
        a, b = rng.randint(2, 60), rng.randint(2, 40)
        if rng.random() < 0.5:
            asked, result = f"{a} plus {b}", a + b
        else:
            a, b = max(a, b), min(a, b)
            asked, result = f"{a} minus {b}", a - b
        question = rng.choice(["What is {}?", "How much is {}?", "Work out {} for me."])
        return question.format(asked), f"{asked} is {result}."
    if roll < 0.70:
        country, city = rng.choice(list(_CAPITALS.items()))
        question = rng.choice(["What is the capital of {}?", "Which city is the capital of {}?"])
        return question.format(country), f"The capital of {country} is {city}."
    if roll < 0.78:
        word, other = rng.choice(list(_OPPOSITES.items()))
        return f"What is the opposite of {word}?", f"The opposite of {word} is {other}."
    if roll < 0.84:
        at = rng.randrange(7)
        return (
            f"Which day comes after {_WEEK[at]}?",
            f"After {_WEEK[at]} comes {_WEEK[(at + 1) % 7]}.",
        )
    if roll < 0.92:
        question = rng.choice(["What can you do?", "Which tools do you have?", "List your tools."])
        return question, f"I can use these tools: {listed(tools)}."
    question = rng.choice(["What pictures did I send?", "Which files do you have from me?"])
    if not files:
        return question, "You have not sent any picture yet."
    return question, f"You sent {listed(files)}."
