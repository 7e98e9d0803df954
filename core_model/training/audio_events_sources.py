"""The sounds that the audio-event head is trained on: what they are, whence, under what licence.

Knows how to render or read every source into clips of 16 kHz mono with a label, and what people
would call each label. Knows nothing of models. Renders need `fluidsynth` and `espeak-ng` on the
path; both are tools of training, not of anybind.
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

from anybind.core_model.training.audio_events_synth import RATE, RECIPES, make

SECONDS = 5.0
"""Length of a rendered clip."""

SOURCES = {
    "gm": "FluidR3_GM.sf2, Frank Wen and others, MIT (Debian package fluid-soundfont-gm)",
    "gs": "FluidR3_GS.sf2, Frank Wen and others, MIT (Debian package fluid-soundfont-gs)",
    "sonic": "Sonic Pi samples, CC0-1.0 (npm package supersonic-scsynth-samples 0.59.0)",
    "synth": "made by audio_events_synth.py, part of anybind",
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


# program numbers (from 0) of General MIDI by label; synth leads and pads are one label each
_INSTRUMENTS: dict[str, tuple[int, ...]] = {
    "piano": (0, 1, 2, 3), "electric piano": (4, 5), "harpsichord": (6, 7), "celesta": (8,),
    "glockenspiel": (9,), "music box": (10,), "vibraphone": (11,), "marimba": (12,),
    "xylophone": (13,), "church bell": (14,), "dulcimer": (15,), "organ": (16, 17, 18),
    "church organ": (19, 20), "accordion": (21, 23), "harmonica": (22,),
    "acoustic guitar": (24, 25), "electric guitar": (26, 27, 28), "distorted guitar": (29, 30),
    "bass guitar": (32, 33, 34, 35, 36, 37), "synthesizer": (38, 39, 80, 81, 82, 84, 86, 87),
    "violin": (40, 110), "viola": (41,), "cello": (42,), "double bass": (43,),
    "string orchestra": (44, 48, 49), "pizzicato strings": (45,), "harp": (46,),
    "timpani": (47,), "choir": (52, 53, 54, 85), "orchestra": (55,), "trumpet": (56, 59),
    "trombone": (57,), "tuba": (58,), "french horn": (60,), "brass band": (61, 62, 63),
    "saxophone": (64, 65, 66, 67), "oboe": (68, 69), "bassoon": (70,), "clarinet": (71,),
    "piccolo": (72,), "flute": (73, 75, 77), "recorder": (74,), "blowing a bottle": (76,),
    "whistle": (78,), "ocarina": (79,), "ambient music": (88, 89, 91, 92, 94, 95, 99, 101),
    "sitar": (104,), "banjo": (105,), "shamisen": (106,), "koto": (107,), "kalimba": (108,),
    "bagpipes": (109,), "small bell": (112,), "cowbell": (113,), "steel drum": (114,),
    "wood block": (115,), "taiko drum": (116,), "tom drum": (117, 118), "sea waves": (122,),
    "bird": (123,), "telephone": (124,), "helicopter": (125,), "applause": (126,),
    "gunshot": (127,),
}  # fmt: skip

# (bank, program) of the sound effects in the GS bank
_EFFECTS: dict[str, tuple[tuple[int, int], ...]] = {
    "rain": ((1, 122),), "thunder": ((2, 122),), "wind": ((3, 122),), "stream": ((4, 122),),
    "bubbles": ((5, 122),), "dog": ((1, 123),), "horse": ((2, 123),), "bird": ((3, 123),),
    "telephone": ((1, 124),), "creaking door": ((2, 124),), "slamming door": ((3, 124),),
    "record scratch": ((4, 124),), "wind chimes": ((5, 124),), "car engine": ((1, 125),),
    "braking car": ((2, 125),), "passing car": ((3, 125),), "car crash": ((4, 125),),
    "siren": ((5, 125),), "train": ((6, 125),), "airplane": ((7, 125),), "laughter": ((1, 126),),
    "scream": ((2, 126),), "heartbeat": ((4, 126),), "footsteps": ((5, 126),),
    "machine gun": ((1, 127),), "laser gun": ((2, 127),), "explosion": ((3, 127),),
}  # fmt: skip

# keys of the drum channel
_DRUMS: dict[str, tuple[int, ...]] = {
    "bass drum": (35, 36), "snare drum": (38, 40), "clapping": (39,), "hi-hat": (42, 44, 46),
    "cymbal": (49, 52, 55, 57, 51, 59), "tom drum": (41, 43, 45, 47, 48, 50),
    "tambourine": (54,), "cowbell": (56,), "bongo drum": (60, 61, 62, 63, 64),
    "maracas": (69, 70), "wood block": (75, 76, 77), "triangle": (80, 81), "whistle": (71, 72),
}  # fmt: skip
_KITS = (0, 8, 16, 24, 25, 32, 40, 48)

# prefixes of Sonic Pi's file names; files that match none are left out (no everyday name)
_SONIC: dict[str, tuple[str, ...]] = {
    "bass drum": ("bd_", "drum_heavy_kick", "drum_bass"), "snare drum": ("sn_", "drum_snare"),
    "tom drum": ("drum_tom",), "cymbal": ("drum_cymbal", "drum_splash", "ride_"),
    "cowbell": ("drum_cowbell",), "hi-hat": ("hat_",), "drum roll": ("drum_roll",),
    "tabla": ("tabla_",), "electric guitar": ("guit_",), "choir": ("ambi_choir",),
    "piano": ("ambi_piano",), "small bell": ("perc_bell", "elec_bell", "elec_chime"),
    "triangle": ("elec_triangle",), "wood block": ("elec_wood",), "beep": ("elec_beep",),
    "snapping fingers": ("perc_snap",), "cash register": ("perc_till",),
    "slamming door": ("perc_door",), "burp": ("misc_burp",), "crow": ("misc_crow",),
    "record scratch": ("vinyl_scratch", "vinyl_backspin", "vinyl_rewind"),
    "static noise": ("vinyl_hiss",), "synthesizer": ("bass_",),
    "robot": ("mehackit_robot",),
    "drum beat": ("loop_breakbeat", "loop_tabla", "loop_perc", "loop_safari", "loop_electric",
                  "loop_industrial", "loop_compus", "loop_mika"),
    "3d printer": ("loop_3d_printer",),
}  # fmt: skip

_PLAYED = ("{0}", "a {0}", "the sound of a {0}", "someone playing the {0}", "{0} music")
_PHRASES: dict[str, tuple[str, ...]] = {
    "rain": ("rain", "rain falling", "the sound of rain", "heavy rain"),
    "wind": ("wind", "the wind blowing", "the sound of wind", "a storm"),
    "thunder": ("thunder", "a clap of thunder", "the sound of thunder", "a thunderstorm"),
    "stream": ("stream", "flowing water", "the sound of running water", "a river"),
    "sea waves": ("sea waves", "ocean waves", "the sound of the sea", "waves on the beach"),
    "fire": ("fire", "a crackling fire", "the sound of a fire", "a campfire"),
    "dog": ("dog", "a dog", "a dog barking", "the sound of a dog barking"),
    "cat": ("cat", "a cat", "a cat meowing", "the sound of a cat"),
    "cow": ("cow", "a cow", "a cow mooing", "the sound of a cow"),
    "sheep": ("sheep", "a sheep", "a sheep bleating", "the sound of a sheep"),
    "horse": ("horse", "a horse", "a horse galloping", "the sound of hooves"),
    "bird": ("bird", "a bird", "a bird singing", "birds chirping"),
    "owl": ("owl", "an owl", "an owl hooting"), "frog": ("frog", "a frog", "a frog croaking"),
    "crow": ("crow", "a crow", "a crow cawing"),
    "cricket": ("cricket", "a cricket", "crickets chirping", "an insect"),
    "bee": ("bee", "a bee", "a bee buzzing", "a buzzing insect"),
    "speech": ("speech", "a person speaking", "someone talking", "a human voice"),
    "laughter": ("laughter", "a person laughing", "people laughing"),
    "scream": ("scream", "a person screaming", "a woman screaming"),
    "crying baby": ("crying baby", "a baby crying", "the sound of a baby", "a baby"),
    "applause": ("applause", "people clapping", "a crowd applauding", "an audience"),
    "clapping": ("clapping", "clapping hands", "a hand clap"),
    "choir": ("choir", "a choir singing", "people singing", "a singing voice"),
    "siren": ("siren", "a siren", "an ambulance siren", "a police car", "a fire engine"),
    "alarm": ("alarm", "an alarm", "an alarm clock", "a beeping alarm", "the sound of beeping"),
    "clock": ("clock", "a clock", "a clock ticking", "the sound of a ticking clock"),
    "car horn": ("car horn", "a car horn", "a car honking"),
    "car engine": ("car engine", "an engine", "a car", "the sound of an engine"),
    "passing car": ("passing car", "a car passing by", "a car", "traffic"),
    "braking car": ("braking car", "a car", "screeching tyres"),
    "car crash": ("car crash", "a car accident", "a crash"),
    "train": ("train", "a train", "a train passing by", "the sound of a train"),
    "airplane": ("airplane", "an airplane", "a jet plane flying", "the sound of an aircraft"),
    "helicopter": ("helicopter", "a helicopter", "the sound of a helicopter"),
    "telephone": ("telephone", "a telephone", "a phone ringing", "the sound of a telephone"),
    "doorbell": ("doorbell", "a doorbell", "a doorbell ringing"),
    "door knock": ("door knock", "knocking on a door", "someone knocking at the door"),
    "creaking door": ("creaking door", "a door creaking", "a door"),
    "slamming door": ("slamming door", "a door slamming", "a door"),
    "footsteps": ("footsteps", "a person walking", "the sound of footsteps"),
    "heartbeat": ("heartbeat", "a heart beating", "the sound of a heartbeat"),
    "keyboard typing": ("keyboard typing", "typing on a keyboard", "a keyboard"),
    "gunshot": ("gunshot", "a gun", "a gunshot", "the sound of a gun"),
    "machine gun": ("machine gun", "a machine gun", "a gun firing"),
    "explosion": ("explosion", "an explosion", "a bomb", "the sound of an explosion"),
    "breaking glass": ("breaking glass", "glass breaking", "glass shattering"),
    "silence": ("silence", "quiet", "nothing to hear"),
    "static noise": ("static noise", "white noise", "static", "hiss"),
    "saw": ("saw", "a saw", "someone sawing wood"), "hammer": ("hammer", "a hammer", "hammering"),
    "drill": ("drill", "a drill", "an electric drill", "a power tool"),
    "vacuum cleaner": ("vacuum cleaner", "a vacuum cleaner", "the sound of a vacuum cleaner"),
    "bubbles": ("bubbles", "bubbles in water", "bubbling water"),
    "whistle": ("whistle", "a person whistling", "whistling", "a whistle"),
    "church bell": ("church bell", "a bell", "church bells ringing", "a bell ringing"),
    "small bell": ("small bell", "a bell", "a little bell ringing"),
    "cash register": ("cash register", "a cash register"), "burp": ("burp", "a person burping"),
    "snapping fingers": ("snapping fingers", "fingers snapping"),
    "ambient music": ("ambient music", "calm electronic music", "synthesizer music"),
    "drum beat": ("drum beat", "drums", "a drummer", "someone playing the drums"),
}  # fmt: skip


def phrases(label: str) -> tuple[str, ...]:
    """What people would say of a sound with this label; the first is its plain name."""
    if label in _PHRASES:
        return _PHRASES[label]
    played = any(label in table for table in (_INSTRUMENTS, _DRUMS)) or label == "tabla"
    shapes = _PLAYED if played else ("{0}", "a {0}", "the sound of a {0}")
    return tuple(shape.format(label) for shape in shapes)


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


def _played(font: Path, lines: list[_Line], source: str) -> Iterator[Clip]:
    """Render lines one after the other, many in one go, then cut them apart."""
    size = int(SECONDS * RATE)
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
                name = f"{line.label}:{line.bank}:{line.program}"
                yield Clip(piece, line.label, source, line.held_out, name)


_AT_ONCE = 120
EACH = 18
"""Lines of playing a label; every sixth is held out."""


# ---------------------------------------------------------------- sources


def gm_clips(font: Path, seed: int) -> Iterator[Clip]:
    """Instruments and drums of the FluidR3 General MIDI soundfont."""
    r = np.random.default_rng([seed, 1])
    lines: list[_Line] = []
    for label, programs in _INSTRUMENTS.items():
        for i in range(max(EACH, 6 * len(programs))):
            program = programs[i % len(programs)]
            lines.append(_Line(label, 0, program, _phrase(r, (i // len(programs)) % 4), i % 6 == 5))
    for label, keys in _DRUMS.items():
        for i in range(EACH + 6):
            step, key = float(r.choice([0.25, 0.5, 0.75, 1.5, 4])), int(r.choice(keys))
            notes: list[Note] = [(k * step, 0.3, key, int(r.integers(70, 127)))
                                 for k in range(max(1, int(4 / step)))]  # fmt: skip
            lines.append(_Line(label, 0, _KITS[i % len(_KITS)], notes, i % 6 == 5, 9))
    for i in range(48):
        lines.append(_Line("drum beat", 0, _KITS[i % len(_KITS)], _beat(r), i % 6 == 5, 9))
    yield from _played(font, lines, "gm")


def gs_clips(font: Path, seed: int) -> Iterator[Clip]:
    """Sound effects of the FluidR3 GS soundfont; held-out clips differ in pitch and length only."""
    r = np.random.default_rng([seed, 3])
    lines: list[_Line] = []
    for label, presets in _EFFECTS.items():
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
    """Sonic Pi's samples, whole files; every second of each label is held out."""
    import soundfile
    import soxr

    for label, prefixes in _SONIC.items():
        files = sorted(f for f in folder.glob("*.flac") if f.name.startswith(prefixes))
        for index, file in enumerate(files):
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            mono = np.asarray(soxr.resample(samples.mean(1), rate, RATE), np.float32)
            mono = mono[: int(SECONDS * 2 * RATE)]
            yield Clip(mono, label, "sonic", index % 2 == 1, file.stem)


def synth_clips(each: int, seed: int) -> Iterator[Clip]:
    """Sounds made from scratch; every sixth (other parameters) is held out."""
    for label in RECIPES:
        for index in range(each):
            clip = make(label, seed * 100_000 + index, SECONDS)
            yield Clip(clip, label, "synth", index % 6 == 5, f"synth:{label}:{index}")


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
