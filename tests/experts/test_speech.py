"""The speech expert's own work: what it believes, what it says, what it refuses."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("whisper")
import torch
from whisper.model import ModelDimensions, Whisper

from anybind.content import Audio, Text, Waveform
from anybind.contracts import ContextExpert
from anybind.errors import ModelError, UserError
from anybind.experts.speech import Hearing, Segment, SpeechExpert, mono_16k
from anybind.media import open_file

# openai-whisper leaves its vocabulary file open and uses numpy in an old way
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DIMS = ModelDimensions(
    n_mels=80, n_audio_ctx=1500, n_audio_state=8, n_audio_head=2, n_audio_layer=1,
    n_vocab=51864, n_text_ctx=448, n_text_state=8, n_text_head=2, n_text_layer=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Whisper:
    """The real architecture, untrained: it writes nonsense and is not sure of it."""
    torch.manual_seed(0)
    return Whisper(DIMS).eval()


def part(seconds: float = 1.0, rate: int = 16_000) -> Audio:
    noise = np.random.default_rng(0).standard_normal((2, int(seconds * rate))) * 0.1
    return Audio.of(Waveform(noise.astype(np.float32), rate))


def test_what_whisper_is_not_sure_of_is_not_said(model: Whisper) -> None:
    expert = SpeechExpert(model, Hearing(beam=1))
    assert isinstance(expert, ContextExpert)
    assert expert.look(part(), "What is this?") is None


def test_note_carries_text_confidence_and_source(nano: Any) -> None:
    spoken = open_file(Path(__file__).parents[2] / "examples" / "speech_rocket.wav")
    named = spoken.named("audio/1a2b3c4d.wav", "", Path("x.wav"))
    expert = SpeechExpert.from_file(nano.weight("whisper"), Hearing(beam=1))
    note = expert.look(named, "")
    assert note is not None
    assert note.text.startswith("recognized text: ")
    assert "rocket" in note.text and "Florida" in note.text
    assert note.sources == ("audio/1a2b3c4d.wav",)
    assert 0.3 <= note.confidence <= 1.0


@pytest.mark.parametrize(
    ("change", "kept"),
    [({}, True), ({"no_speech_prob": 0.9}, False), ({"avg_logprob": -1.2}, False),
     ({"compression_ratio": 3.0}, False), ({"text": " ..."}, False)],
)  # fmt: skip
def test_only_speech_is_believed(
    model: Whisper, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], kept: bool
) -> None:
    segment = {"text": " Hello there.", "start": 0.0, "end": 1.0, "avg_logprob": -0.3,
               "no_speech_prob": 0.1, "compression_ratio": 1.0, **change}  # fmt: skip
    # the module; `whisper.transcribe` as an attribute is the function
    module = importlib.import_module("whisper.transcribe")
    monkeypatch.setattr(module, "transcribe", lambda *_, **__: {"segments": [segment]})
    note = SpeechExpert(model).look(part(), "")
    assert (note is not None) is kept
    if note:
        assert note.text == "recognized text: Hello there."
        assert note.confidence == pytest.approx(np.exp(-0.3) * 0.9)


def test_confidence_grows_with_certainty_only() -> None:
    sure = Segment("a", 0, 1, log_prob=-0.1, no_speech=0.0).confidence
    assert 0 < Segment("a", 0, 1, log_prob=-1.0, no_speech=0.0).confidence < sure < 1
    assert Segment("a", 0, 1, log_prob=-0.1, no_speech=0.5).confidence < sure


def test_sound_is_brought_to_one_channel_at_16_khz() -> None:
    wave = part(0.5, 44_100).data
    assert mono_16k(wave).shape == (8000,)
    assert mono_16k(wave).dtype == np.float32
    broken = Waveform(np.array([[np.nan, np.inf, 0.5]], np.float32), 16_000)
    assert np.isfinite(mono_16k(broken)).all()


def test_wrong_use_is_told(model: Whisper) -> None:
    expert = SpeechExpert(model)
    with pytest.raises(UserError):
        expert.look(Text.of("hello"), "")
    empty = Audio.of(Waveform(np.zeros((1, 0), np.float32), 16_000))
    assert expert.look(empty, "") is None
    expert.close()
    with pytest.raises(ModelError):
        expert.look(part(), "")


def test_word_errors_are_counted_right() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "speech.py"
    spec = importlib.util.spec_from_file_location("speech_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = [
        ("a b c", "a b c", 0), ("a b c", "", 3), ("", "a b", 2), ("a b c", "a x c", 1),
        ("a b c", "b c", 1), ("a b", "x a b y", 2), ("a b c d", "b a c d", 2), ("", "", 0),
    ]  # fmt: skip
    for reference, hypothesis, wanted in cases:
        assert module.edits(reference.split(), hypothesis.split()) == wanted
        assert module.edits(hypothesis.split(), reference.split()) == wanted
    assert len(module.SENTENCES) == len(set(module.SENTENCES)) == 20
