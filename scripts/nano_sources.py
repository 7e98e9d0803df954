"""Fetches what nano's training data are made from, through npm, pip and apt-get, checked by hash.

Archives of drawings land in OUT as they are; of emojibase-data and timm only the tables are unpacked.
WordNet has a script of its own (`benchmarks/wordnet.py`).

    python scripts/nano_sources.py --out PACKAGES
"""

from __future__ import annotations

import argparse
import hashlib
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


def main() -> None:
    """Fetch all that is not there yet."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, required=True)
    out: Path = p.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for package, wanted in NPM.items():
        name, _, version = package.lstrip("@").replace("/", "-").rpartition("@")
        fetched(out / f"{name}-{version}.tgz", wanted, ["npm", "pack", "--silent", package])
    name, _, version = WHEEL[0].partition("==")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", WHEEL[0]]
    wheel = fetched(out / f"{name}-{version}-py3-none-any.whl", WHEEL[1], pip)
    version = DEBIAN[0].partition("=")[2].replace(":", "%3a")
    clips = out / f"openclipart-svg_{version}_all.deb"
    fetched(clips, DEBIAN[1], ["apt-get", "download", DEBIAN[0]])
    with tarfile.open(out / "emojibase-data-17.0.0.tgz") as tar:
        for language in ("en", "zh"):
            source = tar.extractfile(f"package/{language}/data.json")
            if source is not None:
                keep(out / "emojibase-data" / language / "data.json", source.read())
    with zipfile.ZipFile(wheel) as archive:
        for name in ("imagenet_synsets.txt", "imagenet_synset_to_lemma.txt"):
            keep(out / "imagenet" / name, archive.read(f"timm/data/_info/{name}"))
    print(f"All sources are in {out}; --imagenet {out}/imagenet --emojibase {out}/emojibase-data")


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
