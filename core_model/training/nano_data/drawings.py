"""Drawings with labels: which archives they lie in, under which licence, and what each is called.

Reads icons of iconify's JSON packages (npm) and SVG files of Debian's openclipart. What
`heldout_pictures.json` names is left out, and so is any file whose content equals one of those.
Renders nothing. Sources that are not listed here are not read.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from anybind.errors import UserError

HELD_OUT = Path(__file__).parents[1] / "heldout_pictures.json"
Rule = Literal["emoji", "whole", "tail"]


@dataclass(frozen=True, slots=True)
class Set:
    """One source of drawings."""

    package: str
    """As the registry names it, with version."""
    licence: str
    by: str
    rule: Rule
    """How its labels are read (see `world.Label`)."""
    coloured: bool = True
    only: str = ""
    """A pattern that names must match; its group `label` is the label."""


SETS = {
    "noto": Set("npm @iconify-json/noto 1.2.9", "Apache-2.0", "Google", "emoji"),
    "noto-v1": Set("npm @iconify-json/noto-v1 1.2.5", "Apache-2.0", "Google", "emoji"),
    "fluent-emoji-flat": Set("npm @iconify-json/fluent-emoji-flat 1.2.6", "MIT", "Microsoft", "emoji"),
    "fluent-emoji": Set("npm @iconify-json/fluent-emoji 1.2.7", "MIT", "Microsoft", "emoji"),
    "fluent-emoji-high-contrast": Set("npm @iconify-json/fluent-emoji-high-contrast 1.2.6", "MIT",
                                      "Microsoft", "emoji", False),
    "twemoji": Set("npm @iconify-json/twemoji 1.2.5", "CC-BY-4.0", "Twitter and contributors", "emoji"),
    "emojione": Set("npm @iconify-json/emojione 1.2.3", "CC-BY-4.0", "EmojiTwo (Emoji One)", "emoji"),
    "icon-park": Set("npm @iconify-json/icon-park 1.2.4", "Apache-2.0", "ByteDance", "whole"),
    "flat-color-icons": Set("npm @iconify-json/flat-color-icons 1.2.3", "MIT", "Icons8", "whole"),
    "flat-ui": Set("npm @iconify-json/flat-ui 1.2.3", "MIT", "Designmodo", "whole"),
    "meteocons": Set("npm @iconify-json/meteocons 1.2.4", "MIT", "Bas Milius", "whole",
                     only=r"(?P<label>.+)-fill"),
    "mdi": Set("npm @iconify-json/mdi 1.2.3", "Apache-2.0", "Pictogrammers", "whole", False),
    "ph": Set("npm @iconify-json/ph 1.2.2", "MIT", "Phosphor Icons", "whole", False,
              only=r"(?P<label>.+)-(?:fill|duotone)"),
    "lucide": Set("npm @iconify-json/lucide 1.2.137", "ISC", "Lucide Contributors", "whole", False),
    "tabler": Set("npm @iconify-json/tabler 1.2.41", "MIT", "Pawe\u0142 Kuna", "whole", False),
    "healthicons": Set("npm @iconify-json/healthicons 1.2.13", "MIT", "Resolve to Save Lives",
                       "whole", False),
    "openclipart": Set("Debian openclipart-svg 1:0.18+dfsg-19", "public domain",
                       "contributors of the Open Clip Art Library", "tail"),
}  # fmt: skip
"""Every source, and nothing else."""

_NO_SKIN = re.compile(
    r"skin-tone|-(?:dark|medium-dark|medium|medium-light|light)(?:-|$)|^flag|-flag$"
)
_FOLDERS = (
    "animals", "buildings", "computer/hardware", "containers", "education", "electronics", "food",
    "geography/astronomy", "office", "people", "plants", "recreation", "science", "tools",
    "transportation", "decorations",
)  # fmt: skip
_NOT_FOLDERS = (
    "recreation/games", "recreation/religion", "people/smilies", "people/stickmen",
    "transportation/aiga-symbols", "transportation/roadsigns", "tools/weapons", "people/bodypart",
)  # fmt: skip
_WORK = re.compile(r"<(?:cc:)?Work\b.*?</(?:cc:)?Work>", re.DOTALL)
_METADATA = re.compile(r"<metadata\b.*?</metadata>|<!--.*?-->|\s+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture, not rendered."""

    set: str
    name: str
    label: str
    svg: str

    @property
    def rule(self) -> Rule:
        """How its label is read."""
        return SETS[self.set].rule

    @property
    def digest(self) -> str:
        """Of what is drawn, without what is said about it."""
        return hashlib.sha256(_METADATA.sub("", self.svg).encode()).hexdigest()


