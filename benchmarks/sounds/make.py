"""Makes the held-out sounds: whence they come decides what the figure means, so each says it.

    python benchmarks/sounds/make.py --out DIR [--archive FILE ...]

| source | what it tests |
|---|---|
| `musescore` | recordings that training never heard: the presets of MuseScore General whose samples are not FluidR3's (Splendid Grand piano, VSCO 2 strings, drumline, trumpet, temple blocks, synthesizers) |
| `sonic-pi` | other recordings than the trained ones of a source that training knows, and groups it leaves out |
| `fluidr3` | new melodies on the soundfont that training knows: memory of timbres, not of notes |
| `packages` | recordings that training never heard, out of packages of npm, PyPI and Debian (`recordings.py`): instruments, drums, birds, things of the house |
| `recipes` | everyday sounds made from scratch by training's own recipes with other parameters: no recordings |

Weather, most animals and most machines are in the last row only. Licences: MuseScore General and
FluidR3 MIT (samples public domain, CC0 or MIT), Sonic Pi CC0, the packages' in recordings.jsonl.
Needs apt-get, dpkg-deb, npm, pip and fluidsynth. DIR gets one 16 kHz wav a clip and sounds.jsonl.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
RATE, SECONDS, SLOT = 16_000, 4.0, 5.0
PACKAGES = {
    "musescore": ("musescore-general-soundfont", "0.2.1-1", "MIT; samples MIT, CC0 or public domain"),
    "fluidr3": ("fluid-soundfont-gm", "3.1-5.3", "MIT"),
    "sonic-pi": ("sonic-pi-samples", "3.2.2~repack-8", "CC0-1.0"),
}  # fmt: skip

# label -> (bank, program[, key of a drum]) of presets whose credits name other samples than FluidR3's
MUSESCORE: dict[str, tuple[tuple[int, ...], ...]] = {
    "piano": ((0, 0), (0, 1), (0, 3), (8, 0)), "electric piano": ((0, 5), (8, 5)),
    "string orchestra": ((0, 48), (0, 49), (0, 44)), "pizzicato strings": ((0, 45),),
    "violin": ((20, 48), (20, 49), (25, 48)), "viola": ((30, 48), (30, 49)),
    "cello": ((40, 48), (40, 49)), "double bass": ((50, 48), (50, 49)), "trumpet": ((0, 56),),
    "wood block": ((1, 115),), "synthesizer": ((0, 81), (0, 80), (0, 62), (0, 90)),
    "metronome": ((128, 55, 34), (128, 55, 76)), "snare drum": ((128, 56, 60), (128, 56, 48)),
    "tom drum": ((128, 96, 48), (128, 96, 60)), "bass drum": ((128, 59, 61), (128, 59, 49)),
    "cymbal": ((128, 58, 72), (128, 58, 76)),
}  # fmt: skip
FLUIDR3: dict[str, int] = {
    "piano": 0, "electric piano": 4, "harpsichord": 6, "celesta": 8, "glockenspiel": 9,
    "music box": 10, "vibraphone": 11, "marimba": 12, "xylophone": 13, "tubular bells": 14,
    "organ": 16, "church organ": 19, "accordion": 21, "harmonica": 22, "acoustic guitar": 25,
    "electric guitar": 27, "bass guitar": 33, "violin": 40, "viola": 41, "cello": 42,
    "double bass": 43, "string orchestra": 48, "pizzicato strings": 45, "harp": 46, "timpani": 47,
    "choir": 52, "trumpet": 56, "trombone": 57, "tuba": 58, "French horn": 60, "brass band": 61,
    "saxophone": 65, "oboe": 68, "bassoon": 70, "clarinet": 71, "piccolo": 72, "flute": 73,
    "recorder": 74, "pan flute": 75, "ocarina": 79, "sitar": 104, "banjo": 105, "shamisen": 106,
    "koto": 107, "kalimba": 108, "bagpipes": 109, "steel drum": 114,
}  # fmt: skip
# prefixes of Sonic Pi's files; a trained prefix gives its second, fourth ... file, one marked "*"
# (which training leaves out) gives all
SONIC: dict[str, tuple[str, ...]] = {
    "bass drum": ("bd_", "elec_hollow_kick*", "elec_soft_kick*"),
    "snare drum": ("sn_", "drum_snare", "elec_snare*", "elec_hi_snare*", "elec_lo_snare*",
                   "elec_mid_snare*", "elec_filt_snare*"),
    "tom drum": ("drum_tom", "elec_fuzz_tom*"), "cymbal": ("drum_cymbal", "elec_cymbal*"),
    "tabla": ("tabla_",), "electric guitar": ("guit_",), "synthesizer": ("bass_",),
    "bell": ("perc_bell", "elec_bell"), "record scratch": ("vinyl_scratch", "vinyl_rewind"),
    "robot": ("mehackit_robot",), "telephone": ("mehackit_phone*",),
    "drum beat": ("loop_amen*", "loop_mehackit*", "loop_perc"),
}  # fmt: skip
LOW = {"double bass": 28, "tuba": 30, "bass guitar": 28, "cello": 36, "bassoon": 36, "violin": 60,
       "piccolo": 74, "flute": 62}  # fmt: skip
"""Lowest root of a tune, a MIDI key, where it is not 48."""
OWN_SEED = 77_000_000
"""Recipes are drawn far from the seeds of training."""


def phrase(r: np.random.Generator, low: int, high: int) -> list[tuple[float, float, int, int]]:
    """A short tune of our own: (start, seconds, key, velocity); an arpeggio, a scale or a held tone."""
    kind, root, loud = int(r.integers(3)), int(r.integers(low, high)), int(r.integers(75, 115))
    if kind == 0:
        return [(0.1, 3.4, root, loud)]
    steps = (0, 4, 7, 12, 7, 4, 0) if kind == 1 else (0, 2, 3, 5, 7, 8, 7, 5)
    gap = float(r.choice([0.3, 0.4, 0.5]))
    return [
        (0.1 + i * gap, gap * 0.95, root + s, loud)
        for i, s in enumerate(steps)
        if (i + 1) * gap < SECONDS - 0.3
    ]


def midi(events: list[tuple[float, bytes]]) -> bytes:
    """A format-0 file of (seconds, message), 1 ms ticks."""
    body, last = b"\0\xff\x51\x03" + (500_000).to_bytes(3, "big"), 0
    for seconds, message in sorted(events, key=lambda e: e[0]):
        value = round(seconds * 1000) - last
        last += value
        delta = bytes([value & 0x7F])
        while value := value >> 7:
            delta = bytes([0x80 | (value & 0x7F)]) + delta
        body += delta + message
    body += b"\0\xff\x2f\0"
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500)
    return head + b"MTrk" + struct.pack(">I", len(body)) + body


@dataclass(frozen=True, slots=True)
class Line:
    """One clip to render: which preset plays which notes."""

    label: str
    how: str
    preset: tuple[int, ...]
    notes: list[tuple[float, float, int, int]]


def line(label: str, preset: tuple[int, ...], tune: int, r: np.random.Generator) -> Line:
    """Beats for a preset with a drum's key, a tune for any other."""
    if len(preset) == 3:
        gap = float(r.choice([0.3, 0.5, 0.9]))
        count = int((SECONDS - 0.3) / gap)
        notes = [(0.1 + i * gap, 0.25, preset[2], int(r.integers(80, 120))) for i in range(count)]
    else:
        low = LOW.get(label, 48)
        notes = phrase(r, low, low + 20)
    return Line(label, f"preset {preset}, tune {tune}", preset, notes)


