"""How well the speech expert understands a synthetic voice: word error rate of own sentences.

    python benchmarks/speech.py --whisper FILE [--json FILE] [--floor 0.25]

Twenty sentences are spoken by espeak-ng (which must be on the path) in several voices and speeds.
A formant synthesiser is harder to understand than a person; the figure is a floor, not the quality
on real speech. Ends with status 1 if the word error rate is above the floor.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    """The sentence spoken by espeak-ng: float32 samples [frames] and their rate."""
    import soundfile

    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    # espeak-ng can't know the length when it writes to a pipe, so the header lies about it
    data, rate = soundfile.read(
        io.BytesIO(sound[44:]), dtype="float32", format="RAW", subtype="PCM_16", channels=1,
        samplerate=22_050,
    )  # fmt: skip
    return data, rate


def run(whisper: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Word errors by voice and by sentence."""
    import numpy as np
    from whisper.normalizers import EnglishTextNormalizer

    from anybind.content import Audio, Waveform
    from anybind.experts.speech import Hearing, SpeechExpert

    plain = EnglishTextNormalizer()
    expert = SpeechExpert.from_file(whisper, Hearing(**options))
    voices: dict[str, list[int]] = {}
    sentences: dict[str, list[Any]] = {}
    seconds, spoken = 0.0, 0.0
    for sentence in SENTENCES:
        wanted = plain(sentence).split()
        for voice, speed in VOICES:
            samples, rate = say(sentence, voice, speed)
            part = Audio.of(Waveform(np.asarray(samples, np.float32)[None], rate))
            began = time.perf_counter()
            note = expert.look(part, "")
            seconds += time.perf_counter() - began
            spoken += len(samples) / rate
            heard = note.text.removeprefix("recognized text: ") if note else ""
            wrong = edits(wanted, plain(heard).split())
            key = f"{voice} {speed} wpm"
            counts = voices.setdefault(key, [0, 0])
            counts[0] += wrong
            counts[1] += len(wanted)
            sentences.setdefault(sentence, []).append([wrong, key, heard])
    errors, words = (sum(counts[i] for counts in voices.values()) for i in (0, 1))
    worst = sorted(
        (
            {"sentence": text, "wer": sum(h[0] for h in heard) / (len(heard) * len(text.split())),
             "heard": max(heard)[2]}
            for text, heard in sentences.items()
        ),
        key=lambda item: -item["wer"],
    )  # fmt: skip
    return {
        "wer": errors / words,
        "words": words,
        "utterances": len(SENTENCES) * len(VOICES),
        "by_voice": {key: wrong / total for key, (wrong, total) in voices.items()},
        "worst": worst[:5],
        "seconds_per_utterance": seconds / (len(SENTENCES) * len(VOICES)),
        "real_time_factor": seconds / spoken,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--whisper", type=Path, help="converted Whisper file (default: of nano)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--floor", type=float, default=0.25)
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of Hearing")
    args = parser.parse_args()
    options = {name: json.loads(value) for name, value in (o.split("=", 1) for o in args.option)}
    from anybind.assembly import Assembly

    figures = run(args.whisper or Assembly("nano").weight("whisper"), options)
    print(f"{'voice':<22} WER")
    for voice, rate in figures["by_voice"].items():
        print(f"{voice:<22} {rate:.3f}")
    print(f"{'all':<22} {figures['wer']:.3f}  ({figures['words']} words, "
          f"{figures['seconds_per_utterance']:.2f} s an utterance)")  # fmt: skip
    print("worst sentences")
    for item in figures["worst"]:
        print(f"  {item['wer']:.2f}  {item['sentence']}\n        heard: {item['heard']}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0 if figures["wer"] <= args.floor else 1


if __name__ == "__main__":
    sys.exit(main())
