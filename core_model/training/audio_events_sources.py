"""The sounds that the audio-event head is trained on: what they are, whence, under what licence.

Knows how to render or read every source into clips of 16 kHz mono with a label, and leaves out what
is measured with (`audio_events_heldout`). Knows nothing of models. Renders need `fluidsynth` and
`espeak-ng` on the path; both are tools of training, not of anybind.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anybind.core_model.training.audio_events_heldout import font_name, held_out
from anybind.core_model.training.audio_events_played import FAMILIES, perform
from anybind.core_model.training.audio_events_synth import RATE, RECIPES, make
from anybind.core_model.training.audio_events_words import (
    DRUMS,
    EFFECTS,
    INSTRUMENTS,
    KITS,
    REGISTER,
    SONIC,
)

SECONDS = 5.0
"""Length of a rendered clip."""

SOURCES = {
    "gm": "FluidR3_GM.sf2, Frank Wen and others, MIT (Debian package fluid-soundfont-gm)",
    "gs": "FluidR3_GS.sf2, Frank Wen and others, MIT (Debian package fluid-soundfont-gs)",
    "sonic": "Sonic Pi samples, CC0-1.0 (npm package supersonic-scsynth-samples 0.59.0)",
    "synth": "made by audio_events_synth.py, part of anybind",
    "played": "instruments made from scratch by audio_events_played.py, part of anybind",
    "voice": "own sentences spoken by espeak-ng (output of the program, not a copy of it)",
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound: `samples` float32 [frames] at 16 kHz, what it is, and where it comes from."""

    samples: NDArray[np.float32]
    label: str
    source: str
    held_out: bool
    recording: str
    """Clips of one recording share this; used to keep recordings apart."""


# ---------------------------------------------------------------- MIDI


def _length(value: int) -> bytes:
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(0x80 | (value & 0x7F))
    return bytes(reversed(out))


def _midi(events: list[tuple[float, bytes]]) -> bytes:
    """A format-0 file; times in seconds, 1 ms ticks."""
    body, last = b"\0\xff\x51\x03" + (500_000).to_bytes(3, "big"), 0
    for seconds, message in sorted(events, key=lambda event: event[0]):
        tick = round(seconds * 1000)
        body += _length(tick - last) + message
        last = tick
    body += b"\0\xff\x2f\0"
    return (b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500)
            + b"MTrk" + struct.pack(">I", len(body)) + body)  # fmt: skip


Note = tuple[float, float, int, int]  # start, duration (seconds), key, velocity


def _phrase(r: np.random.Generator, kind: int) -> list[Note]:
    """A few seconds of playing: one held note, repeated notes, a melody, chords or a mix."""
    root, loud = int(r.integers(43, 80)), int(r.integers(60, 120))
    scale = (0, 2, 4, 5, 7, 9, 11, 12)
    if kind == 0:
        return [(0.05, r.uniform(0.4, 3.8), root, loud)]
    step = float(r.choice([0.2, 0.3, 0.45, 0.7]))
    count = int(4 / step)
    if kind == 1:
        return [(i * step, step * 0.9, root, loud) for i in range(count)]
    if kind == 2:
        return [(i * step, step * r.uniform(0.6, 1), root + int(r.choice(scale)), loud)
                for i in range(count)]  # fmt: skip
    chord = [(0, 4, 7), (0, 3, 7), (0, 5, 9), (0, 4, 7, 11)]
    return [(i * 1.0, 0.95, root - 5 + offset, loud)
            for i in range(4) for offset in chord[int(r.integers(4))]]  # fmt: skip


def _render(font: Path, messages: list[tuple[float, bytes]], seconds: float) -> NDArray[np.float32]:
    import soundfile
    import soxr

    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder, "a.mid"), Path(folder, "a.wav")
        midi.write_bytes(_midi([*messages, (seconds, b"\xb0\x78\x00")]))
        subprocess.run(
            ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.6", "-r", "44100",
             "-F", str(wav), str(font), str(midi)], check=True, capture_output=True,
        )  # fmt: skip
        samples, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(samples.mean(1), rate, RATE), np.float32)


