"""Manifests of held-out pictures, sounds, captions and requests: complete, licensed, not trained on."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FREE = ("Apache-2.0", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "MIT", "public domain")


def load(script: str) -> ModuleType:
    """A script by its path: `benchmarks` is no package."""
    path = ROOT / "benchmarks" / script
    spec = importlib.util.spec_from_file_location(path.parent.name + "_" + path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lines(name: str) -> list[dict[str, Any]]:
    text = (ROOT / "benchmarks" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def heldout(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "core_model" / "training" / name).read_text())


def test_every_picture_is_licensed_hashed_and_declared_as_held_out() -> None:
    pictures = lines("pictures/manifest.jsonl")
    assert len(pictures) >= 200
    assert max(Counter(p["id"] for p in pictures).values()) == 1
    assert max(Counter(p["sha256"] for p in pictures).values()) == 1
    declared = heldout("heldout_pictures.json")
    for p in pictures:
        assert p["licence"].startswith(FREE), p["id"]
        assert re.fullmatch(r"[0-9a-f]{64}", p["sha256"]), p["id"]
        assert p["label"] and p["synsets"] and p["version"]
        assert all(re.fullmatch(r"\S+\.n\.\d\d", s) for s in p["synsets"])
        if p["source"] == "openclipart":
            folder = p["member"].split("/svg/")[1].rpartition("/")[0]
            assert any(folder.startswith(f) for f in declared["openclipart_folders"]), p["member"]
        else:
            assert p["source"] in declared["iconify"]


def test_changed_icons_are_refused() -> None:
    fetch = load("pictures/fetch.py")
    picture = {"id": "a", "member": "package/icons.json", "icon": "a", "sha256": "0" * 64}

    class Fetcher:
        @staticmethod
        def members(*_: Any) -> Any:
            icons = {"width": 8, "icons": {"a": {"body": "<path/>", "height": 4}}}
            yield "package/icons.json", json.dumps(icons).encode()

    ((_, found, svg),) = fetch.svgs(Path("x"), "tgz", [picture], Fetcher)
    assert found != picture["sha256"] and re.fullmatch(r"[0-9a-f]{64}", found)
    assert 'viewBox="0 0 8 4"' in svg and "<path/>" in svg


def test_each_photograph_has_one_caption_among_enough() -> None:
    captions = lines("data/captions.jsonl")
    photos = [p["id"] for p in lines("photos/manifest.jsonl")]
    assert [c["id"] for c in captions if c["id"]] == photos
    assert len(captions) >= 250
    assert len({c["caption"] for c in captions}) == len(captions)


def test_unlike_requests_say_their_arguments() -> None:
    rows = lines("data/tool_requests_unlike.jsonl")
    assert len(rows) >= 60
    older = {r["text"].lower() for r in lines("data/tool_requests.jsonl")}
    takes = {
        "Replace Something From The Photo": 2, "Detect the Give Object": 1, "Crop Image": 1,
        "Segment the given object": 1, "Crop the Given Object": 1,
        "Remove Something From The Photo": 1, "Generate Image From User Input Text": 1,
    }  # fmt: skip
    for row in rows:
        assert row["text"].lower() not in older
        assert len(row["args"]) == takes.get(row["right"][0], 0), row["id"]
    assert sum(r["right"] == [""] for r in rows) >= 10


def test_test_requests_are_no_training_requests() -> None:
    ours = json.loads((ROOT / "agent" / "evaluation" / "toolchat_words.json").read_text())
    theirs = (ROOT / "core_model" / "training" / "toolchat_requests.json").read_text()
    trained = json.loads(theirs)["tools"]

    def bare(text: str) -> str:
        words = re.sub(r"\{\w+\}", "", text.lower())
        return " ".join(re.findall(r"[a-z]+", words))

    known = {bare(t) for kinds in trained.values() for some in kinds.values() for t in some}
    for name, templates in ours["tools"].items():
        assert len(set(templates)) >= 6, name
        assert not known & {bare(t) for t in templates}, name
    unseen = set(heldout("heldout_tools.json")["tools"])
    assert len(unseen) == 8 and unseen <= set(ours["tools"])
    assert not unseen & set(trained)


def test_sounds_have_classes_and_their_melodies_stay_in_the_clip() -> None:
    make = load("sounds/make.py")
    classes = json.loads((ROOT / "benchmarks" / "sounds" / "classes.json").read_text())
    fetched = {r["label"] for r in lines("sounds/recordings.jsonl")}
    used = {*make.MUSESCORE, *make.FLUIDR3, *make.SONIC, *fetched}
    assert (
        len({*make.MUSESCORE, *make.SONIC, *fetched}) >= 50
    )  # recordings, none of them trained on
    assert used <= set(classes) and len(used) >= 40
    assert all(c["names"] for c in classes.values())
    for seed in range(30):
        r = np.random.default_rng(seed)
        for start, seconds, key, loud in make.phrase(r, 40, 70):
            assert 0 <= start and start + seconds <= make.SECONDS
            assert 0 < key < 128 and 0 < loud < 128
    assert all(entry[2].startswith(("MIT", "CC0")) for entry in make.PACKAGES.values())


@pytest.mark.parametrize(("value", "wanted"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x81\x00")])
def test_midi_deltas_are_variable_length(value: int, wanted: bytes) -> None:
    make = load("sounds/make.py")
    body = make.midi([(value / 1000, b"\x90\x3c\x40")]).partition(b"MTrk")[2]
    assert wanted + b"\x90\x3c\x40" in body


def test_the_recordings_measured_with_are_declared_as_held_out() -> None:
    make = load("sounds/make.py")
    files = heldout("heldout_sounds.json")["sonic_pi_files"]
    prefixes = tuple(p.rstrip("*") for some in make.SONIC.values() for p in some)
    assert len(files) >= 50 and all(f.startswith(prefixes) for f in files)
    assert heldout("heldout_sounds.json")["recipe_seeds_from"] == make.OWN_SEED


def test_every_fetched_recording_is_licensed_hashed_and_declared_as_held_out() -> None:
    recordings = lines("sounds/recordings.jsonl")
    declared = heldout("heldout_sounds.json")
    assert {r["sha256"] for r in recordings} == set(declared["recordings"])
    assert max(Counter(r["id"] for r in recordings).values()) == 1
    clips = Counter((r["sha256"], r.get("start", 0.0)) for r in recordings)
    assert max(clips.values()) == 1
    begins = tuple(declared["packages"])
    for r in recordings:
        assert r["licence"].startswith(FREE), r["id"]
        assert r["version"] and r["by"] and re.fullmatch(r"[0-9a-f]{64}", r["sha256"])
        assert (r["kind"], r["form"]) in {("npm", "tgz"), ("pypi", "wheel"), ("debian", "deb")}
        assert r["package"].startswith(begins), r["id"]


def package(folder: Path, content: bytes) -> Path:
    path = folder / "thing-1.0.tgz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/a.raw")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return path


def test_recordings_are_read_out_of_their_package_and_checked(tmp_path: Path) -> None:
    module = load("sounds/recordings.py")
    tone = np.sin(np.arange(22_050) * 0.1)
    content = (tone * 16_384).astype(">i2").tobytes()
    archive = package(tmp_path, content)
    one = {
        "id": "a", "kind": "npm", "package": "thing", "version": "1.0", "form": "tgz",
        "member": "package/a.raw", "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    ((found, samples),) = module.fetch([one], [archive], 16_000, 0.5)
    assert found is one and len(samples) == 8_000
    assert 0.4 < np.abs(samples).max() < 0.6
    ((_, later),) = module.fetch([{**one, "start": 0.75}], [archive], 16_000, 0.5)
    assert len(later) == 4_000
    with pytest.raises(ValueError, match="sha256"):
        list(module.fetch([{**one, "sha256": "0" * 64}], [archive], 16_000, 0.5))
    with pytest.raises(ValueError, match=r"no package/b\.raw"):
        list(module.fetch([{**one, "member": "package/b.raw"}], [archive], 16_000, 0.5))


@pytest.mark.parametrize(
    ("kind", "package", "version", "file"),
    [
        ("npm", "@audio/piano-a", "1.0", "audio-piano-a-1.0.tgz"),
        ("pypi", "sound-thing", "2.1", "sound_thing-2.1-py3-none-any.whl"),
        ("debian", "stk", "1:4.6-2", "stk_1%3a4.6-2_amd64.deb"),
    ],
)
def test_archives_are_known_by_what_the_clients_call_them(
    kind: str, package: str, version: str, file: str
) -> None:
    module = load("sounds/recordings.py")
    stem = module.archive_stem({"kind": kind, "package": package, "version": version})
    assert file.startswith(stem)
