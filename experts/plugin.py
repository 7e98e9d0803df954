"""Offers the experts of this room. Listing them imports no torch and no NLTK."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anybind.contracts import Build, ExpertSpec
from anybind.hooks import hookimpl


def _speech(build: Build) -> Any:
    from anybind.experts import speech

    return speech.build(build)


def _nouns(build: Build) -> Any:
    from anybind.experts import nouns

    return nouns.build(build)


def _grounding(build: Build) -> Any:
    from anybind.experts import dense_grounding

    return dense_grounding.build(build)


def _objects(build: Build) -> Any:
    from anybind.experts import objects

    return objects.build(build)


def _sounds(build: Build) -> Any:
    from anybind.experts import sounds

    return sounds.build(build)


@hookimpl
def register_experts() -> Iterable[ExpertSpec]:
    """Speech-to-text, things in drawings, sounds, noun phrases, dense grounding."""
    return [
        ExpertSpec(
            name="whisper",
            description="Speech to text by openai-whisper; the transcript becomes context.",
            factory=_speech,
            needs=("torch", "whisper", "soxr"),
            extra="speech",
            weights=("whisper",),
            footprint=150 << 20,
            role="context",
        ),
        ExpertSpec(
            name="objects",
            description="Names for the things of a drawing; they become context.",
            factory=_objects,
            needs=("torch", "cv2"),
            extra="model",
            weights=("backbone", "projection"),
            footprint=0,
            role="context",
        ),
        ExpertSpec(
            name="sound-events",
            description="The nearest word to a sound; it becomes context.",
            factory=_sounds,
            needs=("torch",),
            extra="model",
            weights=("words",),
            footprint=0,
            role="context",
        ),
        ExpertSpec(
            name="noun-phrases",
            description="Noun phrases with character spans by NLTK's perceptron tagger and chunker.",
            factory=_nouns,
            needs=("nltk",),
            extra="model",
            weights=("tagger",),
            footprint=20 << 20,
            role="nouns",
        ),
        ExpertSpec(
            name="dense-grounding",
            description="Phrases to boxes on the image encoder's own feature map.",
            factory=_grounding,
            needs=("torch", "cv2"),
            extra="model",
            weights=("backbone", "projection"),
            footprint=0,
            role="grounding",
        ),
    ]
