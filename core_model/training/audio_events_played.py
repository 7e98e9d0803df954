"""Instruments and drums made from scratch: sums of partials, reeds, strings and membranes.

A soundfont holds one recording of an instrument; a head trained on it learns the recording. Here every
clip is another instrument of its family: body, brightness, attack, decay and tuning are drawn anew.
Knows how one note of a family sounds; what is played comes as notes, and names are those of
`audio_events_words`. They are likenesses, free of rights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

Wave = NDArray[np.float64]
Random = np.random.Generator
RATE = 16_000
Note = tuple[float, float, int, int]
"""Start and length in seconds, MIDI key, velocity."""
Voice = Callable[[float, float, float], Wave]
"""One note: frequency in Hz, seconds held, loudness 0..1."""


def _t(seconds: float) -> Wave:
    return np.arange(max(16, int(seconds * RATE))) / RATE


def _filter(x: Wave, low: float, high: float) -> Wave:
    low, high = max(20.0, low), min(7_900.0, max(high, low * 1.2))
    return np.asarray(sosfilt(butter(1, [low, high], "band", fs=RATE, output="sos"), x))


def _body(r: Random, x: Wave, peaks: tuple[float, ...], amount: float) -> Wave:
    """Resonances of a body, each instrument's a little elsewhere."""
    out = x * (1 - amount)
    for peak in peaks:
        centre = peak * r.uniform(0.88, 1.13)
        out = out + _filter(x, centre * 0.8, centre * 1.25) * amount * r.uniform(1, 3)
    return out


def _partials(f: float, ratios: Wave, amps: Wave, decays: Wave, seconds: float, r: Random) -> Wave:
    """Decaying sines [frames]: `ratios`, `amps`, and `decays` in seconds, one each."""
    t, out = _t(seconds), np.zeros(len(_t(seconds)))
    for ratio, amp, decay in zip(ratios, amps, decays, strict=True):
        if f * ratio < 7_600 and amp > 1e-4:
            phase = r.uniform(0, 2 * np.pi)
            out += amp * np.sin(2 * np.pi * f * ratio * t + phase) * np.exp(-t / decay)
    return out


def string(
    r: Random, bright: float, ring: float, stiff: float = 1e-4, peaks: tuple[float, ...] = (),
    knock: float = 0.1, drive: float = 0.0, strings: int = 1, buzz: float = 0.0,
) -> Voice:  # fmt: skip
    """Plucked or struck strings: `bright` is the slope of partials, `ring` seconds at 220 Hz."""
    bright, ring = bright * r.uniform(0.8, 1.25), ring * r.uniform(0.6, 1.6)
    where, stiff = r.uniform(0.08, 0.4), stiff * r.uniform(0.5, 2)
    damping, shapes = r.uniform(0.01, 0.06), r.integers(1 << 30)
    knock *= r.uniform(0.4, 1.8)

    def note(f: float, held: float, loud: float) -> Wave:
        k = np.arange(1, 42)
        ratios = k * np.sqrt(1 + stiff * k**2)
        amps = np.abs(np.sin(np.pi * k * where)) / k ** (bright * (1.25 - 0.35 * loud))
        decays = ring * (220 / f) ** 0.5 / (1 + damping * k**1.3)
        seconds = min(4.0, held + 0.25)
        out = np.zeros(len(_t(seconds)))
        for _ in range(strings):
            out += _partials(
                f * 2 ** (r.uniform(-3, 3) * (strings > 1) / 1200), ratios, amps, decays, seconds, r
            )
        t = _t(seconds)
        if buzz:  # the string touches the bridge: partials come and go
            out += buzz * np.tanh(3 * out) * np.sin(2 * np.pi * f * 7 * t + 5 * np.exp(-t * 3))
        click = r.standard_normal(len(t)) * np.exp(-t / 0.006)
        out += knock * _filter(click, 300, 4_500)
        if drive:
            out = np.tanh(out * drive / (np.abs(out).max() + 1e-9))
        out = out * np.clip((held + 0.2 - t) / 0.12, 0, 1)
        return _body(np.random.default_rng(shapes), out, peaks, 0.6) if peaks else out

    return note


