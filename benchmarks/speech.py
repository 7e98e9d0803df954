"""Settings of the speech expert tried on synthetic voices (`anybind eval speech` is the measure).

    python benchmarks/speech.py --whisper FILE [--json FILE] [--floor 0.25]

The twenty sentences of that measure are spoken by espeak-ng (which must be on the path) in several voices and speeds.
A formant synthesiser is harder to understand than a person; the figure is a floor, not the quality
on real speech. Ends with status 1 if the word error rate is above the floor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from anybind.agent.evaluation.speech import SENTENCES, VOICES, edits, say


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