@dataclass(frozen=True, slots=True)
class _Line:
    """A few seconds of notes and who plays them."""

    label: str
    bank: int
    program: int
    notes: list[Note]
    held_out: bool
    channel: int = 0

    @property
    def preset(self) -> tuple[int, int, tuple[int, ...]]:
        """Bank (128 for kits), program, and the keys that are played."""
        keys = tuple(sorted({key for _, _, key, _ in self.notes}))
        return (128 if self.channel == 9 else self.bank), self.program, keys


def _played(font: Path, lines: list[_Line], source: str) -> Iterator[Clip]:
    """Render lines one after the other, many in one go, then cut them apart. Presets that are held
    out are not played."""
    size, known, name = int(SECONDS * RATE), held_out(), font_name(font)
    lines = [line for line in lines if not known.preset(name, *line.preset)]
    for first in range(0, len(lines), _AT_ONCE):
        some = lines[first : first + _AT_ONCE]
        messages: list[tuple[float, bytes]] = []
        for index, line in enumerate(some):
            begin, channel = index * SECONDS, line.channel
            messages.append((begin, bytes([0xB0 | channel, 0, line.bank])))
            messages.append((begin, bytes([0xC0 | channel, line.program])))
            for start, seconds, key, loud in line.notes:
                end = min(begin + start + seconds, begin + SECONDS - 0.3)
                messages.append((begin + start + 0.01, bytes([0x90 | channel, key, loud])))
                messages.append((end, bytes([0x80 | channel, key, 0])))
            messages.append((begin + SECONDS - 0.02, bytes([0xB0 | channel, 0x78, 0])))
        samples = np.pad(_render(font, messages, len(some) * SECONDS), (0, RATE))
        for index, line in enumerate(some):
            piece = samples[index * size : (index + 1) * size].copy()
            if np.abs(piece).max() > 1e-3:
                bank, program, _ = line.preset
                recording = f"{line.label}:{bank}:{program}"
                yield Clip(piece, line.label, source, line.held_out, recording)


_AT_ONCE = 120
EACH = 24
"""Lines of playing a label; every sixth is held out."""


# ---------------------------------------------------------------- sources