def bar(
    r: Random, ratios: tuple[float, ...], ring: float, slope: float = 1.0, click: float = 0.1,
    tremolo: float = 0.0, shift: int = 0,
) -> Voice:  # fmt: skip
    """Struck bars, plates and bells with their own `ratios` of partials."""
    ring, slope = ring * r.uniform(0.6, 1.7), slope * r.uniform(0.7, 1.4)
    fixed = np.array(ratios) * r.uniform(0.985, 1.015, len(ratios))
    fixed[0] = ratios[0]
    rate, click = r.uniform(3.5, 7), click * r.uniform(0.4, 2)

    def note(f: float, held: float, loud: float) -> Wave:
        f = f * 2 ** (shift / 12)
        k = np.arange(1, len(fixed) + 1)
        out = _partials(
            f, fixed, loud / k**slope, ring * (440 / f) ** 0.3 / k**0.8, min(4, ring * 3 + 0.2), r
        )
        t = np.arange(len(out)) / RATE
        out *= 1 + tremolo * np.sin(2 * np.pi * rate * t)
        return out + click * _filter(r.standard_normal(len(t)) * np.exp(-t / 0.004), 800, 6_000)

    return note


def blown(
    r: Random, slope: float, peaks: tuple[float, ...] = (), odd: float = 0.0, breath: float = 0.02,
    attack: float = 0.05, vibrato: float = 0.0, players: int = 1, swell: float = 0.0,
    shift: int = 0, chiff: float = 0.0,
) -> Voice:  # fmt: skip
    """Whatever sounds as long as it is driven: winds, brass, bows, reeds, pipes.

    `slope` is the fall of partials, `odd` how much the even ones are missing, `swell` how much brightness
    follows loudness, `players` how many play together.
    """
    slope, attack = slope * r.uniform(0.8, 1.25), attack * r.uniform(0.5, 2)
    breath, vibrato = breath * r.uniform(0.3, 2.5), vibrato * r.uniform(0.3, 1.6)
    rate, shapes = r.uniform(4.3, 6.8), r.integers(1 << 30)

    def note(f: float, held: float, loud: float) -> Wave:
        f = f * 2 ** (shift / 12)
        t = _t(held + 0.15)
        rise = np.clip(t / attack, 0, 1) ** 0.7 * np.clip((held + 0.1 - t) / 0.1, 0, 1)
        out = np.zeros(len(t))
        for _ in range(players):
            cents = r.normal(0, 9) if players > 1 else 0.0
            depth = vibrato * np.clip((t - 0.2) / 0.4, 0, 1)
            wobble = depth * np.sin(2 * np.pi * rate * t + r.uniform(0, 6))
            drift = np.interp(t, np.linspace(0, t[-1], 6), r.normal(0, 3, 6))
            hum = 2 * np.pi * np.cumsum(f * 2 ** ((cents + 40 * wobble + drift) / 1200)) / RATE
            for k in range(1, int(min(40, 7_400 / f)) + 1):
                amp = k ** -(slope * (1.3 - 0.45 * loud))
                amp *= 1 - odd * (k % 2 == 0)
                bright = rise ** (1 + swell * (k - 1) * 0.35) if swell else rise
                out += amp * np.sin(k * hum + k) * bright
        noise = _filter(r.standard_normal(len(t)), max(300, f), min(7_800, f * 5 + 1_500))
        out += noise * (breath * rise + chiff * np.exp(-t / 0.03))
        return _body(np.random.default_rng(shapes), out, peaks, 0.65) if peaks else out

    return note


def circuit(r: Random) -> Voice:
    """A synthesizer: saws or pulses through a filter that opens and closes."""
    pulse, width, detune = r.random() < 0.5, r.uniform(0.1, 0.5), r.uniform(0, 14)
    start, end, fall = r.uniform(600, 7_000), r.uniform(200, 5_000), r.uniform(0.05, 0.8)
    attack, tail = r.choice([0.003, 0.003, 0.05, 0.2]), r.uniform(0.03, 0.4)
    low = r.random() < 0.3

    def note(f: float, held: float, loud: float) -> Wave:
        f, t = f / (2 if low else 1), _t(held + tail)
        cut = (end + (start - end) * np.exp(-t / fall)) * (0.5 + loud / 2)
        out = np.zeros(len(t))
        for cents in (-detune, detune):
            hum = 2 * np.pi * f * 2 ** (cents / 1200) * t
            for k in range(1, int(min(50, 7_400 / f)) + 1):
                amp = np.sin(np.pi * k * width) / k if pulse else 1 / k
                out += amp * np.sin(k * hum) / (1 + (k * f / cut) ** 4)
        return out * np.clip(t / attack, 0, 1) * np.clip((held + tail - t) / tail, 0, 1)

    return note


