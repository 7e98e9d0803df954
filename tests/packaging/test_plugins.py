"""Plugins: entry points are found, a broken one is reported and harms nobody."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from anybind.errors import PluginError
from anybind.plugins import PluginInfo, Registry, registry

BROKEN = Path(__file__).resolve().parents[1] / "plugins" / "broken"
INFO = PluginInfo("bad", "bad_module", "bad-plugin", "1.0")


def broken_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BROKEN / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fresh() -> Registry:
    """A registry that holds the built-in tools."""
    from anybind.tools import plugin

    found = Registry()
    found.add_plugin(plugin, PluginInfo("tools", "anybind.tools.plugin", "anybind", "0"))
    assert not found.plugins[0].error
    return found


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """An installed distribution with several entry points, most of them broken."""
    meta = tmp_path / "broken_plugins-2.5.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugins\nVersion: 2.5\n")
    points = {
        "absent": "a_module_that_is_not_there",
        "attribute": "unknown_hook:nothing_here",
        "clash": "name_clash",
        "hook": "unknown_hook",
        "raises": "raises_on_import",
        "type": "wrong_type",
    }
    lines = [f"{name} = {value}" for name, value in points.items()]
    (meta / "entry_points.txt").write_text("\n".join(["[anybind.plugins]", *lines]) + "\n")
    return tmp_path


def command(
    *arguments: str, path: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    full = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(BROKEN)])} | dict(env or {})
    code = "from anybind.agent.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env=full, cwd=path, check=False, timeout=120,
    )  # fmt: skip


def test_the_rooms_and_the_example_are_found() -> None:
    by_name = {p.name: p for p in registry().plugins}
    for name in ("core_model", "experts", "generators", "tools", "example"):
        assert by_name[name].error == ""
        assert by_name[name].offers
    assert by_name["example"].distribution == "anybind-example"
    assert by_name["example"].offers == ("tool:Mirror The Image", "expert:colour-names")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong_type", "register_tools gave str, not Tool"),
        ("name_clash", "'Edge Detection On Image' is registered already"),
        ("unknown_hook", "register_teapots"),
    ],
)
def test_a_broken_plugin_leaves_only_its_report(name: str, message: str) -> None:
    found = fresh()
    before = dict(found.tools)
    found.add_plugin(broken_module(name), INFO)
    assert found.tools == before
    assert message in found.plugins[-1].error
    assert found.plugins[-1].distribution == "bad-plugin"
    assert not found.manager.has_plugin("bad")


def test_strict_makes_a_broken_plugin_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYBIND_STRICT", "1")
    with pytest.raises(PluginError, match=r"'bad' \(bad_module\) of bad-plugin 1.0"):
        fresh().add_plugin(broken_module("wrong_type"), INFO)


def test_broken_entry_points_are_listed_and_stop_nothing(distribution: Path) -> None:
    done = command("plugins", "--json", path=distribution)
    assert done.returncode == 0, done.stderr
    rows = {r["name"]: r for r in json.loads(done.stdout)}
    said = {
        "absent": "No module named 'a_module_that_is_not_there'",
        "attribute": "nothing_here",
        "clash": "is registered already",
        "hook": "register_teapots",
        "raises": "this plugin is out of order",
        "type": "not Tool",
    }
    for name, message in said.items():
        assert message in rows[name]["error"]
        assert (rows[name]["distribution"], rows[name]["version"]) == ("broken-plugins", "2.5")
        assert rows[name]["offers"] == []
    assert rows["tools"]["error"] is None
    assert "tool:Edge Detection On Image" in rows["tools"]["offers"]


def test_a_broken_command_stops_no_other_command(distribution: Path, examples: Path) -> None:
    done = command("colours", str(examples / "rocket.jpg"), path=distribution)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_loading_can_be_narrowed(distribution: Path) -> None:
    done = command("plugins", "--json", path=distribution, env={"ANYBIND_PLUGINS": "tools, raises"})
    assert [r["name"] for r in json.loads(done.stdout)] == ["tools", "raises"]
    done = command("plugins", "--json", path=distribution, env={"ANYBIND_PLUGINS": ""})
    assert json.loads(done.stdout) == []


def test_strict_names_the_culprit(distribution: Path) -> None:
    done = command("plugins", path=distribution, env={"ANYBIND_STRICT": "1"})
    assert done.returncode == 2
    assert "broken-plugins 2.5" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_of_plugins_run(examples: Path, tmp_path: Path) -> None:
    done = command("colours", str(examples / "rocket.jpg"), path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.strip().split(", ")) <= {
        "black", "grey", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink",
        "brown",
    }  # fmt: skip
    done = command("colours", str(examples / "bell.wav"), path=tmp_path)
    assert done.returncode == 2
    assert "UserError" in done.stderr


# ---------------------------------------------------------------- in the loop


def test_the_loop_calls_the_tool_of_a_plugin(
    runtime: Any, examples: Path, session_folder: Path
) -> None:
    import numpy as np
    from PIL import Image, ImageOps

    from anybind.agent import Session

    with Session(runtime, folder=session_folder) as session:
        reply = session.ask("Mirror the image, flip it horizontally.", examples / "dog.png")
    assert [(c.tool, c.ok) for c in reply.tool_calls] == [("Mirror The Image", True)]
    (made,) = [a for a in reply.artifacts if a.made_by == "tool:Mirror The Image"]
    with Image.open(examples / "dog.png") as original, Image.open(made.path) as mirrored:
        wanted = np.asarray(ImageOps.mirror(original.convert("RGB")))
        assert np.array_equal(np.asarray(mirrored.convert("RGB")), wanted)


def test_the_loop_asks_the_expert_of_a_plugin(
    nano: Any, examples: Path, session_folder: Path
) -> None:
    from anybind.agent import Runtime, Session
    from anybind.assembly import Assembly
    from anybind.bundles import Component

    expert = Component(use="colour-names", options={"at_least": 0.1})
    bundle = nano.bundle.model_copy(update={"experts": [*nano.bundle.experts, expert]})
    runtime = Runtime(Assembly(bundle))
    try:
        with Session(runtime, folder=session_folder) as session:
            reply = session.ask("What is in the picture?", examples / "dog.png", tools=False)
    finally:
        runtime.close()
    notes = [n.text for n in reply.notes if n.expert == "colour-names"]
    assert len(notes) == 1 and notes[0].startswith("main colours: ")
