"""Word error rate of the speech expert on sentences of our own in synthetic voices.

A formant synthesiser is harder to understand than a person: the figure is a floor, not the quality on
real speech. Needs espeak-ng on the path.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from anybind.agent.evaluation.bench import Bench, Row
from anybind.agent.evaluation.statistics import bootstrap
from anybind.content import Audio, Waveform
from anybind.errors import UserError

SENTENCES = (
    "Please put the milk back into the fridge before you leave.",
    "The train to the city leaves at half past seven.",
    "My sister has a small black dog and two white cats.",
    "It will rain tomorrow, so take your umbrella with you.",
    "Could you tell me the way to the nearest hospital?",
    "We had fresh bread and tomato soup for dinner last night.",
    "The children are playing football in the park behind the school.",
    "He forgot his keys on the kitchen table again.",
    "This picture shows a red car in front of a tall building.",
    "I would like a cup of coffee without sugar, please.",
    "The old man walked slowly along the river with his grandson.",
    "Her new phone takes very good pictures at night.",
    "They opened the window because the room was too warm.",
    "Don't forget to call your mother on her birthday.",
    "The farmer sold six sheep and a horse at the market.",
    "There is a strange noise coming from the engine.",
    "She plays the violin in the city orchestra.",
    "The plane landed safely after a long flight over the ocean.",
    "Turn left at the church and then drive straight on.",
    "A yellow bird is singing in the tree outside my window.",
)
VOICES = (("en-us", 140), ("en-us", 170), ("en-gb", 150), ("en-us+f3", 145), ("en-gb+m3", 160),
          ("en-us+m7", 150))  # fmt: skip
"""espeak-ng voice and words a minute."""


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Least number of substituted, left out and added words that turns one into the other."""
    row = list(range(len(hypothesis) + 1))
    for i, word in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(diagonal + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def say(text: str, voice: str, speed: int) -> tuple[Any, int]:
    """The sentence spoken by espeak-ng: float32 samples [frames] and their rate.

    Raises:
        UserError: espeak-ng is not installed.
    """
    import soundfile  # pyright: ignore[reportMissingTypeStubs]

    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    try:
        sound = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError as error:
        raise UserError("This measure needs espeak-ng on the path; install it.") from error
    # espeak-ng can't know the length when it writes to a pipe, so the header lies about it
    data, rate = soundfile.read(
        io.BytesIO(sound[44:]), dtype="float32", format="RAW", subtype="PCM_16", channels=1,
        samplerate=22_050,
    )  # fmt: skip
    return data, rate


def speech(bench: Bench) -> Iterator[Row]:
    """Each sentence in each voice."""
    experts: Sequence[Any] = bench.runtime.context_experts("audio")
    if not experts:
        raise UserError(f"The bundle {bench.runtime.bundle.name!r} has no expert for speech.")
    pairs = [(s, v, p) for s in SENTENCES for v, p in VOICES]
    for sentence, voice, speed in bench.some(pairs):
        yield heard(experts[0], sentence, voice, speed)


def heard(expert: Any, sentence: str, voice: str, speed: int) -> Row:
    """One utterance: what was said, what the expert understood, how many words are wrong."""
    import numpy as np
    from whisper.normalizers import EnglishTextNormalizer  # pyright: ignore

    plain: Any = EnglishTextNormalizer()
    samples, rate = say(sentence, voice, speed)
    note = expert.look(Audio.of(Waveform(np.asarray(samples, np.float32)[None], rate)), "")
    text = note.text.removeprefix("recognized text: ") if note else ""
    wanted = plain(sentence).split()
    wrong = edits(wanted, plain(text).split())
    return {
        "id": f"{voice} {speed} wpm: {sentence}", "voice": f"{voice} {speed} wpm",
        "sentence": sentence, "answer": text, "errors": wrong, "words": len(wanted),
    }  # fmt: skip


def rate(rows: Sequence[Row]) -> float:
    """Word errors a word."""
    return sum(r["errors"] for r in rows) / max(1, sum(r["words"] for r in rows))


def sum_speech(rows: list[Row]) -> dict[str, Any]:
    """Word error rate (lower is better), and of each voice."""
    voices = dict.fromkeys(r["voice"] for r in rows)
    found = bootstrap(rows, rate)
    found["by voice"] = {v: round(rate([r for r in rows if r["voice"] == v]), 4) for v in voices}
    return found