def render(font: Path, lines: list[Line]) -> Iterator[NDArray[np.float32]]:
    """Every clip, by one run of fluidsynth: reading a soundfont takes longer than playing it."""
    events: list[tuple[float, bytes]] = []
    for index, one in enumerate(lines):
        begin, drum = index * SLOT, len(one.preset) == 3
        channel = 9 if drum else 0
        events.append((begin, bytes([0xB0 | channel, 0, 0 if drum else one.preset[0]])))
        events.append((begin + 0.01, bytes([0xC0 | channel, one.preset[1]])))
        for start, seconds, key, loud in one.notes:
            end = begin + min(start + seconds, SECONDS - 0.05)
            events.append((begin + start, bytes([0x90 | channel, key, loud])))
            events.append((end, bytes([0x80 | channel, key, 0])))
        events.append((begin + SECONDS, bytes([0xB0 | channel, 0x78, 0])))
    with tempfile.TemporaryDirectory() as folder:
        tune, wav = Path(folder, "a.mid"), Path(folder, "a.wav")
        tune.write_bytes(midi([*events, (len(lines) * SLOT, bytes([0xB0, 0x78, 0]))]))
        command = ["fluidsynth", "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.6", "-r", "44100"]
        command += ["-F", str(wav), str(font), str(tune)]
        subprocess.run(command, check=True, capture_output=True)
        whole = read(wav, len(lines) * SLOT)
    for index in range(len(lines)):
        start = int(index * SLOT * RATE)
        yield whole[start : start + int(SECONDS * RATE)]


