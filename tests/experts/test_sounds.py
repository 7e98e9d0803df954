"""The nearest word to a sound, as context."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anybind.content import Audio, Text, Waveform
from anybind.contracts import Build, ContextExpert, Encoding
from anybind.errors import ModelError, UserError
from anybind.experts.sounds import SoundExpert, build, read_words

WORDS = ("dog", "organ", "wind chimes")


class Ears:
    """A sound is what its first samples are."""

    space, dim = "test", 3

    def encode(self, parts: Any) -> Encoding:
        raw = np.stack([np.asarray(p.data.samples[0, :3], np.float32) for p in parts])
        return Encoding(unit=raw / np.linalg.norm(raw, axis=1, keepdims=True), raw=raw)


class Words:
    """Every word has a direction of its own."""

    space = "test"

    def encode(self, parts: Any) -> Encoding:
        rows = np.eye(3, dtype=np.float32)[[WORDS.index(p.data) for p in parts]]
        return Encoding(unit=rows, raw=rows)


def _sound(*samples: float) -> Audio:
    return Audio.of(Waveform(np.array([[*samples, 0.0, 0.0]], np.float32), 16000))


def _expert(**options: Any) -> SoundExpert:
    ears: Any = Ears()
    return SoundExpert(ears, WORDS, np.eye(3, dtype=np.float32), **options)


def test_the_nearest_word_is_said_beside_the_sound() -> None:
    expert = _expert()
    assert isinstance(expert, ContextExpert)
    note = expert.look(_sound(0.1, 0.9, 0.2), "What do you hear?")
    assert note is not None and note.text == "recognized sounds: an organ"
    assert not note.replaces and 0.9 < note.confidence <= 1
    plural = expert.look(_sound(0.0, 0.1, 0.9), "")
    assert plural is not None and plural.text == "recognized sounds: wind chimes"


def test_what_is_near_to_no_word_is_not_named() -> None:
    assert _expert(near=0.7).look(_sound(0.5, 0.5, 0.5), "") is None


def test_what_it_can_not_do_is_said() -> None:
    expert = _expert()
    with pytest.raises(UserError, match="audio, not text"):
        expert.look(Text.of("hello"), "")
    expert.close()
    with pytest.raises(ModelError, match="closed"):
        expert.look(_sound(1, 0, 0), "")
    ears: Any = Ears()
    with pytest.raises(ModelError, match="embedded"):
        SoundExpert(ears, WORDS, np.eye(2, dtype=np.float32))


def test_a_bundle_names_the_words(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("dog\norgan\n\ndog\nwind chimes\n", encoding="utf-8")
    assert read_words(file) == WORDS
    parts: Any = {"audio_encoder": Ears(), "text_encoder": Words()}
    note = build(Build(weights={"words": file}, parts=parts)).look(_sound(1, 0, 0), "")
    assert note is not None and note.text == "recognized sounds: a dog"
    with pytest.raises(UserError, match="encoders"):
        build(Build(weights={"words": file}))
    other: Any = SimpleNamespace(space="other")
    with pytest.raises(UserError, match="'other'"):
        build(Build(weights={"words": file}, parts={**parts, "text_encoder": other}))
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ModelError, match="no words"):
        read_words(file)
    with pytest.raises(ModelError, match="can't be read"):
        read_words(tmp_path / "none.txt")
