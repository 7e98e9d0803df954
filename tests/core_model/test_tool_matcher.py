"""The learned match of requests and tools: the file that ships, and what training and running share."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import anybind.bundles
from anybind.core_model.tool_matcher import (
    CLAUSES,
    FORMAT,
    ToolMatcher,
    asked,
    load_tool_matcher,
    tool_texts,
)
from anybind.core_model.training.tool_choice import Config, Matcher
from anybind.core_model.training.tool_choice_data import (
    dress,
    expand,
    read_tools,
    requests,
    talk,
)
from anybind.core_model.training.toolchat import Protocol, held_out
from anybind.errors import ModelError

SHIPPED = Path(anybind.bundles.__file__).parent / "nano" / "tool_matcher.safetensors"


def test_what_of_a_tool_is_looked_at() -> None:
    texts = tool_texts("Mirror_It", "Flip a picture: left and right change places. Or turn, spin.")
    assert texts[0].startswith("Mirror_It: Flip a picture")
    assert texts[1:] == [
        "Mirror It", "Flip a picture", "left", "right change places", "Or turn", "spin",
    ]  # fmt: skip
    assert (
        len(tool_texts("T", "a one, b two, c three, d four, e five, f six, g seven")) == 2 + CLAUSES
    )
    assert len(tool_texts("T", "")) == 3  # a stranger's tool may say nothing of itself
    assert asked("Mirror image/1a2b3c4d.png now") == "Mirror the image now"


def test_training_and_running_compute_the_same(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = Matcher(16, replace(Config(), hidden=4, none_hidden=3))
    for p in model.parameters():
        p.data.normal_()
    path = tmp_path / "m.safetensors"
    kept = {n: t.numpy() for n, t in model.tensors().items()}
    save_file(kept, path, {"format": FORMAT, "config": json.dumps({"space": "s"})})
    matcher = load_tool_matcher(path)
    assert matcher.space == "s"
    for p, kept_p in zip(model.parameters(), model.tensors().values(), strict=True):
        p.data = kept_p.float()
    rows = torch.nn.functional.normalize(torch.randn(2, 2 + CLAUSES, 16), dim=-1)
    there = torch.ones(2, 2 + CLAUSES, dtype=torch.bool)
    there[1, 4:] = False
    ask = torch.nn.functional.normalize(torch.randn(1, 16), dim=-1)
    with torch.inference_mode():
        want = model(ask, rows, there, torch.ones(1, 2, dtype=torch.bool))[0]
    none, tools = matcher.scores(ask[0].numpy(), [rows[0].numpy(), rows[1, :4].numpy()])
    np.testing.assert_allclose([none, *tools], want.numpy(), atol=1e-3)


@pytest.mark.parametrize("fault", ["format", "missing", "shape", "fit", "no file"])
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, fault: str) -> None:
    tensors = load_file(SHIPPED)
    about = {"format": FORMAT, "config": json.dumps({"space": "s"})}
    said = {"format": "no tool matcher", "missing": "lacks", "shape": "has the shape",
            "fit": "don't fit", "no file": "can't be read"}  # fmt: skip
    if fault == "format":
        about["format"] = "other"
    elif fault == "missing":
        del tensors["up"]
    elif fault == "shape":
        tensors["weights"] = tensors["weights"][:3]
    elif fault == "fit":
        tensors["up"] = tensors["up"][:-1]
    path = tmp_path / "m.safetensors"
    if fault != "no file":
        save_file(tensors, path, about)
    with pytest.raises(ModelError, match=said[fault]):
        load_tool_matcher(path)


def test_the_shipped_file_is_small_and_of_its_space() -> None:
    matcher = load_tool_matcher(SHIPPED)
    assert matcher.space == "minilm-l6-v2"
    assert SHIPPED.stat().st_size < 1_000_000
    assert isinstance(matcher, ToolMatcher)


def test_held_out_tools_are_in_no_list() -> None:
    tools = read_tools(Protocol())
    assert not held_out() & set(tools)
    assert {t.name for t in Protocol().tools} - held_out() == {n for n, w in tools.items() if w.own}
    assert all(w.asks and w.descriptions for w in tools.values())


def test_requests_are_the_same_for_a_seed_and_have_no_slot_left() -> None:
    tools = list(read_tools(Protocol()).values())
    made = requests(tools, 2, 0) + talk(2, 0)
    assert made == requests(tools, 2, 0) + talk(2, 0)
    assert made != requests(tools, 2, 1) + talk(2, 1)
    assert not [a.text for a in made if set(a.text) & set("{}|")]
    assert {a.tool for a in made} == {t.name for t in tools} | {""}


def test_politeness_goes_round_commands_only() -> None:
    texts = {dress("erase the dog", "erase the {obj}", random.Random(i)) for i in range(60)}
    assert any(t.lower().startswith("please erase") for t in texts) and len(texts) > 15
    asked_for = {dress("what is it?", "what is it?", random.Random(i)) for i in range(60)}
    assert all("please" not in t.lower() for t in asked_for)
    assert expand("(a|b) {city}", random.Random(0)).split()[0] in ("a", "b", "an")