def read(path: Path, seconds: float = 4.0) -> NDArray[np.float32]:
    """Any sound file as 16 kHz mono, at most `seconds` long."""
    import soundfile
    import soxr

    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = np.asarray(soxr.resample(samples.mean(1), rate, RATE), np.float32)
    return mono[: int(seconds * RATE)]


def recordings() -> ModuleType:
    """The neighbour that fetches recordings: `benchmarks` is no package."""
    path = HERE / "recordings.py"
    spec = importlib.util.spec_from_file_location("anybind_sound_recordings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Sound:
    """One clip, float32 [frames] at `RATE`, and where it comes from."""

    source: str
    label: str
    made: str
    samples: NDArray[np.float32]
    package: str
    version: str
    licence: str


def clips(folders: dict[str, Path]) -> Iterator[Sound]:
    """What is rendered, what Sonic Pi has, and what is made from scratch."""
    from anybind.core_model.training.audio_events_synth import RECIPES, make

    for source, table, each in (("musescore", MUSESCORE, 4), ("fluidr3", FLUIDR3, 1)):
        font = next(p for p in folders[source].rglob("*.sf[23]"))
        lines: list[Line] = []
        for number, (label, value) in enumerate(table.items()):
            presets = ((0, value),) if isinstance(value, int) else value
            for i in range(each):
                r = np.random.default_rng([OWN_SEED, len(source), number, i])
                lines.append(line(label, presets[i % len(presets)], i, r))
        for one, samples in zip(lines, render(font, lines), strict=True):
            yield Sound(source, one.label, one.how, samples, *PACKAGES[source])
    files = sorted(folders["sonic-pi"].rglob("*.flac"))
    for label, prefixes in SONIC.items():
        for prefix in prefixes:
            bare = prefix.rstrip("*")
            found = [f for f in files if f.name.startswith(bare)]
            for file in found if prefix.endswith("*") else found[1::2]:
                yield Sound("sonic-pi", label, file.name, read(file), *PACKAGES["sonic-pi"])
    known = json.loads((HERE / "classes.json").read_text())
    for number, label in enumerate(RECIPES):
        if label in known:
            seed = OWN_SEED + 1000 * number
            samples = np.asarray(make(label, seed, SECONDS))
            yield Sound("recipes", label, f"seed {seed}", samples, "anybind", "", "Apache-2.0")


def recorded(archives: list[Path]) -> Iterator[Sound]:
    """The recordings out of packages; `archives` are not downloaded again."""
    module = recordings()
    for one, samples in module.fetch(module.read_manifest(), archives, RATE, SECONDS):
        yield Sound("packages", one["label"], one["member"], samples, one["package"],
                    one["version"], one["licence"])  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    import soundfile

    parser = argparse.ArgumentParser(description="make the held-out sounds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--archive", type=Path, action="append", default=[])
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    classes: dict[str, dict[str, Any]] = json.loads((HERE / "classes.json").read_text())
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folders: dict[str, Path] = {}
        for source, (package, version, _) in PACKAGES.items():
            here = [p for p in options.archive if p.name.startswith(package + "_")]
            if not here:
                subprocess.run(
                    ["apt-get", "download", "-q", f"{package}={version}"], cwd=scratch, check=True
                )
                here = list(Path(scratch).glob(f"{package}_*.deb"))
            folders[source] = Path(scratch) / source
            subprocess.run(["dpkg-deb", "-x", str(here[0]), str(folders[source])], check=True)
        for number, sound in enumerate(chain(clips(folders), recorded(options.archive))):
            loudest = np.abs(sound.samples).max(initial=0)
            if loudest < 1e-3:
                print(f"silent, left out: {sound.source} {sound.label} {sound.made}",
                      file=sys.stderr)  # fmt: skip
                continue
            slug = re.sub(r"[^a-z0-9]+", "-", sound.label.lower())
            name = f"{sound.source}-{slug}-{number:03d}"
            soundfile.write(options.out / f"{name}.wav", sound.samples / loudest * 0.7, RATE)
            row = {
                "id": name, "source": sound.source, "label": sound.label, **classes[sound.label],
                "made": sound.made, "package": sound.package, "version": sound.version,
                "licence": sound.licence, "file": f"{name}.wav",
            }  # fmt: skip
            rows.append(json.dumps(row) + "\n")
    (options.out / "sounds.jsonl").write_text("".join(rows), encoding="utf-8")
    print(f"{len(rows)} sounds of {len({json.loads(r)['label'] for r in rows})} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