@cache
def held_out() -> dict[str, Any]:
    """What nothing may be trained on."""
    return json.loads(HELD_OUT.read_text(encoding="utf-8"))


def is_held_out(set_name: str, folder: str = "") -> bool:
    """Whether a set, or a folder of openclipart, is kept for measuring."""
    said = held_out()
    if set_name in said["iconify"]:
        return True
    barred = said["openclipart_folders"]
    return set_name == "openclipart" and any(
        folder == f or folder.startswith(f"{f}/") for f in barred
    )


def drawings(archives: Path, names: list[str] | None = None) -> Iterator[Drawing]:
    """The drawings of the archives in a folder, in a fixed order.

    Args:
        archives: Folder of `*iconify-json-NAME-VERSION.tgz` and `openclipart-svg_*.deb`.
        names: Sets to read; all by default.

    Raises:
        UserError: a set is unknown or held out, its archive is missing or of no use.
    """
    for name in names or SETS:
        if is_held_out(name):
            raise UserError(f"{name} is kept for measuring; nothing may be trained on it.")
        if name not in SETS:
            raise UserError(f"There is no set {name!r}; there are {', '.join(SETS)}.")
        yield from (
            _openclipart(_archive(archives, name))
            if name == "openclipart"
            else _iconify(name, _archive(archives, name))
        )


def _archive(folder: Path, name: str) -> Path:
    version = SETS[name].package.rpartition(" ")[2].rpartition(":")[2]
    form = (
        f"openclipart-svg_*{version}_*.deb"
        if name == "openclipart"
        else f"*json-{name}-{version}.tgz"
    )
    found = sorted(folder.glob(form))
    if not found:
        raise UserError(f"{folder} holds no {form}: fetch {SETS[name].package}.")
    return found[0]


def _iconify(name: str, archive: Path) -> Iterator[Drawing]:
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        said = json.load(member) if member else {}
    one = SETS[name]
    for key, icon in said.get("icons", {}).items():
        found = re.fullmatch(one.only or r"(?P<label>.+)", key)
        if found is None or icon.get("hidden") or (one.rule == "emoji" and _NO_SKIN.search(key)):
            continue
        wide = icon.get("width", said.get("width", 16))
        high = icon.get("height", said.get("height", 16))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">{icon["body"]}</svg>'
        yield Drawing(name, key, found["label"].replace("-", " "), svg)


def _openclipart(archive: Path) -> Iterator[Drawing]:
    kept: list[tuple[str, str, str]] = []
    barred: set[str] = set()

    def take(path: str, svg: str) -> None:
        folder = path.rpartition("/")[0]
        if is_held_out("openclipart", folder):
            barred.add(Drawing("openclipart", path, "", svg).digest)
            return
        wanted = folder.startswith(_FOLDERS) and not folder.startswith(_NOT_FOLDERS)
        if wanted and "GPL" not in svg:
            kept.append((path, clip_label(svg), svg))

    _walk(archive, take)
    for path, label, svg in sorted(kept):
        drawing = Drawing("openclipart", path, label, svg)
        if label and drawing.digest not in barred:
            yield drawing


def _walk(archive: Path, take: Callable[[str, str], None]) -> None:
    """Every SVG of a Debian package; what is no UTF-8 is left out."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as run:
        with tarfile.open(fileobj=run.stdout, mode="r|") as tar:
            for member in tar:
                _, _, path = member.name.partition("share/openclipart/svg/")
                if not path.endswith(".svg") or not member.isfile():
                    continue
                source = tar.extractfile(member)
                try:
                    take(path, source.read().decode() if source else "")
                except UnicodeDecodeError:
                    continue
    if run.returncode:
        raise UserError(f"{archive.name} can't be unpacked by dpkg-deb.")


def clip_label(svg: str) -> str:
    """What the title of a clip says, as plain lower-case words; "" if it has none."""
    work = _WORK.search(svg)
    title = re.search(r"<dc:title>([^<]*)", work[0]) if work else None
    words = re.sub(r"\(.*?\)|[^a-z -]", " ", html.unescape(title[1]).lower() if title else "")
    said = words.replace("-", " ").split()
    # Some contributors left the title of another file in theirs.
    return "" if len(said) > 4 or "clipart" in said or "and" in said else " ".join(said)
