"""Conversations with tools: right by the agent's own parser, varied, and free of held-out tools."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from anybind.agent import protocol
from anybind.core_model.training.data.own import own
from anybind.core_model.training.data.records import Reading
from anybind.core_model.training.nano_data.writing import as_json
from anybind.core_model.training.samples import spoken
from anybind.core_model.training.toolchat import SHARES, Protocol, ToolChat, held_out
from anybind.errors import UserError
from anybind.plugins import registry

ROOT = Path(__file__).parents[2]
COUNT = 3000


@pytest.fixture(scope="module")
def layout():
    return Protocol()


@pytest.fixture(scope="module")
def made(layout):
    chat = ToolChat(layout, seed=3)
    return [chat[i] for i in range(COUNT)]


def test_the_shipped_file_is_what_the_agent_says(layout):
    script = runpy.run_path(str(ROOT / "scripts" / "tool_protocol.py"))
    shipped = json.loads((ROOT / "core_model/training/tool_protocol.json").read_text("utf-8"))
    assert shipped == script["describe"](), "run scripts/tool_protocol.py again"


def test_prompts_are_those_of_the_agent(layout, made):
    tools = registry().tools
    for x in made[:200]:
        ours = layout.prompt(x.tools, x.history, x.request)
        assert ours == protocol.prompt([tools[t.name] for t in x.tools], x.history, x.request)


def test_traces_are_read_back_as_the_calls_they_hold(layout, made):
    tools = registry().tools
    for x in made:
        offered = [tools[t.name] for t in x.tools]
        rest = x.trace(layout.use)
        for step in x.steps:
            action = protocol.parse(rest, offered)
            assert isinstance(action, protocol.Action), rest
            tool, args = protocol.resolve(action, offered)
            assert (tool.name, args) == (step.tool, step.args)
            said = protocol.call_text(tool, args) + protocol.observation(step.observation)
            assert rest.startswith(said)
            rest = rest[len(said) :]
        assert protocol.parse(rest, offered) == protocol.Answer(x.answer)


def test_only_what_the_model_says_is_learned(layout, made):
    for x in made[:300]:
        sample = x.sample(layout)
        trace = sample.messages[1].content
        learned = "".join(trace[a:b] for a, b in spoken(trace, 1, sample.muted))
        # A result comes back in what follows only as the model's own words.
        assert len(learned) == len(trace) - sum(len(s.observation) + 2 for s in x.steps)
        assert learned.count("Observation:") == len(x.steps)
        for step in x.steps:
            assert f"Observation: {step.observation}" not in learned


def test_no_held_out_tool_is_named_listed_or_used(layout, made):
    by_name = {t.name: t for t in layout.tools}
    assert len(held_out()) == 8 and held_out() <= set(by_name)
    for x in made:
        whole = layout.prompt(x.tools, x.history, x.request) + x.trace(layout.use)
        for name in held_out():
            assert name not in whole
            assert by_name[name].description not in whole
    chat = ToolChat(layout)
    assert set(chat.tools) == set(by_name) - held_out()
    assert not set(chat.requests) & held_out()


def test_arguments_stand_in_the_request_and_files_are_known(made):
    for x in made:
        known = set(re.findall(r"[\w/]+\.png", " ".join([*x.history, x.request])))
        for step in x.steps:
            for arg in step.args:
                if arg.endswith(".png"):
                    assert arg in known, (x.key, arg)
                else:
                    assert arg in x.request, (x.key, arg)
            known |= set(re.findall(r"[\w/]+\.png", step.observation))
        assert set(re.findall(r"[\w/]+\.png", x.answer)) <= known
        if x.kind in ("none", "missing"):
            assert not x.steps


def test_answers_rest_on_what_was_observed(made):
    for x in made:
        if x.kind == "single" and ".png" not in x.steps[-1].observation:
            assert x.answer == x.steps[-1].observation
        elif x.kind in ("single", "chain", "follow"):
            files = re.findall(r"[\w/]+\.png", x.steps[-1].observation)
            assert all(f in x.answer for f in files)
        if x.kind == "missing":
            assert "tool" in x.answer


def test_variety_and_shares(layout, made):
    chat = ToolChat(layout)
    for name, ways in chat.requests.items():
        assert len(set(ways["do"]) | set(ways["say"])) >= 12, name
    kinds = Counter(x.kind for x in made)
    for kind, share in SHARES.items():
        assert abs(kinds[kind] / COUNT - share) < 0.03
    used = Counter(s.tool for x in made for s in x.steps)
    assert set(used) == set(chat.tools) and min(used.values()) >= 40
    assert len({x.request for x in made if x.steps}) > 0.97 * sum(1 for x in made if x.steps)
    sizes = Counter(len(x.tools) for x in made)
    assert {2, 3, 4, 5, 6, 10} <= set(sizes)
    places = defaultdict(Counter)
    for x in made:
        if x.kind == "single" and len(x.tools) == 4:
            names = [t.name for t in x.tools]
            places[4][names.index(x.steps[0].tool)] += 1
    assert min(places[4].values()) > 0.12 * sum(places[4].values())  # the right one is anywhere


def test_requests_of_the_benchmark_are_not_among_them(made):
    rows = (ROOT / "benchmarks" / "data" / "tool_requests.jsonl").read_text("utf-8").splitlines()
    asked = {re.sub(r"\W+", " ", json.loads(r)["text"].lower()).strip() for r in rows}
    ours = {re.sub(r"\W+", " ", x.request.lower()).strip() for x in made if x.steps}
    assert not asked & ours


def test_the_same_seed_gives_the_same(layout):
    a, b, c = ToolChat(layout, seed=1), ToolChat(layout, seed=1), ToolChat(layout, seed=2)
    assert [a[i] for i in range(20)] == [b[i] for i in range(20)] != [c[i] for i in range(20)]


def test_requests_are_written_as_people_write(made):
    doubled = re.compile(r"\b(the|a|an|of|in|it) (the|a|an)\b|\ba [aeio]\w|\?\.|\.\.|\{|\}|  ")
    for x in made:
        for text in (x.request, x.answer):
            plain = re.sub(r"[\w/]+\.png", "FILE", text)
            bad = [
                m
                for m in doubled.finditer(plain)
                if m[0]
                not in ("of the", "in the", "of a", "in a", "of an", "in an", "it the", "a one")
            ]
            assert not [m for m in bad if m[1] not in ("of", "in", "it")], text


def test_jsonl_is_read_by_our_reader(layout, made, tmp_path):
    for x in made[:100]:
        sample = x.sample(layout)
        record = own(json.dumps(as_json(sample)).encode(), Reading(tmp_path, tmp_path))
        # To the last character: a prompt ends with a line end.
        wanted = [(m.role, m.content) for m in sample.messages]
        assert [(m.role, m.content) for m in record.messages] == wanted
        assert record.muted == sample.muted


def test_a_tool_without_requests_is_told(layout):
    with pytest.raises(UserError, match="Crop Image"):
        ToolChat(layout, without=held_out() - {"Crop Image"})
    with pytest.raises(UserError, match="scripts/tool_protocol.py"):
        Protocol(ROOT / "core_model/training/heldout_tools.json")


def test_records_of_gpt4tools_hold_the_whole_prompt(layout, made):
    for x in made[:50]:
        row = x.record(layout)
        assert x.request in row["instruction"] and row["output"].endswith(f"AI: {x.answer}")
        assert row["Action"] == [s.tool for s in x.steps]