def gm_clips(font: Path, seed: int) -> Iterator[Clip]:
    """Instruments and drums of the FluidR3 General MIDI soundfont."""
    r = np.random.default_rng([seed, 1])
    lines: list[_Line] = []
    for label, programs in INSTRUMENTS.items():
        for i in range(max(EACH, 6 * len(programs))):
            program = programs[i % len(programs)]
            notes = _phrase(r, (i // len(programs)) % 4)
            if i % 2:  # half of the lines in the instrument's own register
                notes = [(a, b, key + REGISTER.get(label, 0), loud) for a, b, key, loud in notes]
            lines.append(_Line(label, 0, program, notes, i % 6 == 5))
    for label, keys in DRUMS.items():
        for i in range(EACH + 6):
            notes = _strokes(r, int(r.choice(keys)))
            lines.append(_Line(label, 0, KITS[i % len(KITS)], notes, i % 6 == 5, 9))
    for i in range(48):
        lines.append(_Line("drum beat", 0, KITS[i % len(KITS)], _beat(r), i % 6 == 5, 9))
    yield from _played(font, lines, "gm")


def gs_clips(font: Path, seed: int) -> Iterator[Clip]:
    """Sound effects of the FluidR3 GS soundfont; held-out clips differ in pitch and length only."""
    r = np.random.default_rng([seed, 3])
    lines: list[_Line] = []
    for label, presets in EFFECTS.items():
        for bank, program in presets:
            for i in range(EACH + 6):
                key, loud = int(r.integers(55, 67)), int(r.integers(70, 127))
                gap = float(r.choice([0.4, 0.8, 1.5, 5.0, 5.0]))  # once, or again and again
                notes: list[Note] = [(at, min(gap, 4.5), key, loud)
                                     for at in np.arange(r.uniform(0, 0.3), 4.4, gap)]  # fmt: skip
                lines.append(_Line(label, bank, program, notes, i % 6 == 5))
    yield from _played(font, lines, "gs")


def _beat(r: np.random.Generator) -> list[Note]:
    step, out = float(r.choice([0.14, 0.18, 0.25])), []
    snare, hat = int(r.choice([38, 40])), int(r.choice([42, 46, 51]))
    for i in range(int(4.2 / step)):
        if i % 8 in (0, 5) or r.random() < 0.1:
            out.append((i * step, 0.2, 36, int(r.integers(90, 127))))
        if i % 8 == 4 or r.random() < 0.08:
            out.append((i * step, 0.2, snare, int(r.integers(80, 127))))
        if i % 2 == 0 or r.random() < 0.3:
            out.append((i * step, 0.2, hat, int(r.integers(50, 110))))
    return out


def sonic_clips(folder: Path) -> Iterator[Clip]:
    """Sonic Pi's samples, whole files, without those measured with; every fourth of a label is kept
    to choose by."""
    import soundfile
    import soxr

    known = held_out()
    for label, prefixes in SONIC.items():
        files = [f for f in sorted(folder.glob("*.flac")) if f.name.startswith(prefixes)]
        files = [f for f in files if not known.file(f)]
        for index, file in enumerate(files):
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            mono = np.asarray(soxr.resample(samples.mean(1), rate, RATE), np.float32)
            mono = mono[: int(SECONDS * 2 * RATE)]
            yield Clip(mono, label, "sonic", index % 4 == 3, file.stem)


def synth_clips(each: int, seed: int) -> Iterator[Clip]:
    """Sounds made from scratch; every sixth (other parameters) is held out."""
    for label in RECIPES:
        for index in range(each):
            held_out().check_seed(seed * 100_000 + index)
            clip = make(label, seed * 100_000 + index, SECONDS)
            yield Clip(clip, label, "synth", index % 6 == 5, f"synth:{label}:{index}")


def played_clips(each: int, seed: int) -> Iterator[Clip]:
    """Instruments made from scratch, another one each time; every sixth is held out."""
    r = np.random.default_rng([seed, 4])
    for label in FAMILIES:
        drum = label in DRUMS or label in ("timpani", "taiko drum", "tabla", "metronome")
        for index in range(each):
            notes = _strokes(r, 60) if drum else _phrase(r, index % 4)
            clip = perform(label, notes, SECONDS, seed * 100_000 + index)
            yield Clip(clip, label, "played", index % 6 == 5, f"played:{label}:{index}")


def _strokes(r: np.random.Generator, key: int) -> list[Note]:
    step = float(r.choice([0.25, 0.5, 0.75, 1.5, 4]))
    return [(i * step, 0.3, key, int(r.integers(70, 127))) for i in range(max(1, int(4 / step)))]


_SUBJECTS = ("my sister", "the teacher", "our neighbour", "a tired nurse", "the old farmer",
             "nobody here", "his best friend", "the whole family", "every visitor", "the captain")  # fmt: skip
_VERBS = ("is waiting for", "talked about", "wants to see", "forgot", "has just bought",
          "will never leave", "walked slowly past", "asked me about", "is painting", "opened")  # fmt: skip
_OBJECTS = ("the red bicycle", "a quiet village", "the new bridge", "some fresh bread",
            "seven little boats", "the summer holidays", "a broken window", "the last train home",
            "that enormous garden", "a letter from the bank")  # fmt: skip
_VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us+f2", "en-us+f4", "en-gb+f3",
           "en-us+m3", "en-gb+m5", "en-us+m7", "de", "fr", "es", "it", "en-us+whisper",
           "en-gb+f5", "en-us+croak", "en-029")  # fmt: skip


def voice_clips(count: int, seed: int) -> Iterator[Clip]:
    """Own sentences in espeak-ng's voices; every sixth voice is held out."""
    import soundfile
    import soxr

    r = np.random.default_rng([seed, 2])
    for index in range(count):
        voice = index % len(_VOICES)
        text = ". ".join(
            " ".join(str(r.choice(words)) for words in (_SUBJECTS, _VERBS, _OBJECTS))
            for _ in range(2)
        )
        with tempfile.TemporaryDirectory() as folder:
            wav = Path(folder, "a.wav")
            subprocess.run(
                ["espeak-ng", "-v", _VOICES[voice], "-s", str(r.integers(120, 200)),
                 "-p", str(r.integers(25, 75)), "-w", str(wav), text], check=True,
            )  # fmt: skip
            samples, rate = soundfile.read(wav, dtype="float32")
        mono = np.asarray(soxr.resample(samples, rate, RATE), np.float32)
        yield Clip(mono[: int(SECONDS * RATE)], "speech", "voice", voice % 6 == 5, _VOICES[voice])