def tine(r: Random) -> Voice:
    """An electric piano: one sine bends another."""
    ratio, depth = float(r.choice([1.0, 1.0, 14.0, 7.0])), r.uniform(0.5, 2.5)
    ring, trem, rate = r.uniform(0.6, 2.0), r.uniform(0, 0.4), r.uniform(3, 6)

    def note(f: float, held: float, loud: float) -> Wave:
        t = _t(min(4, held + 0.3))
        index = depth * loud * np.exp(-t / (ring * 0.4)) / (1 if ratio < 2 else 4)
        out = np.sin(2 * np.pi * f * t + index * np.sin(2 * np.pi * f * ratio * t))
        out *= np.exp(-t / ring) * (1 + trem * np.sin(2 * np.pi * rate * t))
        return out * np.clip((held + 0.2 - t) / 0.15, 0, 1)

    return note


def skin(
    r: Random, low: float, high: float, ring: float, bend: float, noise: float,
    ratios: tuple[float, ...] = (1, 1.59, 2.14, 2.3, 2.65), keyed: bool = False,
) -> Voice:  # fmt: skip
    """A drum: a membrane whose pitch falls, and the noise of the stroke."""
    tuned, ring, bend = r.uniform(low, high), ring * r.uniform(0.5, 1.8), bend * r.uniform(0.3, 1.6)
    noise, colour = noise * r.uniform(0.4, 1.8), r.uniform(600, 5_000)

    def note(f: float, held: float, loud: float) -> Wave:
        pitch, t = f if keyed else tuned * r.uniform(0.98, 1.02), _t(ring * 4 + 0.1)
        hum = 2 * np.pi * np.cumsum(pitch * (1 + bend * np.exp(-t / 0.03))) / RATE
        out = np.zeros(len(t))
        for k, ratio in enumerate(ratios):
            out += np.sin(ratio * hum) * np.exp(-t / (ring / (1 + k * 0.8))) / (1 + 1.2 * k)
        stroke = r.standard_normal(len(t)) * np.exp(-t / r.uniform(0.004, 0.02))
        return (out + noise * _filter(stroke, 80, colour)) * (0.4 + loud)

    return note


def rattle(r: Random, low: float, high: float, ring: float, tone: float = 0.0, hits: int = 1,
           spread: float = 0.0, metal: bool = False) -> Voice:  # fmt: skip
    """Noise of a stroke or shake: snare, cymbal, clap, maracas, tambourine."""
    low, high = low * r.uniform(0.75, 1.3), high * r.uniform(0.8, 1.1)
    ring, pitch = ring * r.uniform(0.5, 1.8), r.uniform(150, 260)
    squares = r.uniform(1.2, 9.0, 8) * r.uniform(350, 600)

    def note(f: float, held: float, loud: float) -> Wave:
        t, at = _t(ring * 5 + spread * hits + 0.05), 0.0
        env = np.zeros(len(t))
        for _ in range(hits):
            env += np.where(t >= at, np.exp(-(t - at).clip(0) / ring), 0) * r.uniform(0.5, 1)
            at += spread * r.uniform(0.6, 1.4)
        noise = r.standard_normal(len(t))
        if metal:
            noise = 0.4 * noise + sum(np.sign(np.sin(2 * np.pi * q * t)) for q in squares) / 4
        out = _filter(_filter(noise, low, high), low, high) * env
        return out + tone * np.sin(2 * np.pi * pitch * t) * np.exp(-t / 0.08)

    return note


