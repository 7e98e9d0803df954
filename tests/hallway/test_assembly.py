"""Bundles from JSON, and components built from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anybind import bundles
from anybind.assembly import Assembly, has_library
from anybind.contracts import Build, EncoderSpec, ExpertSpec, ModelSpec
from anybind.errors import MissingExtra, MissingWeights, UserError
from anybind.plugins import PluginInfo, Registry

BASE: dict[str, Any] = {
    "name": "mine", "space": "s", "weights": {"w": {"ref": "file:w.bin"}},
    "model": {"use": "m", "weights": {"decoder": "w"}, "options": {"a": 1}}, "encoders": [],
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def go(**changes: Any) -> Path:
        path = tmp_path / "bundle.json"
        path.write_text(json.dumps(BASE | changes))
        return path

    return go


class Thing:
    def __init__(self, build: Build) -> None:
        self.build = build
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def offers() -> Registry:
    found = Registry()
    found.models["m"] = ModelSpec("m", "", Thing, weights=("decoder",))
    found.models["two"] = ModelSpec("two", "", Thing, weights=("decoder", "other"))
    found.models["far"] = ModelSpec("far", "", Thing, needs=("no_such_lib.sub",), extra="speech")
    found.experts["e"] = ExpertSpec("e", "", Thing)
    found.encoders["x"] = EncoderSpec("x", "", Thing, needs=("json",))
    return found


# ---------------------------------------------------------------- bundles


def test_a_bundle_by_file_and_by_folder(write: Callable[..., Path]) -> None:
    path = write()
    for given in (path, path.parent, str(path.parent)):
        found = bundles.load(given)
        assert found.name == "mine" and found.base == path.parent.resolve()
        assert bundles.load(found.reference).base == found.base


def test_the_shipped_bundles_load_by_name() -> None:
    assert "nano" in bundles.names()
    for name in bundles.names():
        found = bundles.load(name)
        assert found.reference == name
        for weight in found.weights.values():
            if weight.ref.startswith("own:"):
                assert weight.hint and weight.bytes >= 0
            else:
                assert weight.ref.startswith("file:") or len(weight.sha256) == 64


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoders": [{"use": "x", "weights": {"model": "nothing"}}]}, "x.model.*'nothing'"),
        ({"nouns": {"use": "n", "weights": {"tagger": "nothing"}}}, "n.tagger.*'nothing'"),
        ({"tool_weights": {"sam": "nothing"}}, "tool_weights.sam.*'nothing'"),
        ({"tool_chooser": {"matcher": "nothing"}}, "encoder, matcher, tokenizer, not matcher"),
        ({"tool_chooser": {}}, "not nothing"),
        (
            {"tool_chooser": dict.fromkeys(("matcher", "encoder", "tokenizer"), "none")},
            "tool_chooser.matcher.*'none'",
        ),
        ({"tool_chooser": "matcher"}, "tool_chooser"),
        ({"cache": {"file": "nothing"}}, "cache.file.*'nothing'"),
        ({"cache": {}}, "cache.file"),
        ({"unknown_key": 1}, "unknown_key"),
        ({"model": {"use": "m", "wieghts": {}}}, "wieghts"),
        ({"model": None}, "model"),
        ({"weights": {"w": {"ref": "file:a", "sha265": ""}}}, "sha265"),
    ],
)
def test_a_wrong_bundle_says_where(
    write: Callable[..., Path], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        bundles.load(write(**changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_a_file_that_is_no_bundle(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"bundle\.json"):
        bundles.load(path)


@pytest.mark.parametrize("name", ["nobody", "../nano", "", "nano/", "a\0b"])
def test_a_bundle_that_is_not_there_lists_those_that_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nano"):
        bundles.load(name)


# ---------------------------------------------------------------- assembly


def test_a_component_is_built_once_with_its_weights(
    write: Callable[..., Path], offers: Registry
) -> None:
    path = write()
    (path.parent / "w.bin").write_bytes(b"x")
    assembly = Assembly(path, offers=offers)
    part = object()
    one = assembly.build("models", assembly.bundle.model, {"image_encoder": part})
    assert one is assembly.build("models", assembly.bundle.model)
    assert one.build.weights == {"decoder": (path.parent / "w.bin").resolve()}
    assert one.build.options == {"a": 1} and one.build.parts["image_encoder"] is part
    assembly.close()
    assert one.closed == 1
    assert assembly.build("models", assembly.bundle.model) is not one


def test_missing_weights_and_roles_are_said(write: Callable[..., Path], offers: Registry) -> None:
    assembly = Assembly(write(), offers=offers)
    assert set(assembly.missing_weights()) == {"w"}
    assert "file:w.bin" in assembly.why_not("models", assembly.bundle.model)
    with pytest.raises(MissingWeights, match=r"w\.bin"):
        assembly.build("models", assembly.bundle.model)
    with pytest.raises(UserError, match="no weights 'nothing'"):
        assembly.weight("nothing")
    other = Assembly(write(model={"use": "two", "weights": {"decoder": "w"}}), offers=offers)
    with pytest.raises(UserError, match="two: other"):
        other.build("models", other.bundle.model)


def test_missing_libraries_and_names_are_said(write: Callable[..., Path], offers: Registry) -> None:
    assembly = Assembly(write(model={"use": "far"}), offers=offers)
    with pytest.raises(MissingExtra, match=r'far needs no_such_lib\.sub.*"anybind\[speech\]"'):
        assembly.build("models", assembly.bundle.model)
    assert "anybind[speech]" in assembly.why_not("models", assembly.bundle.model)
    offers.plugins.append(PluginInfo("p", "p:q", "dist", "1", error="boom"))
    unknown = Assembly(write(model={"use": "nobody"}), offers=offers)
    with pytest.raises(UserError, match="'nobody'; on offer: far, m, two.*'p'"):
        unknown.build("models", unknown.bundle.model)


def test_has_library_imports_nothing() -> None:
    assert has_library("json") and not has_library("no_such_lib")
    assert not has_library("no_such_lib.sub") and not has_library("json.no_such")


# ---------------------------------------------------------------- plugins


def test_plugins_of_two_distributions_may_share_a_name() -> None:
    from anybind.hooks import hookimpl

    found = Registry()
    for dist in ("one", "two"):
        spec = ExpertSpec(dist, "", Thing)
        plugin = SimpleNamespace(register_experts=hookimpl(lambda spec=spec: [spec]))
        found.add_plugin(plugin, PluginInfo("main", "x:y", dist, "1"))
    assert [p.error for p in found.plugins] == ["", ""]
    assert set(found.experts) == {"one", "two"}


def test_a_broken_plugin_leaves_only_its_report() -> None:
    from anybind.hooks import hookimpl

    def explode() -> Any:
        raise RuntimeError("boom")

    found = Registry()
    found.experts["taken"] = ExpertSpec("taken", "", Thing)
    good = ExpertSpec("good", "", Thing)
    for impl in (
        explode, lambda: [good, "no spec"], lambda: [good, good], lambda: 3,
        lambda: [good, ExpertSpec("taken", "", Thing)],
    ):  # fmt: skip
        plugin = SimpleNamespace(register_experts=hookimpl(impl))
        found.add_plugin(plugin, PluginInfo("p", "x:y", "d", "1"))
    assert len(found.plugins) == 5 and all(p.error for p in found.plugins)
    assert set(found.experts) == {"taken"}
