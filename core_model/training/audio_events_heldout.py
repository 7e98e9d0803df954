"""What the training of the ears must leave out, so that `anybind eval sounds` measures new sounds.

Knows files, recordings, presets and seeds from `heldout_sounds.json`, and how to tell one soundfont from another.
Every source of `audio_events_sources` asks here before it gives a clip.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from anybind.errors import ModelError, UserError

_LIST = Path(__file__).with_name("heldout_sounds.json")
_HEADER = 4096
"""The name of a soundfont stands in its first bytes."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Sounds that are measured with."""

    files: frozenset[str]
    """Names of Sonic Pi's recordings."""
    recordings: frozenset[str]
    """SHA-256 of files out of packages, in hex."""
    packages: tuple[str, ...]
    """How the names of those packages begin; of them no other file is trained on either, since the
    next note or the next song is the same instrument or the same bird."""
    presets: frozenset[tuple[int, ...]]
    """(bank, program) or (128, kit, key) of MuseScore General."""
    seeds_from: int
    """Recipes with this seed or a higher one are drawn for measuring."""

    def file(self, path: Path) -> bool:
        """Whether a recording must not be trained on: by its name, by the folder that its package
        was unpacked to, or by its content.

        Raises:
            OSError: the file can't be read.
        """
        if path.name in self.files:
            return True
        folders = (part.casefold().replace("_", "-") for part in path.parts[:-1])
        if any(f == p or f.startswith(p + "-") for f in folders for p in self.packages):
            return True
        return hashlib.sha256(path.read_bytes()).hexdigest() in self.recordings

    def preset(self, font: str, bank: int, program: int, keys: tuple[int, ...] = ()) -> bool:
        """Whether a preset of the soundfont named `font` must not be trained on; with a kit (bank
        128), whether one of its `keys` must not."""
        if "musescore" not in font.casefold():
            return False
        if bank == 128:
            return any((128, program, key) in self.presets for key in keys)
        return (bank, program) in self.presets

    def check_seed(self, seed: int) -> None:
        """Refuse seeds of recipes that are measured with.

        Raises:
            UserError: the seed is held out.
        """
        if not 0 <= seed < self.seeds_from:
            raise UserError(f"Recipe seeds from {self.seeds_from} on are held out; got {seed}.")


@cache
def held_out() -> HeldOut:
    """The list that comes with the package."""
    known = json.loads(_LIST.read_text(encoding="utf-8"))
    return HeldOut(
        files=frozenset(known["sonic_pi_files"]),
        recordings=frozenset(known["recordings"]),
        packages=tuple(known["packages"]),
        presets=frozenset(tuple(preset) for preset in known["musescore_general"]),
        seeds_from=int(known["recipe_seeds_from"]),
    )


def font_name(path: Path) -> str:
    """What a soundfont (SF2, SF3) calls itself; file names are changed too easily.

    Raises:
        ModelError: the file is no soundfont, or does not say its name.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER)
    at = head.find(b"INAM")
    if head[:4] != b"RIFF" or head[8:12] != b"sfbk" or at < 0:
        raise ModelError(f"{path.name} is not a soundfont that says its name")
    size = struct.unpack_from("<I", head, at + 4)[0]
    return head[at + 8 : at + 8 + size].split(b"\0")[0].decode("ascii", "replace")
