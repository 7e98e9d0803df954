"""Speech to text: what is said in a sound, as context for the model.

Knows how to run Whisper and when not to believe it: a language model that is made to write will
write something about rain, too. Does not open files (parts come decoded) and needs no ffmpeg.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.content import AnyPart, Waveform
from anybind.contracts import Build, Note
from anybind.errors import ModelError, UserError
from anybind.optional import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from whisper.model import Whisper  # pyright: ignore[reportMissingTypeStubs]

RATE = 16_000


@dataclass(frozen=True, slots=True)
class Hearing:
    """How to decode and what to believe. The defaults are measured in `benchmarks/speech.py`."""

    beam: int = 5
    patience: float = 1.0
    no_speech: float = 0.55
    """Segments whose window is more likely than this to hold no speech are dropped."""
    log_prob: float = -1.0
    """Segments with a mean log-probability (nats a token) below this are dropped."""
    compression: float = 2.4
    """Segments whose text compresses better than this repeat themselves and are dropped."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of recognised speech."""

    text: str
    start: float
    """Seconds from the beginning."""
    end: float
    log_prob: float
    """Mean over the tokens, nats."""
    no_speech: float
    """Probability that nobody speaks, 0..1."""

    @property
    def confidence(self) -> float:
        """0..1: the mean token probability, less where nobody may be speaking."""
        return math.exp(min(0.0, self.log_prob)) * (1.0 - self.no_speech)


def mono_16k(wave: Waveform) -> NDArray[np.float32]:
    """One channel at 16 kHz, float32 [frames]; values that are not finite become 0."""
    import numpy as np

    samples = np.nan_to_num(wave.samples.mean(0), posinf=0.0, neginf=0.0).astype(np.float32)
    if wave.rate != RATE:
        soxr: Any = require("soxr", "speech")
        samples = np.asarray(soxr.resample(samples, wave.rate, RATE, quality="VHQ"), np.float32)
    return samples


class SpeechExpert:
    """Whisper as a context expert (contract: `anybind.contracts.ContextExpert`)."""

    name = "speech"
    kinds = frozenset({"audio"})

    def __init__(self, model: Whisper, hearing: Hearing | None = None) -> None:
        self._model: Whisper | None = model
        self._hearing = hearing or Hearing()
        self._lock = threading.Lock()  # decoding hangs its cache on the model

    @classmethod
    def from_file(cls, whisper: Path, hearing: Hearing | None = None) -> SpeechExpert:
        """From a Whisper file that `whisper_ct2` converted.

        Raises:
            ModelError: the file is not one.
            MissingExtra: openai-whisper is not installed.
        """
        from anybind.core_model.encoders.whisper import load_whisper

        return cls(load_whisper(whisper), hearing)

    def transcribe(self, samples: NDArray[np.float32]) -> list[Segment]:
        """Recognised speech in a sound, float32 [frames] at 16 kHz; windows of 30 s.

        Decoding is a beam search without a random fallback: the same sound gives the same text.
        """
        if self._model is None:
            raise ModelError("the speech expert is closed")
        if not len(samples):
            return []
        transcribe: Any = require("whisper.transcribe", "speech").transcribe
        hearing = self._hearing
        with self._lock:
            result = transcribe(
                self._model,
                samples,
                language="en",
                task="transcribe",
                temperature=0.0,
                beam_size=hearing.beam if hearing.beam > 1 else None,
                patience=hearing.patience if hearing.beam > 1 else None,
                condition_on_previous_text=False,  # a mistake in one window must not spread
                no_speech_threshold=hearing.no_speech,
                logprob_threshold=hearing.log_prob,
                compression_ratio_threshold=hearing.compression,
                fp16=False,
                verbose=None,
            )
        return self._believed(result["segments"])

    def _believed(self, raw: Sequence[dict[str, Any]]) -> list[Segment]:
        hearing = self._hearing
        out: list[Segment] = []
        for item in raw:
            segment = Segment(
                text=str(item["text"]).strip(),
                start=float(item["start"]),
                end=float(item["end"]),
                log_prob=float(item["avg_logprob"]),
                no_speech=float(item["no_speech_prob"]),
            )
            if not any(letter.isalnum() for letter in segment.text):
                continue
            if segment.log_prob < hearing.log_prob:
                continue
            if segment.no_speech > hearing.no_speech:
                continue
            if float(item["compression_ratio"]) > hearing.compression:
                continue
            out.append(segment)
        return out

    def look(self, part: AnyPart, request: str) -> Note | None:
        """`recognized text: ...`, or None if nobody speaks.

        Raises:
            UserError: the part is not a sound.
        """
        wave: object = part.data
        if not isinstance(wave, Waveform):
            raise UserError(f"the speech expert listens to audio, not {part.kind}")
        segments = self.transcribe(mono_16k(wave))
        if not segments:
            return None
        weights = [max(1, len(segment.text)) for segment in segments]
        confidence = sum(s.confidence * w for s, w in zip(segments, weights, strict=True))
        return Note(
            expert=self.name,
            text="recognized text: " + " ".join(segment.text for segment in segments),
            confidence=confidence / sum(weights),
            sources=(part.name,) if part.name else (),
        )

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


def build(build: Build) -> SpeechExpert:
    """Factory for the plugin: weight role `whisper`; options are the fields of `Hearing`."""
    return SpeechExpert.from_file(build.weights["whisper"], Hearing(**dict(build.options)))
