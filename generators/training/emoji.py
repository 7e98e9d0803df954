"""The training pictures and their texts: Fluent 3D emoji with emojibase labels.

Knows the two unpacked npm packages (``@lobehub/fluent-emoji-3d`` 1.1.0 and ``emojibase-data``
17.0.0, both MIT), the pairing of file names with labels, and which texts are kept out of training
for the measures. Knows nothing of models.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PICTURES = "lobehub-fluent-emoji-3d-1.1.0/package/assets"
LABELS = "emojibase-data-17.0.0/package/en/data.json"
SOURCES = ("npm:@lobehub/fluent-emoji-3d==1.1.0 (MIT)", "npm:emojibase-data==17.0.0 (MIT)")

#: emojibase groups whose pictures mean the same when mirrored (animals, food).
MIRROR_GROUPS = frozenset({3, 4})
FLAG_GROUP = 9
PEOPLE_GROUP = 1

TRAIN_TEMPLATES = (
    "{}",
    "a {}",
    "a picture of a {}",
    "a 3D emoji of a {}",
    "draw a {}",
    "an image of {}",
    "the sound of a {}",
    "this is a {}",
)
#: never seen in training; used by ``evaluate``.
HELD_OUT_TEMPLATES = ("please paint me one {}", "a small rendering showing {}")


@dataclass(frozen=True, slots=True)
class Emoji:
    """One concept: its picture, its label, tags seen in training, and at most one kept-out tag."""

    hexcode: str
    label: str
    group: int
    tags: tuple[str, ...]
    held_out_tag: str | None
    file: Path

    @property
    def weight(self) -> float:
        """How often to draw it: flags and the many professions would drown the rest."""
        return {FLAG_GROUP: 0.35, PEOPLE_GROUP: 0.6}.get(self.group, 1.0)

    def texts(self) -> list[str]:
        """Every training text of this concept, the bare label first."""
        texts = [template.format(self.label) for template in TRAIN_TEMPLATES]
        texts += [f"{self.label}, {tag}" for tag in self.tags]
        texts += list(self.tags)
        if self.tags:
            texts.append(", ".join((self.label, *self.tags)))
        return list(dict.fromkeys(texts))


def load(root: Path, seed: int = 7) -> list[Emoji]:
    """All emoji of ``root`` with both a picture and a label, in emojibase order (1,852 of them).

    Skin-tone variants are left out: their labels differ from the base in the tone alone.
    A tag is kept out only where another two remain.
    """
    records: list[dict[str, Any]] = json.loads((root / LABELS).read_text("utf-8"))
    files = {path.stem.upper(): path for path in sorted((root / PICTURES).glob("*.webp"))}
    rng = random.Random(seed)
    found: list[Emoji] = []
    for record in records:
        code = str(record["hexcode"])
        names = (code, code + "-FE0F", code.replace("-FE0F", ""))
        file = next((files[name] for name in names if name in files), None)
        if file is None:
            continue
        label = str(record["label"])
        tags = [str(tag) for tag in record.get("tags", []) if str(tag) != label]
        held_out = None
        if len(tags) >= 3:
            held_out = tags.pop(rng.randrange(len(tags)))
        found.append(Emoji(code, label, int(record.get("group", -1)), tuple(tags), held_out, file))
    return found


def picture(emoji: Emoji, size: int) -> np.ndarray:
    """The picture on white, area-resized: uint8 ``[size, size, 3]``."""
    image = Image.open(emoji.file).convert("RGBA")
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(ground, image).convert("RGB")
    return np.asarray(flat.resize((size, size), Image.Resampling.LANCZOS))


def pictures(emojis: list[Emoji], size: int, cache: Path | None = None) -> np.ndarray:
    """All pictures: uint8 ``[N, size, size, 3]``; kept in ``cache`` (a .npy file) when given."""
    if cache is not None and cache.exists():
        stored: np.ndarray = np.load(cache)
        if stored.shape == (len(emojis), size, size, 3):
            return stored
    stacked = np.stack([picture(emoji, size) for emoji in emojis])
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, stacked)
    return stacked