_BELL = (0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.67, 3.0, 4.0)
_BAR = (1.0, 2.76, 5.4, 8.93)
Family = Callable[[Random], Voice]
FAMILIES: dict[str, Family] = {
    "piano": lambda r: string(r, 1.5, 1.6, 3e-4, (), 0.08, strings=3),
    "harpsichord": lambda r: string(r, 0.55, 1.0, 5e-5, (), 0.3, strings=int(r.integers(1, 3))),
    "dulcimer": lambda r: string(r, 1.0, 1.2, 1e-4, (400, 900), 0.3, strings=3),
    "acoustic guitar": lambda r: string(r, 1.15, 0.9, 5e-5, (110, 220, 420), 0.2),
    "electric guitar": lambda r: string(r, 1.25, 1.8, 5e-5, (500, 2_200), 0.03, drive=r.uniform(0.5, 2)),
    "distorted guitar": lambda r: string(r, 0.8, 3.0, 5e-5, (700, 2_500), 0.02, drive=r.uniform(6, 25)),
    "bass guitar": lambda r: string(r, 1.3, 1.4, 8e-5, (90, 700), 0.1),
    "banjo": lambda r: string(r, 0.7, 0.3, 5e-5, (450, 900, 1_600), 0.3),
    "sitar": lambda r: string(r, 0.6, 1.5, 2e-5, (500, 1_500), 0.1, buzz=r.uniform(0.2, 0.8)),
    "koto": lambda r: string(r, 1.0, 0.8, 4e-5, (300, 800), 0.2),
    "shamisen": lambda r: string(r, 0.7, 0.35, 4e-5, (400, 1_100), 0.6, buzz=r.uniform(0, 0.3)),
    "harp": lambda r: string(r, 1.8, 1.4, 3e-5, (250, 500), 0.05),
    "pizzicato strings": lambda r: string(r, 1.5, 0.16, 3e-5, (290, 480, 1_000), 0.12, strings=3),
    "electric piano": tine,
    "celesta": lambda r: bar(r, (1.0, 3.0, 5.4), 0.8, 1.6, 0.08, shift=12),
    "glockenspiel": lambda r: bar(r, _BAR, 1.2, 0.8, 0.15, shift=24),
    "music box": lambda r: bar(r, (1.0, 2.9, 6.2, 9.1), 0.7, 1.1, 0.25, shift=18),
    "vibraphone": lambda r: bar(r, (1.0, 4.0, 10.2), 1.8, 1.6, 0.05, tremolo=r.uniform(0.1, 0.7)),
    "marimba": lambda r: bar(r, (1.0, 4.0, 9.8), 0.22, 1.6, 0.1),
    "xylophone": lambda r: bar(r, (1.0, 3.0, 6.1), 0.13, 0.9, 0.3, shift=12),
    "tubular bells": lambda r: bar(r, (0.5, 1.0, 1.5, 2.1, 2.7, 3.4, 4.1), 1.6, 0.4, 0.1),
    "church bell": lambda r: bar(r, _BELL, 1.8, 0.5, 0.1, shift=-6),
    "small bell": lambda r: bar(r, (1.0, 2.4, 3.9, 5.6), 0.6, 0.7, 0.1, shift=30),
    "kalimba": lambda r: bar(r, (1.0, 6.2, 13.0), 0.5, 1.7, 0.2),
    "steel drum": lambda r: bar(r, (1.0, 2.0, 3.01, 4.02, 5.3), 0.45, 0.8, 0.1),
    "triangle": lambda r: bar(r, (1, 1.7, 2.4, 3.1, 4.3), 1.2, 0.2, 0.05, shift=36),
    "cowbell": lambda r: bar(r, (1, 1.48, 2.6, 3.7), 0.15, 0.5, 0.1, shift=8),
    "wood block": lambda r: bar(r, (1, 2.4, 4.1), 0.035, 0.8, 0.4, shift=12),
    "metronome": lambda r: bar(r, (1, 2.2), 0.018, 0.6, 0.8, shift=18),
    "violin": lambda r: blown(r, 1.0, (280, 460, 1_100, 2_600), 0, 0.03, 0.09, 0.8),
    "viola": lambda r: blown(r, 1.15, (220, 380, 900, 1_700), 0, 0.03, 0.1, 0.7, shift=-5),
    "cello": lambda r: blown(r, 1.15, (110, 220, 600, 1_300), 0, 0.03, 0.1, 0.7, shift=-14),
    "double bass": lambda r: blown(r, 1.3, (70, 150, 400), 0, 0.04, 0.13, 0.3, shift=-26),
    "string orchestra": lambda r: blown(r, 1.1, (300, 700, 1_500), 0, 0.03, 0.2, 0.6, 6),
    "orchestra": lambda r: blown(r, 0.95, (400, 1_200), 0, 0.03, 0.04, 0.3, 5, swell=0.3),
    "trumpet": lambda r: blown(r, 0.75, (1_100, 2_100), 0, 0.01, 0.05, 0.3, swell=0.9),
    "trombone": lambda r: blown(r, 0.9, (500, 1_100), 0, 0.01, 0.07, 0.3, swell=0.9, shift=-12),
    "tuba": lambda r: blown(r, 1.3, (230, 480), 0, 0.01, 0.08, 0.1, swell=0.6, shift=-24),
    "french horn": lambda r: blown(r, 1.4, (340, 750), 0, 0.01, 0.08, 0.1, swell=0.8, shift=-7),
    "brass band": lambda r: blown(r, 0.8, (700, 1_400), 0, 0.01, 0.05, 0.2, 4, swell=0.8),
    "saxophone": lambda r: blown(r, 0.9, (550, 1_200, 2_600), 0.1, 0.06, 0.04, 0.6, shift=-5),
    "oboe": lambda r: blown(r, 0.6, (1_050, 1_400, 2_900), 0.1, 0.01, 0.04, 0.5),
    "bassoon": lambda r: blown(r, 0.9, (450, 550, 1_150), 0.1, 0.01, 0.04, 0.2, shift=-19),
    "clarinet": lambda r: blown(r, 1.0, (1_500, 3_700), r.uniform(0.7, 0.97), 0.02, 0.05, 0.1),
    "flute": lambda r: blown(r, 1.9, (), 0, 0.12, 0.07, 0.6, shift=7),
    "piccolo": lambda r: blown(r, 1.7, (), 0, 0.1, 0.04, 0.5, shift=22),
    "recorder": lambda r: blown(r, 1.8, (), 0.4, 0.06, 0.03, 0.2, shift=10, chiff=0.15),
    "pan flute": lambda r: blown(r, 2.1, (), 0.6, 0.35, 0.08, 0.3, shift=5, chiff=0.6),
    "ocarina": lambda r: blown(r, 3.0, (), 0, 0.04, 0.05, 0.3, shift=12),
    "harmonica": lambda r: blown(r, 0.55, (800, 1_800), 0, 0.04, 0.03, 0.3, shift=7),
    "accordion": lambda r: blown(r, 0.6, (600, 1_500), 0, 0.02, 0.05, 0, 3, shift=5),
    "bagpipes": lambda r: blown(r, 0.35, (900, 1_700), 0, 0.02, 0.02, 0, 2, shift=7),
    "organ": lambda r: blown(r, 1.1, (), r.uniform(0, 0.7), 0.01, 0.008, r.uniform(0, 0.8), 2),
    "church organ": lambda r: blown(r, 0.8, (), r.uniform(0, 0.4), 0.04, 0.06, 0, 3, chiff=0.1),
    "choir": lambda r: blown(r, 1.1, (float(r.choice([400, 550, 750])), 1_100, 2_700), 0, 0.05, 0.15, 0.5, 5),
    "synthesizer": circuit,
    "bass drum": lambda r: skin(r, 42, 85, 0.12, 1.6, 0.4, (1, 1.6)),
    "tom drum": lambda r: skin(r, 75, 230, 0.16, 0.3, 0.3),
    "timpani": lambda r: skin(r, 60, 160, 0.6, 0.05, 0.3, (1, 1.5, 1.98, 2.44), keyed=False),
    "taiko drum": lambda r: skin(r, 48, 100, 0.3, 0.2, 0.8),
    "bongo drum": lambda r: skin(r, 200, 480, 0.06, 0.1, 0.3),
    "tabla": lambda r: skin(r, 140, 400, 0.25, r.uniform(0, 0.4), 0.2, (1, 2, 3, 4, 5)),
    "snare drum": lambda r: rattle(r, 500, 6_500, 0.07, tone=r.uniform(0.2, 0.9)),
    "hi-hat": lambda r: rattle(r, 4_500, 7_900, float(r.choice([0.02, 0.03, 0.15])), metal=True),
    "cymbal": lambda r: rattle(r, 2_000, 7_900, 0.5, metal=True),
    "clapping": lambda r: rattle(r, 700, 3_000, 0.02, hits=int(r.integers(2, 5)), spread=0.01),
    "maracas": lambda r: rattle(r, 3_000, 7_800, 0.02),
    "tambourine": lambda r: rattle(r, 4_000, 7_900, 0.06, hits=4, spread=0.018, metal=True),
}  # fmt: skip
"""A newly drawn instrument of each family."""

LOWER = frozenset(("bass guitar", "timpani"))
"""Played an octave and more below the others."""


def perform(label: str, notes: list[Note], seconds: float, seed: int) -> NDArray[np.float32]:
    """Notes played on an instrument drawn by the seed: [frames] at 16 kHz, peak 0.9."""
    r = np.random.default_rng([seed, *label.encode()])
    voice = FAMILIES[label](r)
    out = np.zeros(int(seconds * RATE))
    for start, held, key, loud in notes:
        low = 24 if label in LOWER else 0
        wave = voice(440 * 2 ** ((key - low - 69) / 12), held, loud / 127)
        at = int(start * RATE)
        wave = wave[: max(0, len(out) - at)]
        out[at : at + len(wave)] += wave * (loud / 127) ** 1.5
    return (out / (np.abs(out).max() + 1e-9) * 0.9).astype(np.float32)
