"""Caches of pictures: folders, webdatasets, interrupted builds, hostile archives, the command."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from anybind.content import AnyPart
from anybind.contracts import Encoding
from anybind.core_model.retrieval import RetrievalCache, build_from_pictures
from anybind.core_model.retrieval.build import Options
from anybind.core_model.retrieval.folder import read_meta
from anybind.core_model.retrieval.pictures import PictureSource
from anybind.errors import AnybindError, ModelError, UserError
from anybind.media import Caps


class Eye:
    """An encoder whose rows are the colours of a 2 x 2 thumbnail; counts, and may stop working."""

    modalities = frozenset({"image"})
    space, dim = "eye", 12

    def __init__(self, lives: int = 10**9) -> None:
        self.seen = 0
        self.lives = lives

    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        if any(min(p.data.size) < 2 for p in parts):
            raise UserError("too small")
        if self.seen + len(parts) > self.lives:
            raise KeyboardInterrupt
        self.seen += len(parts)
        raw = np.stack([np.asarray(p.data.resize((2, 2)), np.float32).ravel() - 90 for p in parts])
        return Encoding(raw / np.linalg.norm(raw, axis=1, keepdims=True), raw)

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path_factory.mktemp("home")))


def picture(seed: int, size: tuple[int, int] = (4, 4)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    sink = io.BytesIO()
    pil.fromarray(noise).save(sink, "PNG")
    return sink.getvalue()


def folder_of(path: Path, n: int = 20) -> Path:
    for i in range(n):
        place = path / f"part{i % 3}" / f"p{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(i))
    return path


def shard(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_with_bad_files(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pictures")
    (source / "notes.txt").write_text("no picture")
    (source / "cut.png").write_bytes(picture(1)[:40])
    (source / "empty.jpg").write_bytes(b"")
    (source / "tiny.png").write_bytes(picture(2, (1, 1)))  # decodes, but the encoder refuses
    (source / ".hidden.png").write_bytes(picture(3))
    said: list[float] = []
    report = build_from_pictures(
        source, tmp_path / "cache", Eye(), batch=4, progress=lambda _, done: said.append(done)
    )
    assert {k for k, _ in report.bad} == {"cut.png", "empty.jpg", "tiny.png"}
    assert report.meta.source["bad"] == 3 and report.meta.count == 20
    assert said and all(0 <= s <= 1 for s in said)
    cache = RetrievalCache.load(tmp_path / "cache")
    assert cache.space == "eye" and cache.labels[0] == "part0/p00"
    with pil.open(source / "part1" / "p04.png") as file:
        from anybind.content import Image

        query = Eye().encode([Image.of(file.convert("RGB"))]).unit
    assert cache.search(query, 1)[0][0].label == "part1/p04"
    with pytest.raises(UserError, match="more than the 2"):
        build_from_pictures(source, tmp_path / "strict", Eye(), bad_limit=2)
    again = build_from_pictures(source, tmp_path / "strict", Eye(), bad_limit=3)
    assert again.meta.count == 20


def test_a_webdataset_with_captions(tmp_path: Path) -> None:
    members = [
        ("000.png", picture(0)), ("000.txt", b"a  red\nball"),
        ("dir/001.seg.png", picture(1)), ("dir/001.json", b"{}"),
        ("002.txt", b"no picture here"), ("003.png", b"broken"), ("../../etc/004.png", picture(4)),
    ]  # fmt: skip
    (tmp_path / "set").mkdir()
    shard(tmp_path / "set" / "a.tar", members)
    shard(tmp_path / "set" / "b.tar", [("000.jpg", picture(9))])
    report = build_from_pictures(tmp_path / "set", tmp_path / "cache", Eye())
    labels = list(RetrievalCache.load(tmp_path / "cache").labels)
    assert labels == ["a red ball", "dir/001", "../../etc/004", "000"]
    assert [k for k, _ in report.bad] == ["a.tar/003"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "set"]  # nothing was unpacked
    assert read_meta(tmp_path / "cache").source["kind"] == "webdataset"
    one = build_from_pictures(tmp_path / "set" / "b.tar", tmp_path / "one", Eye())
    assert one.meta.count == 1


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
@pytest.mark.parametrize("harm", ["none", "rows", "lines"])
def test_an_interrupted_build_goes_on(kind: str, harm: str, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pictures")
    if kind == "webdataset":
        members = [(f"{p.stem}.png", p.read_bytes()) for p in sorted(source.rglob("*.png"))]
        source = shard(tmp_path / "s.tar", members)
    out = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        build_from_pictures(source, out, Eye(lives=11), batch=4)
    with pytest.raises(ModelError, match="not finished"):
        RetrievalCache.load(out)
    building = out / "building"
    kept = 8
    if harm == "rows":  # the disk lost the end of the rows
        with (building / "rows.f32").open("r+b") as file:
            file.truncate(5 * 48 + 7)
        kept = 5
    if harm == "lines":  # half a line was written
        with (building / "items.jsonl").open("ab") as file:
            file.write(b'["half')
    eye = Eye()
    report = build_from_pictures(source, out, eye, batch=4)
    assert (report.resumed, eye.seen, report.meta.count) == (kept, 20 - kept, 20)
    whole = build_from_pictures(source, tmp_path / "whole", Eye())
    assert whole.meta.source == report.meta.source
    np.testing.assert_allclose(
        RetrievalCache.load(out).rows, RetrievalCache.load(tmp_path / "whole").rows, atol=1e-6
    )
    assert list(RetrievalCache.load(out).labels) == list(
        RetrievalCache.load(tmp_path / "whole").labels
    )


def test_an_unfinished_build_of_something_else_is_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pictures")
    with pytest.raises(KeyboardInterrupt):
        build_from_pictures(source, tmp_path / "cache", Eye(lives=11), batch=4)
    (source / "more.png").write_bytes(picture(77))
    with pytest.raises(UserError, match="another source"):
        build_from_pictures(source, tmp_path / "cache", Eye())


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.tar.gz").write_bytes(b"")
    for name, says in (("empty", "no files"), ("x.tar.gz", "unpack"), ("nowhere", "no ")):
        with pytest.raises(UserError, match=says):
            build_from_pictures(tmp_path / name, tmp_path / "o", Eye())
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    with pytest.raises(UserError, match="no picture"):
        build_from_pictures(tmp_path / "texts", tmp_path / "o", Eye())


def test_links_devices_and_giants_in_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(5))
    path = tmp_path / "h.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE),
                           ("c.png", tarfile.CHRTYPE), ("d.png", tarfile.FIFOTYPE)):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
        info = tarfile.TarInfo("e.png")
        info.size = len(picture(6))
        tar.addfile(info, io.BytesIO(picture(6)))
    assert [p.key for p in PictureSource.of(path).pictures()] == ["h.tar/e"]
    info = tarfile.TarInfo("big.png")
    info.size = 1 << 40
    path.write_bytes(info.tobuf() + b"x" * 512)  # announces a terabyte and holds nothing
    (giant,) = PictureSource.of(path).pictures()
    with pytest.raises(UserError, match="unexpected end"):
        giant.open()
    monkeypatch.setattr("anybind.core_model.retrieval.pictures.CAPS", Caps(file_bytes=50))
    shard(path, [("big.png", picture(6)), ("small.png", b"x")])
    big, small = PictureSource.of(path).pictures()
    with pytest.raises(UserError, match="over"):
        big.open()
    with pytest.raises(UserError, match="not a readable picture"):
        small.open()
    monkeypatch.undo()
    info.size = 1 << 20
    path.write_bytes(info.tobuf() + b"x" * 512)
    (cut,) = PictureSource.of(path).pictures()
    with pytest.raises(UserError, match="not a sound tar"):
        cut.open()


def test_fuzzed_tars_give_our_error_or_pass(tmp_path: Path) -> None:
    rng, path = random.Random(3), tmp_path / "f.tar"
    shard(path, [(f"{i}.png", picture(i)) for i in range(4)] + [("n" * 150 + ".txt", b"x")])
    data, refused = path.read_bytes(), 0
    for _ in range(1500):
        made = bytearray(data)
        for _ in range(rng.choice((1, 2, 6))):
            block = 512 * rng.randrange(len(data) // 512)
            made[block + rng.randrange(512)] = rng.choice((0, 48, 55, 128, 255, rng.randrange(256)))
        path.write_bytes(bytes(made[: rng.choice((len(made), rng.randrange(512, len(made))))]))
        try:
            for found in PictureSource.of(path).pictures():
                found.open()
        except AnybindError:
            refused += 1
    assert 100 < refused < 1500


def test_two_builds_at_once(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pictures")

    class Second(Eye):
        def encode(self, parts: Sequence[AnyPart]) -> Encoding:
            with pytest.raises(UserError, match="another process"):
                build_from_pictures(source, tmp_path / "cache", Eye())
            return super().encode(parts)

    assert build_from_pictures(source, tmp_path / "cache", Second()).meta.count == 20


def test_a_lossy_kind_of_pictures_keeps_their_rows(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "pictures")
    report = build_from_pictures(source, tmp_path / "c", Eye(), options=Options(kind="sq8"))
    assert report.rows_bytes > 20 * 48
    rows = RetrievalCache.load(tmp_path / "c").rows
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], examples: Path,
                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Through nano's own eye: build, describe, search, and a bundle that names the folder."""
    from typer.testing import CliRunner

    from anybind.agent.cli.app import app
    from anybind.bundles import FOLDER

    monkeypatch.undo()  # nano's weights lie in the real home
    source = tmp_path / "pictures"
    source.mkdir()
    for name in ("cat.png", "dog.png", "parrot.png", "piano.png"):
        (source / name).write_bytes((examples / name).read_bytes()) if (
            examples / name
        ).exists() else None
    runner = CliRunner()

    def run(*words: str) -> Any:
        done = runner.invoke(app, ["cache", *words, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    out = str(tmp_path / "cache")
    made = run("build", str(source), "--out", out, "--memory", "64M")
    assert made["count"] == len(list(source.iterdir())) and made["space"] == "minilm-l6-v2"
    assert run("info", out)["plan"]["kind"] == "flat"
    (text, seen) = run("search", out, "a dog", str(source / "cat.png"), "--k", "2")
    assert text["hits"][0]["label"] == "dog"
    assert (seen["hits"][0]["label"], seen["hits"][0]["similarity"]) == ("cat", 1.0)
    wrong = runner.invoke(app, ["cache", "build", str(source), "--out", out])
    assert isinstance(wrong.exception, UserError)
    wrong = runner.invoke(app, ["cache", "build", str(source), "--out", "x", "--memory", "much"])
    assert isinstance(wrong.exception, UserError)

    bundle = json.loads((FOLDER / "nano" / "bundle.json").read_text())
    for weight in bundle["weights"].values():
        if weight["ref"].startswith("file:"):
            weight["ref"] = f"file:{FOLDER / 'nano' / weight['ref'].removeprefix('file:')}"
    bundle["weights"]["pictures"] = {"ref": "file:cache"}
    bundle["cache"] = {"file": "pictures", "top_k": 2, "kinds": ["image"]}
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    from anybind.assembly import Assembly

    assembly = Assembly(tmp_path / "bundle.json")
    cache = RetrievalCache.load(assembly.weight("pictures"), bundle_space=assembly.bundle.space)
    assert len(cache) == made["count"] and cache.space == assembly.bundle.space
